"""The formulas of metrics against scikit-learn's, what has no value, and intervals against resampled examples."""

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from fedha.cross_entropy import hits, losses
from fedha.errors import FedhaError
from fedha.metrics import Metric, formulas
from fedha.metrics.asked import Asked
from fedha.metrics.counts import called, nested, numbers_of, of_scores, predictions, probabilities_of
from fedha.metrics.intervals import interval
from fedha.metrics.table import metric
from fedha.metrics.values import as_recorded, joined, wrong_counts

NAMES = ("balanced_accuracy", "worst_class", "macro_f1", "auroc", "auprc", "expected_calibration_error", "log_loss")
ALL = Asked(("confusion", "bins"), ("auroc", "auprc"), "", 3)


def drawn(seed: int, count: int = 60, classes: int = 3, columns: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(count, columns, generator=draws), torch.randint(classes, (count,), generator=draws)


def counted(logits: torch.Tensor, labels: torch.Tensor, wanted: Asked = ALL, groups: list[str] | None = None) -> dict:
    named = None if groups is None else numpy.array(groups)
    return nested(numbers_of(losses(logits, labels), hits(logits, labels), logits, labels, wanted, named))


@pytest.mark.parametrize("seed", range(3))
def test_values_are_scikit_learns(seed: int) -> None:
    logits, labels = drawn(seed)
    logits[::4] = logits[::4].round()  # ties
    found = as_recorded(counted(logits, labels), NAMES)
    p, guesses = torch.softmax(logits.double(), 1), logits.argmax(1)
    one_hot = torch.nn.functional.one_hot(labels, 3)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, guesses))
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, guesses))
    assert found["worst_class"] == pytest.approx(reference.recall_score(labels, guesses, average=None).min())
    assert found["macro_f1"] == pytest.approx(reference.f1_score(labels, guesses, average="macro"))
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(labels, p, multi_class="ovr"))
    assert found["auprc"] == pytest.approx(reference.average_precision_score(one_hot, p, average="macro"))
    assert found["log_loss"] == pytest.approx(reference.log_loss(labels, p), rel=1e-6)


def test_one_logit_speaks_for_class_one() -> None:
    logits, labels = drawn(1, classes=2, columns=1)
    found = as_recorded(counted(logits, labels, Asked(("confusion",), ("auroc",), "", 2)), ("auroc", "macro_f1"))
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(labels, logits[:, 0]))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(labels, logits[:, 0] > 0, average="macro"))


def test_calibration_is_the_mean_gap_of_fifteen_bins() -> None:
    logits, labels = drawn(2, 200)
    p, right = probabilities_of(logits), hits(logits, labels)
    confidence, gap = p.amax(1), 0.0
    for place in range(15):
        inside = (confidence > place / 15) & (confidence <= (place + 1) / 15)
        if inside.any():
            gap += float(inside.double().mean() * (right[inside].double().mean() - confidence[inside].mean()).abs())
    assert as_recorded(counted(logits, labels), ("expected_calibration_error",))["expected_calibration_error"] == (
        pytest.approx(gap)
    )


def test_what_has_no_value_says_why_and_never_becomes_a_number() -> None:
    logits, _ = drawn(3)
    found = as_recorded(counted(logits, torch.ones(60, dtype=torch.int64)), NAMES)
    assert (found["auroc"], found["auprc"]) == (None, None)
    assert found["undefined"]["auroc"] == "all its examples are of class 1"
    assert found["absent"] == [0, 2]
    assert found["balanced_accuracy"] == found["worst_class"] == found["accuracy"]  # of the class that is there
    broken = as_recorded(counted(torch.full((60, 3), torch.nan), drawn(3)[1]), NAMES)
    assert [broken[name] for name in ("auroc", "expected_calibration_error", "log_loss")] == [None] * 3
    assert "not finite" in broken["undefined"]["auroc"]
    assert as_recorded({"examples": 0}, NAMES) == {"examples": 0}


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 59))
def test_counts_of_two_halves_are_those_of_the_whole(seed: int, cut: int) -> None:
    logits, labels = drawn(seed)
    counts = Asked(("confusion", "bins"), (), "", 3)
    halves = [counted(logits[some], labels[some], counts) for some in (slice(cut), slice(cut, None))]
    both, whole = joined(*halves), counted(logits, labels, counts)
    assert both["confusion"] == whole["confusion"]
    assert both["bins"] == pytest.approx(whole["bins"])
    assert joined(both, {"examples": 0}) == both
    # a metric of single examples is none of two clients' values
    mixed = as_recorded(
        joined(*(counted(logits[one], labels[one]) for one in (slice(cut), slice(cut, None)))), ("auroc",)
    )
    assert mixed["auroc"] is None
    assert "several clients" in mixed["undefined"]["auroc"]


