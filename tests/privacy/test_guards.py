"""A site refuses what is crafted, too small, foreign, too frequent or too dear; and says so."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedha.models import head_matrix
from fedha.privacy.guards import (
    HeadLimits,
    Rate,
    Refusal,
    refuse_batch,
    refuse_head,
    refuse_rate,
    refuse_spending,
    refuse_statistics,
)

LIMITS = HeadLimits()


@pytest.mark.parametrize("classes", [1, 2, 7, 65])
@pytest.mark.parametrize("width", [16, 129, 2048])
def test_a_fresh_head_is_honest(classes: int, width: int) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        layer = nn.Linear(width, classes)
        assert refuse_head(head_matrix(layer.weight, layer.bias), LIMITS) is None


def crafted() -> dict[str, tuple[Tensor, str]]:
    fresh = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    twins, huge, broken = fresh.clone(), fresh.clone(), fresh.clone()
    twins[3] = twins[1]
    huge[2] *= 1e6
    broken[0, 0] = math.nan
    return {
        "all zero": (torch.zeros(4, 6), "two rows of the head that the server sent are 0 apart, under 0.001"),
        "all alike": (fresh[:1].expand(4, 6), "two rows of the head .* are 0 apart"),
        "two alike": (twins, "two rows of the head .* are 0 apart"),
        "tiny": (1e-5 * fresh, "two rows of the head .* apart, under 0.001"),
        "one logit that is zero": (torch.zeros(1, 6), "two rows of the head .* are 0 apart"),
        "huge": (huge, "has a row of norm .*, over 1000: single examples would show"),
        "not finite": (broken, "has weights that are not finite"),
    }


@pytest.mark.parametrize("name", crafted())
def test_a_crafted_head_is_refused(name: str) -> None:
    head, message = crafted()[name]
    refusal = refuse_head(head, LIMITS)
    assert refusal is not None
    assert refusal.kind == "head"
    assert re.search(message, refusal.sentence)


def test_equal_rows_do_give_the_labels_away() -> None:
    """What the guard is for: the bias column of the gradient is then the label counts."""
    from fedha import statistics

    draws = torch.Generator().manual_seed(0)
    features = torch.cat([torch.randn(50, 5, generator=draws), torch.ones(50, 1)], 1).double()
    labels = torch.randint(0, 4, (50,), generator=draws)
    gradient = statistics.gradient(torch.zeros(4, 6, dtype=torch.float64), features, labels)
    counts = ((1 / 4 - gradient[:, -1]) * 50).round().long()
    assert torch.equal(counts, labels.bincount(minlength=4))


@given(st.integers(0, 100), st.integers(1, 100))
def test_a_batch_is_refused_if_it_is_under_the_least(examples: int, least: int) -> None:
    refusal = refuse_batch(examples, least)
    assert (refusal is not None) == (examples < least)
    if refusal is not None:
        assert refusal.kind == "min_examples"
        assert f"of {examples} examples and min_examples is {least}" in refusal.sentence


def test_only_configured_statistics_are_sent() -> None:
    assert refuse_statistics(["gradient"], ["gradient", "risk"]) is None
    assert refuse_statistics([], []) is None
    refusal = refuse_statistics(["hessian", "gradient", "feature_mean"], ["gradient"])
    assert refusal == Refusal(
        "statistic",
        "the server asked for feature_mean, hessian, which this site does not send; its config allows gradient",
    )
    assert "allows none" in refuse_statistics(["risk"], []).sentence  # type: ignore[union-attr]


@given(st.lists(st.integers(0, 1000), max_size=20), st.integers(1, 5), st.integers(1, 500))
def test_in_no_stretch_of_time_more_rounds_are_answered_than_the_rate_allows(
    asked: list[int], rounds: int, seconds: int
) -> None:
    answered: list[int] = []
    for now in sorted(asked):
        refusal = refuse_rate(answered, now, Rate(rounds, seconds))
        recent = [moment for moment in answered if now - moment < seconds]
        assert (refusal is not None) == (len(recent) >= rounds)
        if refusal is None:
            answered.append(now)
        else:
            assert refusal.kind == "rate"
    for now in answered:
        assert sum(now - seconds < moment <= now for moment in answered) <= rounds


def test_a_round_over_the_budget_is_refused() -> None:
    assert refuse_spending(3.0, 3.0) is None
    refusal = refuse_spending(3.1, 3.0)
    assert refusal is not None
    assert refusal.kind == "budget"
    assert "would spend epsilon 3.1 and privacy.max_epsilon is 3" in refusal.sentence
