"""Batches are drawn as they are named, and counted as often as an example can be in them."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedha.privacy.noise import cryptographic, seeded
from fedha.privacy.sampling import Sampling, draw_batches, releases
from tests.privacy.chance import mean_bound


def drawn(sampling: Sampling, steps: int, seed: int = 0) -> list[list[int]]:
    return [batch.tolist() for batch in draw_batches(sampling, steps, seeded(seed, "batches"))]


def test_whole_steps_see_everybody() -> None:
    assert drawn(Sampling("whole", 4, 4), 3) == [[0, 1, 2, 3]] * 3


@given(st.integers(1, 30), st.data())
def test_an_example_is_in_as_many_batches_as_are_counted_and_no_more(examples: int, data: st.DataObject) -> None:
    batch, steps = data.draw(st.integers(1, examples)), data.draw(st.integers(1, 20))
    sampling = Sampling("shuffled", batch, examples)
    uses = Counter(row for rows in drawn(sampling, steps) for row in rows)
    assert max(uses.values()) == releases(sampling, steps)
    for method in ("poisson", "whole"):
        assert releases(Sampling(method, batch if method == "poisson" else examples, examples), steps) == steps


def test_a_shuffled_pass_uses_each_example_once_in_an_order_of_its_own() -> None:
    batches = drawn(Sampling("shuffled", 4, 10), 6)
    assert [len(batch) for batch in batches] == [4, 4, 2] * 2
    first, second = ([row for rows in batches[place : place + 3] for row in rows] for place in (0, 3))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_every_order_of_a_pass_is_as_likely() -> None:
    """Three examples have six orders; 6,000 passes (seeded: the same each time)."""
    orders = Counter(str(drawn(Sampling("shuffled", 1, 3), 3, seed)) for seed in range(6000))
    assert len(orders) == 6
    assert all(abs(count - 1000) < 6 * math.sqrt(6000 * (1 / 6) * (5 / 6)) for count in orders.values())


@pytest.mark.parametrize("kind", ["seeded", "cryptographic"])
def test_under_poisson_each_example_joins_each_step_by_its_own_coin(kind: str) -> None:
    """Means over 20,000 steps; the cryptographic ones stray by chance once in 10^7 runs."""
    sampling, steps = Sampling("poisson", 2, 5), 20_000
    source = seeded(0, "coins") if kind == "seeded" else cryptographic()
    joined = torch.zeros(steps, 5, dtype=torch.float64)
    for step, batch in enumerate(draw_batches(sampling, steps, source)):
        joined[step, batch] = 1
    centred, bound = joined - 2 / 5, mean_bound(steps, 1e-9) / 2  # numbers in an interval of length 1
    assert float(centred.mean(0).abs().max()) < bound
    for one in range(5):
        for other in range(one):
            assert abs(float((centred[:, one] * centred[:, other]).mean())) < bound
        assert abs(float((centred[1:, one] * centred[:-1, one]).mean())) < 2 * bound
    assert abs(float((joined.sum(1) == 0).double().mean()) - (3 / 5) ** 5) < bound  # empty batches are among them


@pytest.mark.parametrize(
    ("method", "batch", "message"),
    [
        ("fixed", 2, "sampling 'fixed' is none of whole, poisson, shuffled"),
        ("poisson", 0, "a batch of 0 of 5 examples cannot be drawn"),
        ("shuffled", 6, "a batch of 6 of 5 examples cannot be drawn"),
        ("whole", 4, "whole-domain steps use all 5 examples, not 4"),
    ],
)
def test_sampling_that_cannot_be_is_refused(method: str, batch: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(method, batch, 5)
