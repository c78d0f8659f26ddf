"""What rounds are compared by, and when training ends for it."""

from typing import Any

import pytest

from fedha.config.choosing import StopConfig
from fedha.errors import FedhaError
from fedha.metrics.choice import Choice
from fedha.runs.selection import select
from fedha.runs.stopping import Patience


def record(number: int, *values: float | None, name: str = "macro_f1", **more: Any) -> dict[str, Any]:
    parts = {f"d{place}": {"accuracy": 0.5, "examples": 9, name: value} for place, value in enumerate(values)}
    return {"round": number, "held_out": parts, "target": {"t": {"accuracy": number / 10, name: 0.5}}, **more}


def test_a_domain_without_a_value_is_passed_over_and_one_that_came_apart_is_not() -> None:
    undefined = {"macro_f1": None, "undefined": {"macro_f1": "all its examples are of class 1"}}
    assert Choice("macro_f1").value([{"macro_f1": 0.5}, undefined, {"examples": 0}]) == 0.5
    assert Choice("macro_f1").value([undefined]) is None
    apart = {"macro_f1": None, "undefined": {"macro_f1": "its numbers are not finite"}}
    assert Choice("macro_f1").value([{"macro_f1": 0.9}, apart]) is None
    assert Choice("log_loss").value([{"log_loss": 1.0}, {"log_loss": None}]) is None  # as a file has it


def test_the_worst_of_a_metric_of_which_less_is_better_is_the_largest() -> None:
    parts = [{"log_loss": 1.0, "macro_f1": 0.2}, {"log_loss": 3.0, "macro_f1": 0.4}]
    assert Choice("log_loss", "worst_domain").value(parts) == 3.0
    assert Choice("log_loss", "worst_domain").score(parts) == -3.0
    assert Choice("macro_f1", "worst_domain").value(parts) == 0.2
    groups = [{"accuracy": 0.9, "groups": {"a": {"accuracy": 0.8}, "b": {"accuracy": 0.3}}}, {"accuracy": 0.1}]
    assert Choice("accuracy", "worst_group").value(groups) == 0.3


def test_rules_compare_by_any_metric() -> None:
    records = [record(1, 0.1, 0.9), record(2, 0.5, 0.4), record(3, 0.2, 0.2)]
    by = {
        choice: select(records, by=choice)["training_domain_validation"]["round"]
        for choice in (Choice(), Choice("macro_f1"), Choice("macro_f1", "worst_domain"))
    }
    assert list(by.values()) == [1, 1, 2]
    falling = [record(number, 1 / number, name="log_loss") for number in (1, 2, 3)]
    found = select(falling, by=Choice("log_loss"), metrics=["log_loss"])["training_domain_validation"]
    assert found == {"round": 3, "target_accuracy": 0.3, "target": {"log_loss": 0.5}}


def test_without_a_target_the_sources_choose_all_the_same() -> None:
    records = [{**record(1, 0.4), "target": {}}, {**record(2, 0.3), "target": {}}]
    chosen = select(records, by=Choice("macro_f1"))
    assert chosen["training_domain_validation"] == {"round": 1, "target_accuracy": None}
    assert "oracle" not in chosen


def ended(values: list[float], stop: StopConfig, warmup: int = 0) -> int:
    """After which round training ends; 0: it does not."""
    patience = Patience(stop, warmup)
    for number, value in enumerate(values, 1):
        patience = patience.after(record(number, value))
        if patience.ended:
            return number
    return 0


def test_training_ends_where_nothing_gets_better() -> None:
    stop = StopConfig(metric="macro_f1", patience=2)
    assert ended([0.1, 0.2, 0.2, 0.1], stop) == 4
    assert ended([0.1, 0.2, 0.1, 0.3, 0.1], stop) == 0
    assert ended([0.1, 0.3, 0.35, 0.38], StopConfig(metric="macro_f1", patience=2, min_delta=0.1)) == 4
    assert ended([0.9, 0.2, 0.1, 0.1], stop, warmup=1) == 4  # the warm-up's model is not yet the recipe's
    assert ended([0.1] * 9, StopConfig(metric="macro_f1", patience=9)) == 0
    told = Patience(stop, best=0.2, waited=2).ended
    assert told == "the mean macro f1 on what the sources hold out was no better for 2 evaluations"


def test_rounds_that_are_not_evaluated_do_not_count_and_nothing_held_out_is_refused() -> None:
    stop = StopConfig(metric="accuracy", patience=1)
    assert Patience(stop).after({"round": 1}) == Patience(stop)
    with pytest.raises(FedhaError, match="none told a number"):
        Patience(stop).after({"round": 1, "held_out": {"a": {"examples": 0}}})
