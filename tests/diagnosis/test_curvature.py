"""Spectral norms of Hessians' differences: three algorithms, one number, and what is known of it in closed form."""

import math

import pytest
import torch

from fedha import statistics
from fedha.diagnosis import curvature
from fedha.diagnosis.curvature import block_norms, curvature_ratio, curvature_ratio_at_least, makeup, norms, whole
from fedha.diagnosis.lanczos import extremes, start_vectors
from fedha.diagnosis.party import pooled
from fedha.diagnosis.sample import Sample, free_dimensions
from fedha.randomness import generator
from tests.diagnosis.made import head_of, sample

SHAPES = ((1, 5), (2, 4), (3, 6), (5, 7))


@pytest.mark.parametrize("shape", SHAPES)
def test_hessian_and_products_are_those_of_the_statistics(shape: tuple[int, int]) -> None:
    head = head_of(*shape, 0)
    one = sample(head, 1, count=600)  # more than a chunk
    torch.testing.assert_close(
        one.hessian(), statistics.hessian(head, one.features, one.labels).view(2 * (head.numel(),))
    )
    directions = torch.randn(3, *shape, dtype=torch.float64, generator=generator(0, "v"))
    for given, found in zip(directions, one.directions(directions), strict=True):
        torch.testing.assert_close(found, statistics.hessian_vector_product(head, one.features, one.labels, given))


@pytest.mark.parametrize("shape", SHAPES)
def test_heads_are_answered_as_the_statistics_do(shape: tuple[int, int]) -> None:
    one = sample(head_of(*shape, 0), 1, count=600)
    heads = torch.stack([head_of(*shape, seed) for seed in range(3)])
    answers = one.heads(heads)
    for place, head in enumerate(heads):
        given = (head, one.features, one.labels)
        torch.testing.assert_close(answers.risks[place], statistics.risk(*given))
        torch.testing.assert_close(answers.gradients[place], statistics.gradient(*given))
        torch.testing.assert_close(answers.accuracies[place], statistics.accuracy(*given).double())


def test_dense_lanczos_and_block_agree_on_fifty_heads() -> None:
    for seed in range(50):
        shape = SHAPES[seed % len(SHAPES)]
        parties = [sample(head_of(*shape, seed), 10 * seed + e, shift=0.3 + 0.3 * e).party() for e in range(2)]
        exact = norms(parties, shape)[0]
        free = free_dimensions(shape)
        steps = {"steps": free, "tolerance": 1e-13, "width": 1e-9}
        found = extremes(curvature.differences(parties, [(0, 1)]), start_vectors(1, shape, seed, "t"), free, **steps)[0]
        assert found.norm == pytest.approx(exact.lower, rel=1e-9)
        if shape[0] == 1:  # else the whole space has a zero that the starts leave out
            assert found.high == pytest.approx(exact.spectrum.high, rel=1e-9)
            assert found.low == pytest.approx(exact.spectrum.low, rel=1e-9)
        assert block_norms(parties, shape, rounds=6, block=8)[0].lower == pytest.approx(exact.lower, rel=1e-9)


def test_intervals_hold_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (5, 30)
    parties = [sample(head_of(*shape, 0), e, count=300, shift=0.5).party() for e in range(4)]
    exact = norms(parties, shape)
    monkeypatch.setattr(curvature, "DENSE", 0)
    for found in (norms(parties, shape), block_norms(parties, shape)):
        for known, one in zip(exact, found, strict=True):
            assert one.lower <= known.lower * (1 + 1e-12)
            assert one.upper >= known.lower * (1 - 1e-12)
            assert one.lower >= 0.99 * known.lower
            assert one.upper <= 1.6 * known.lower
            assert one.rule != known.rule


def test_equal_ends_of_both_signs_do_not_confuse() -> None:
    """Where a signed quotient stops anywhere between -1 and 1."""
    inside = torch.rand(50, dtype=torch.float64, generator=generator(0, "inside")) * 0.3
    values = torch.cat([torch.tensor([1.0, -1.0], dtype=torch.float64), inside])
    for seed in range(20):
        starts = start_vectors(1, (52,), seed, "ends")
        found = extremes(lambda along: along * values, starts, 52, tolerance=1e-8)[0]
        assert found.high == pytest.approx(1, abs=1e-9)
        assert found.low == pytest.approx(-1, abs=1e-9)
        assert found.high_end >= 1 - 1e-12
        assert found.low_end <= -1 + 1e-12


