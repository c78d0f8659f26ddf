"""The server's optimisers, functions of their state, take the steps of torch's to the bit."""

from collections.abc import Callable

import pytest
import torch

from fedha.config import TrainingConfig
from fedha.rules.optimizers import adam, fedadam, fedavg, fedavgm, sgd
from fedha.rules.rule import Answers, Rule

MOMENTUM = TrainingConfig(momentum=0.7)
Make = Callable[[list[torch.Tensor]], torch.optim.Optimizer]
TWINS: dict[str, tuple[Rule, Make]] = {
    "adam": (adam(TrainingConfig()), lambda values: torch.optim.Adam(values, lr=1.0, fused=True)),
    "fedadam": (fedadam(), lambda values: torch.optim.Adam(values, lr=1.0, betas=(0.9, 0.99), eps=1e-3, fused=True)),
    "sgd": (sgd(TrainingConfig()), lambda values: torch.optim.SGD(values, lr=1.0)),
    "sgd with momentum": (sgd(MOMENTUM), lambda values: torch.optim.SGD(values, lr=1.0, momentum=0.7)),
    "fedavg": (fedavg(TrainingConfig()), lambda values: torch.optim.SGD(values, lr=1.0)),
    "fedavgm": (fedavgm(TrainingConfig()), lambda values: torch.optim.SGD(values, lr=1.0, momentum=0.9)),
}


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TWINS)
def test_its_steps_are_those_of_torch(name: str, precision: torch.dtype) -> None:
    rule, make = TWINS[name]
    draws = torch.Generator().manual_seed(0)
    shapes = {"weight": (7, 5), "bias": (3,), "scale": ()}

    def drawn() -> dict[str, torch.Tensor]:
        return {key: torch.randn(shape, generator=draws, dtype=precision) for key, shape in shapes.items()}

    parameters = drawn()
    live = {key: value.clone() for key, value in parameters.items()}
    optimizer, state = make(list(live.values())), dict(rule.init(parameters))
    for number in range(20):
        rate, gradients = 0.01 * 0.9**number, drawn()
        optimizer.param_groups[0]["lr"] = rate
        for key, value in live.items():
            value.grad = gradients[key]
        optimizer.step()
        given = state | parameters
        before = {key: value.clone() for key, value in given.items()}
        moved, kept = rule.aggregate(state, Answers(parameters, gradients, {}, rate, 3, 3))
        assert all(torch.equal(given[key], value) for key, value in before.items())  # nothing was changed in place
        parameters, state = dict(moved), dict(kept)
    for key, value in live.items():
        assert torch.equal(parameters[key], value)
        for slot, kept_by_torch in optimizer.state[value].items():
            assert kept_by_torch is None or torch.equal(state[f"{slot}/{key}"], kept_by_torch)


def test_adam_takes_gradients_that_lie_otherwise_in_memory() -> None:
    rule, draws = adam(TrainingConfig()), torch.Generator().manual_seed(0)
    weight, gradient = (torch.randn(2, 3, 4, 5, generator=draws) for _ in range(2))
    found = []
    for value in (weight, weight.contiguous(memory_format=torch.channels_last)):
        for slope in (gradient, gradient.contiguous(memory_format=torch.channels_last)):
            parameters = {"weight": value}
            moved, _ = rule.aggregate(rule.init(parameters), Answers(parameters, {"weight": slope}, {}, 0.1, 3, 3))
            found.append(moved["weight"])
    assert all(torch.equal(found[0], one) for one in found)
