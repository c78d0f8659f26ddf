"""What a run logs of its sources on its way: how far their heads' derivatives are apart, beside chance.

The server's process looks at the sources' examples, so this is for simulations; nothing is drawn of the run's chance.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from fedha.config import Config
from fedha.data.domain import Domain, DomainSet
from fedha.diagnosis.sources import apart
from fedha.diagnosis.subject import Part, check_config, learned_head, sampled
from fedha.errors import FedhaError
from fedha.features import Keeping, behind_trunk
from fedha.models.split import SplitModel
from fedha.models.state import state_of

MOST = 20  # sources: 190 pairs
_KEY = "evaluation.diagnose_every"

Watch = Callable[[Mapping[str, Tensor]], dict[str, float]]  # the global model's state, to numbers by name


def watch(model: SplitModel, config: Config, domains: DomainSet | None) -> Watch:
    """A function of the global model's state: `fedha.diagnosis.sources.apart` of the run's sources.

    Args:
        model: The server's network.
        config: Of the run.
        domains: The run's; None in a deployment.

    Raises:
        FedhaError: Somebody's examples must not be looked at, the head has no closed form, or sources are too few or
            too many to be compared.
    """
    sources = _sources(config, domains)
    learned_head(model)
    parts: list[Part] = []

    def watched(state: Mapping[str, Tensor]) -> dict[str, float]:
        if not parts:
            for name, value in state_of(model).constants.items():
                value.copy_(state.get(name, value))
            keeping = Keeping.of(config.model.features)
            parts.extend(Part(one.name, *behind_trunk(model, one.train, keeping, one.name)) for one in sources)
        with sampled(parts, state, domains.classes if domains else 0, lambda *_: None) as samples:
            return apart(samples, config.seed[0]).row()

    return watched


def _sources(config: Config, domains: DomainSet | None) -> Sequence[Domain]:
    if domains is None:
        raise FedhaError(
            f"{_KEY} looks at the sources' examples, which stay at their sites here, and is for simulations; leave it "
            "out (null)"
        )
    check_config(config)
    if config.privacy.secure_aggregation:
        raise FedhaError(
            f"{_KEY} compares what single clients answer, which privacy.secure_aggregation hides from everyone; leave "
            "it out (null)"
        )
    if not 2 <= len(domains.sources) <= MOST:
        raise FedhaError(
            f"{_KEY} compares every pair of sources, from 2 to {MOST} of them, and this run has "
            f"{len(domains.sources)}; leave it out (null)"
        )
    return domains.sources