def test_upper_ends_hold_from_the_first_steps_on() -> None:
    """A short run's interval is wide, never wrong."""
    drawn = generator(3, "spectrum")
    values = torch.randn(200, dtype=torch.float64, generator=drawn)
    for seed in range(50):
        for steps in (1, 2, 4, 8):
            starts = start_vectors(1, (200,), seed, "short", steps)
            found = extremes(lambda along: along * values, starts, 200, steps=steps)[0]
            assert found.high_end >= float(values.max())
            assert found.low_end <= float(values.min())
            assert found.high <= float(values.max()) + 1e-12


@pytest.mark.parametrize("outputs", [1, 3])
def test_at_a_head_of_zeros_it_is_the_difference_of_second_moments(outputs: int) -> None:
    head = torch.zeros(outputs, 5, dtype=torch.float64)
    samples = [sample(head, seed) for seed in (1, 2)]
    moments = [one.features.T @ one.features / len(one) for one in samples]
    expected = float(torch.linalg.eigvalsh(moments[1] - moments[0]).abs().max()) / (4 if outputs == 1 else outputs)
    assert norms([one.party() for one in samples], (outputs, 5))[0].lower == pytest.approx(expected, rel=1e-12)


def test_a_vector_added_to_all_rows_changes_nothing() -> None:
    head, vector = head_of(3, 5, 0), torch.arange(5, dtype=torch.float64)
    one, moved = (sample(at, 1) for at in (head, head))
    moved = Sample(one.name, one.features, one.labels, head + vector, 3)
    other = sample(head, 2)
    shifted = Sample(other.name, other.features, other.labels, head + vector, 3)
    assert float(one.directions(vector.expand(1, 3, 5)).abs().max()) < 1e-14
    before, after = norms([one.party(), other.party()], (3, 5))[0], norms([moved.party(), shifted.party()], (3, 5))[0]
    assert after.lower == pytest.approx(before.lower, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_difference_is_below_both_and_those_below_the_moments(shape: tuple[int, int]) -> None:
    samples = [sample(head_of(*shape, 3), seed) for seed in (1, 2)]
    tops = [float(torch.linalg.eigvalsh(one.hessian())[-1]) for one in samples]
    factor = 0.25 if shape[0] == 1 else 0.5
    for one, top in zip(samples, tops, strict=True):
        moment = float(torch.linalg.eigvalsh(one.features.T @ one.features / len(one))[-1])
        assert top <= factor * moment * (1 + 1e-12)
        assert top <= one.sizes().top_hessian * (1 + 1e-12)
        assert moment <= one.sizes().top_moment * (1 + 1e-12)
    assert norms([one.party() for one in samples], shape)[0].lower <= max(tops) * (1 + 1e-12)


def test_alike_domains_have_no_difference() -> None:
    one = sample(head_of(3, 5, 0), 1)
    found = norms([one.party(), one.party()], (3, 5))[0]
    assert (found.lower, found.upper) == (0, 0)


def test_a_direction_is_told_by_its_classes_and_features() -> None:
    made = makeup(torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64))
    assert made.classes == pytest.approx((9 / 25, 16 / 25))
    assert made.features == ((1, pytest.approx(16 / 25)), (0, pytest.approx(9 / 25)))


def test_the_ratio_is_that_of_a_dense_pencil() -> None:
    from scipy.linalg import eigh

    shape = (3, 4)
    ours, theirs = (whole(sample(head_of(*shape, 0), seed).party(), shape) for seed in (1, 2))
    ridge = 1e-3 * float(torch.linalg.eigvalsh(ours)[-1])
    expected = eigh(theirs.numpy(), (ours + ridge * torch.eye(12)).numpy(), eigvals_only=True)[-1]
    assert curvature_ratio(ours, theirs) == pytest.approx(expected, rel=1e-9)
    assert curvature_ratio(torch.zeros(2, 2, dtype=torch.float64), ours[:2, :2]) == math.inf


@pytest.mark.parametrize(("classes", "width"), [(1, 4), (2, 2), (3, 5), (5, 20)])
def test_the_pencil_by_products_is_the_dense_one(classes: int, width: int) -> None:
    shape, head = (classes, width), 0.3 * head_of(classes, width, 0)
    a, b = (sample(head, seed, count=300, shift=0.2) for seed in (1, 2))
    for one, other in ((a, b), (b, a)):
        known = curvature_ratio(one.hessian(), other.hessian())
        found = curvature_ratio_at_least(one.party(), other.party(), shape)
        assert known * (1 - 1e-4) <= found <= known * (1 + 1e-9)
    pair = pooled([a.party(), b.party()], "both")
    assert curvature_ratio_at_least(pair, pair, shape) == pytest.approx(1, abs=2e-3)
