"""Targets at a server, evaluated round after round; the features of a frozen network are computed once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from fedha.data.domain import Domain
from fedha.data.examples import Examples
from fedha.features import Keeping, behind_trunk
from fedha.metrics.asked import NOTHING, Asked
from fedha.metrics.counts import nested
from fedha.models.split import SplitModel
from fedha.models.state import named_state, state_of
from fedha.training import evaluate

Evaluation = Callable[[Mapping[str, Tensor]], dict[str, dict[str, Any]]]


def evaluation(model: SplitModel, targets: Sequence[Domain], keeping: Keeping, wanted: Asked = NOTHING) -> Evaluation:
    """A function of the global model's state: accuracy, risk and examples of each target, and what is counted.

    Args:
        model: The server's network.
        targets: That nobody trains on.
        keeping: Where features are kept.
        wanted: What is counted beside.
    """
    ready: dict[str, tuple[SplitModel, Examples]] = {}

    def evaluated(state: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
        if not ready:
            for name, value in state_of(model).constants.items():
                value.copy_(state.get(name, value))
        found = {}
        for one in targets:
            if one.name not in ready:
                ready[one.name] = behind_trunk(model, one.held_out, keeping, f"{one.name}, target")
            network, examples = ready[one.name]
            own = {name: value for name, value in state.items() if name in named_state(network)}
            found[one.name] = nested(evaluate(network, own, examples, wanted))
        return found

    return evaluated
