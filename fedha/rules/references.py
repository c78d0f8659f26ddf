"""References that are moving averages over the rounds, as FedIIR's mean gradient."""

from collections.abc import Mapping

from fedha.reference import moving_average
from fedha.rules.rule import Named, Rule


def moving_references(decays: Mapping[str, float]) -> Rule:
    """Clients are told the moving average in the place of the round's mean; it starts at zero.

    The server's tensors are the averages, by statistic.

    Args:
        decays: Of each statistic that is averaged.

    Source:
        Guo, Guo, Cao, Wu, Chang, "Out-of-distribution generalization of federated learning via implicit invariant
        relationships" (ICML 2023), for the gradient.
    """

    def refer(state: Named, references: Named) -> tuple[Named, Named]:
        averages = {
            name: moving_average(state.get(name), references[name], decay)
            for name, decay in decays.items()
            if name in references
        }
        return {**references, **averages}, {**state, **averages}

    return Rule("reference_average", refer=refer, aggregate=None)
