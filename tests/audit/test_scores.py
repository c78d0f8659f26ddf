"""Scores agree with their definitions, written naively."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedha.audit.matching import matched
from fedha.audit.scores import CEILING, auc, bootstrap, psnr, roc, ssim, true_positive_rate

# few values, so that ties occur
SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=9).map(lambda v: torch.tensor(v).double())


@given(SCORES, SCORES)
def test_the_area_counts_pairs_and_half_the_ties(members: Tensor, others: Tensor) -> None:
    pairs = list(itertools.product(members.tolist(), others.tolist()))
    won = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs)
    assert auc(members, others) == pytest.approx(won / len(pairs))
    assert auc(members, others) + auc(others, members) == pytest.approx(1)


@given(SCORES, SCORES)
def test_the_curve_climbs_to_one_and_has_the_area_under_it(members: Tensor, others: Tensor) -> None:
    false, true = (torch.tensor(rates, dtype=torch.float64) for rates in roc(members, others))
    assert (float(false[0]), float(true[0]), float(false[-1]), float(true[-1])) == (0, 0, 1, 1)
    assert bool((false.diff() >= 0).all())
    assert bool((true.diff() >= 0).all())
    assert float(torch.trapezoid(true, false)) == pytest.approx(auc(members, others))


@given(SCORES, SCORES, st.sampled_from([0.0, 0.01, 0.2, 0.5, 1.0]))
def test_the_rate_is_that_of_the_best_threshold_within_the_limit(members: Tensor, others: Tensor, limit: float) -> None:
    point = true_positive_rate(members, others, limit)
    rates = []
    for threshold in [-math.inf, *members.tolist(), *others.tolist()]:
        wrong = float((others > threshold).double().mean())
        if wrong <= limit + 1e-9:
            rates.append((float((members > threshold).double().mean()), wrong))
    assert point.true_positives == pytest.approx(max(rates)[0])
    assert point.false_positives <= limit + 1e-9


def test_with_few_others_the_rate_that_is_attained_is_zero() -> None:
    members, others = torch.arange(50.0) + 40, torch.arange(99.0)
    point = true_positive_rate(members, others, 0.01)
    assert (point.false_positives, point.others) == (0.0, 99)
    assert true_positive_rate(members, torch.arange(100.0), 0.01).false_positives == pytest.approx(0.01)


def test_psnr_is_the_logarithm_of_the_mean_squared_error() -> None:
    first, second = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    errors = [(a - b) ** 2 for a, b in zip(first.flatten().tolist(), second.flatten().tolist(), strict=True)]
    assert psnr(first, second, 2.0) == pytest.approx(10 * math.log10(4 / (sum(errors) / len(errors))))
    assert psnr(first, first, 1.0) == CEILING
    assert psnr(torch.zeros(4), torch.full((4,), 0.1), 1.0) == pytest.approx(20)


def ssim_twin(x: list[list[float]], y: list[list[float]], side: int, value_range: float) -> float:
    """One channel, window by window."""
    half = side // 2
    bell = [[math.exp(-(i * i + j * j) / 4.5) for j in range(-half, half + 1)] for i in range(-half, half + 1)]
    total = sum(map(sum, bell))
    c1, c2, found = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2, []
    for top, left in itertools.product(range(len(x) - side + 1), range(len(x[0]) - side + 1)):
        places = [(bell[i][j] / total, top + i, left + j) for i in range(side) for j in range(side)]
        mx, my = (sum(w * image[i][j] for w, i, j in places) for image in (x, y))
        vx, vy = (sum(w * (im[i][j] - m) ** 2 for w, i, j in places) for im, m in ((x, mx), (y, my)))
        both = sum(w * (x[i][j] - mx) * (y[i][j] - my) for w, i, j in places)
        found.append((2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return sum(found) / len(found)


@pytest.mark.parametrize(("height", "width", "side"), [(13, 12, 11), (8, 8, 7), (5, 9, 5), (2, 2, 1)])
def test_ssim_is_the_mean_over_windows_and_channels(height: int, width: int, side: int) -> None:
    x, y = torch.rand(2, 2, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    twins = [ssim_twin(a.tolist(), b.tolist(), side, 1.0) for a, b in zip(x, y, strict=True)]
    assert ssim(x, y, 1.0) == pytest.approx(sum(twins) / 2)
    assert ssim(x, x, 1.0) == pytest.approx(1)
    assert ssim(x, y, 1.0) == pytest.approx(ssim(y, x, 1.0))


def test_reconstructions_are_put_into_the_best_of_all_orders() -> None:
    originals = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(2))
    blurred = originals[[2, 0, 3, 1]] + 0.2 * torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(3))

    def mean(order: Tensor) -> float:
        return sum(psnr(a, b, 1.0) for a, b in zip(originals, order, strict=True)) / 4

    best = max(mean(blurred[list(order)]) for order in itertools.permutations(range(4)))
    assert mean(matched(originals, blurred, 1.0)) == pytest.approx(best)


def test_intervals_repeat_and_hold_the_score_of_what_was_seen() -> None:
    values = torch.randn(60, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def means(some: Tensor) -> list[float]:
        return [float(some.mean()), 1.0]

    (low, high), constant = bootstrap(means, [values], seed=0)
    assert [(low, high), constant] == bootstrap(means, [values], seed=0)
    assert low < float(values.mean()) < high
    assert constant == (1.0, 1.0)
    # a mean's bootstrap deviation is std / sqrt(n), and 95 % of a normal lie within 1.96 of them; 200 draws blur that
    assert (high - low) / (2 * 1.96 * float(values.std()) / math.sqrt(60)) == pytest.approx(1, abs=0.25)
