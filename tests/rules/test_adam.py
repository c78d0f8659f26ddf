"""Adam as a function of its state takes the steps of torch's, to the bit."""

import pytest
import torch

from fedha.rules.optimizers import adam, fedadam
from fedha.rules.rule import Answers, Rule


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rule", "betas", "epsilon"), [(adam(), (0.9, 0.999), 1e-8), (fedadam(), (0.9, 0.99), 1e-3)])
def test_its_steps_are_those_of_torch(
    rule: Rule, betas: tuple[float, float], epsilon: float, precision: torch.dtype
) -> None:
    draws = torch.Generator().manual_seed(0)
    shapes = {"weight": (7, 5), "bias": (3,), "scale": ()}

    def drawn() -> dict[str, torch.Tensor]:
        return {name: torch.randn(shape, generator=draws, dtype=precision) for name, shape in shapes.items()}

    parameters = drawn()
    live = {name: value.clone() for name, value in parameters.items()}
    optimizer = torch.optim.Adam(list(live.values()), lr=1.0, betas=betas, eps=epsilon)
    state = dict(rule.init(parameters))
    for number in range(20):
        rate, gradients = 0.01 * 0.9**number, drawn()
        optimizer.param_groups[0]["lr"] = rate
        for name, value in live.items():
            value.grad = gradients[name]
        optimizer.step()
        before = {name: value.clone() for name, value in (state | parameters).items()}
        given = state | parameters
        moved, kept = rule.aggregate(state, Answers(parameters, gradients, {}, rate, 3, 3))
        assert all(torch.equal(given[name], value) for name, value in before.items())  # nothing was changed in place
        parameters, state = dict(moved), dict(kept)
    for name, value in live.items():
        assert torch.equal(parameters[name], value)
        for slot, kept in optimizer.state[value].items():
            assert torch.equal(state[f"{slot}/{name}"], kept)