def test_groups_are_counted_apart() -> None:
    logits, labels = drawn(4)
    groups = ["a/b", "c"] * 30
    wanted = Asked(("confusion",), (), "site", 3)
    found = as_recorded(counted(logits, labels, wanted, groups), ("macro_f1",))
    assert set(found["groups"]) == {"a/b", "c"}
    alone = as_recorded(counted(logits[::2], labels[::2], wanted), ("macro_f1",))
    assert found["groups"]["a/b"] == alone
    with pytest.raises(FedhaError, match="tells 2,000 groups apart"):
        counted(torch.zeros(2000, 3), torch.zeros(2000, dtype=torch.int64), wanted, [str(one) for one in range(2000)])


def test_an_interval_is_that_of_resampled_examples() -> None:
    logits, labels = drawn(5, 300)
    have = {**counted(logits, labels)}
    have["confusion"] = numpy.array(have["confusion"]).reshape(3, 3)
    have["bins"] = numpy.array(have["bins"]).reshape(15, 3)
    draws = torch.Generator().manual_seed(0)
    for name in ("accuracy", "macro_f1", "expected_calibration_error"):
        resampled = []
        for _ in range(400):
            rows = torch.randint(300, (300,), generator=draws)
            resampled.append(as_recorded(counted(logits[rows], labels[rows]), (name,))[name])
        low, high = interval(metric(name), have, 0)  # type: ignore[misc]
        assert low == pytest.approx(numpy.percentile(resampled, 2.5), abs=0.02)
        assert high == pytest.approx(numpy.percentile(resampled, 97.5), abs=0.02)
        assert interval(metric(name), have, 0) == (low, high) != interval(metric(name), have, 1)
    assert interval(metric("auroc"), have, 0) is None


def test_an_own_function_says_by_its_parameters_what_it_needs() -> None:
    cost = Metric("cost", lambda confusion: confusion[0, 1], smaller=True)
    assert cost.needs == ("confusion",)
    assert not cost.of_scores
    assert Metric("best", lambda probabilities, labels: 1.0).of_scores
    with pytest.raises(FedhaError, match="takes logits; let it take some of"):
        _ = Metric("odd", lambda logits: 0.0).needs
    assert interval(cost, {"confusion": numpy.array([[3.0, 1.0], [0.0, 4.0]])}, 0) is not None


def test_an_own_function_that_fails_is_named() -> None:
    assert math.isnan(of_scores("tests.metrics.others:never", torch.ones(3, 2), torch.zeros(3))[0])
    with pytest.raises(FedhaError, match="'cost' gives 'high'; let it give a number"):
        called("cost", lambda: "high", {})
    with pytest.raises(FedhaError, match=r"others:broken' fails with KeyError"):
        of_scores("tests.metrics.others:broken", torch.ones(3, 2), torch.zeros(3))


def test_counts_that_cannot_be_a_clients_are_refused() -> None:
    whole = {"held_out/examples": 4.0}
    assert wrong_counts({"held_out/confusion": [3, 0, 0, 1]}, whole) is None
    assert wrong_counts({"held_out/confusion": [3, 0, 0]}, whole) == "its held_out/confusion has 3 numbers"
    for wrong in ([3, 0, 0, 2], [5, -1, 0, 0], [3.5, 0, 0, 0.5], [math.nan, 0, 0, 0]):
        assert "does not count its 4 examples" in str(wrong_counts({"held_out/confusion": wrong}, whole))


def test_predictions_are_those_that_accuracy_counts() -> None:
    for columns in (1, 3):
        logits, labels = drawn(6, columns=columns, classes=2)
        logits[0] = 0
        assert torch.equal(predictions(logits) == labels, hits(logits, labels))
    assert formulas.accuracy(0.5) == 0.5
