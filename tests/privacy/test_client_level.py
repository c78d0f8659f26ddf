"""A client is bounded as a whole, and hidden by one noise on the sum."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from fedha.privacy.client_level import clip_contribution, cohort_release, disturb, joined_multiplier, private_mean
from fedha.privacy.ledger import Release
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.noise import cryptographic, grid, seeded
from tests.privacy.chance import variance_bounds


def contribution(seed: int) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    size = 10 ** float(torch.empty(()).uniform_(-2, 2, generator=draws))
    return {
        "w": size * torch.randn(3, 4, generator=draws, dtype=torch.float64),
        "b": size * torch.randn(3, generator=draws, dtype=torch.float64),
    }


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in tensors.values()])


@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_a_contribution_keeps_its_direction_and_at_most_the_norm(seed: int, norm: float) -> None:
    tensors = contribution(seed)
    clipped, length = flat(clip_contribution(tensors, norm)), float(flat(tensors).norm())
    assert float(clipped.norm()) <= norm * (1 + 1e-12)
    assert_close(clipped, flat(tensors) * min(1, norm / length), rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", [1.0, math.inf])
@pytest.mark.parametrize("broken", [math.nan, math.inf, 1e200])
def test_a_contribution_that_is_not_finite_is_none(broken: float, norm: float) -> None:
    clipped = clip_contribution({"w": torch.tensor([1.0, broken], dtype=torch.float64), "b": torch.ones(2)}, norm)
    assert float(flat(clipped).abs().max()) == 0


def test_without_clip_and_noise_it_is_the_mean() -> None:
    clients = [contribution(seed) for seed in range(4)]
    mean = private_mean(clients, Mechanism(math.inf, 0.0, 4), seeded(0))
    assert_close(flat(mean), torch.stack([flat(one) for one in clients]).mean(0), rtol=1e-12, atol=1e-12)


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.integers(0, 3))
def test_removing_a_client_moves_the_sum_by_at_most_the_norm(seed: int, norm: float, gone: int) -> None:
    clients = [contribution(seed + place) for place in range(4)]
    mechanism = Mechanism(norm, 0.0, 4)
    everyone = flat(private_mean(clients, mechanism, seeded(0)))
    fewer = flat(private_mean([one for place, one in enumerate(clients) if place != gone], mechanism, seeded(0)))
    moved = 4 * float((everyone - fewer).norm())
    assert moved <= norm * (1 + 1e-9)
    assert moved == pytest.approx(min(norm, float(flat(clients[gone]).norm())), rel=1e-6)


def test_noise_is_added_once_and_divided_by_the_expected_cohort() -> None:
    total = {"w": torch.zeros(100, 200, dtype=torch.float64), "b": torch.zeros(100, dtype=torch.float64)}
    noise = flat(disturb(total, Mechanism(2.0, 1.5, 40), seeded(0))) / (1.5 * 2.0 / 40)
    low, high = variance_bounds(len(noise), 1e-9)
    assert low < float(noise.square().sum()) < high
    assert not torch.equal(noise[:100], noise[-100:])


def test_a_server_sends_numbers_on_the_grid() -> None:
    mechanism = Mechanism(1.0, 1.0, 10)
    mean = disturb({"w": torch.ones(50, dtype=torch.float64)}, mechanism, cryptographic())["w"]
    steps = mean / grid(mechanism.deviation())
    assert torch.equal(steps, steps.round())


@given(st.lists(st.floats(0.1, 50), min_size=1, max_size=4))
def test_joined_noise_is_that_of_the_sum_of_precisions(multipliers: list[float]) -> None:
    joined = joined_multiplier(multipliers)
    assert joined**-2 == pytest.approx(sum(one**-2 for one in multipliers))
    assert joined <= min(multipliers) * (1 + 1e-12)


def test_a_rounds_entry_is_one_release_of_its_cohort() -> None:
    assert cohort_release([2.0], "poisson", 10) == Release(2.0, "poisson", 10)
    assert cohort_release([2.0, 2.0], "whole", 10).noise_multiplier == pytest.approx(math.sqrt(2))


def test_no_clients_have_no_mean() -> None:
    with pytest.raises(ValueError, match="no client contributed"):
        private_mean([], Mechanism(1.0, 1.0, 4), seeded(0))
