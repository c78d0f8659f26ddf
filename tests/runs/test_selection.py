"""Which round's model each selection rule keeps."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedha.runs.selection import RULES, select

ACCURACIES = st.floats(0, 1)


def record(number: int, target: float, held_out: Sequence[float] | None = (0.5, 0.5)) -> dict[str, Any]:
    """A line of metrics.jsonl; without held_out numbers the sources have no validation part."""
    sources = [{"examples": 0}] if held_out is None else [{"accuracy": one} for one in held_out]
    return {
        "round": number,
        "target": {"first": {"accuracy": target}, "second": {"accuracy": 1 - target}},
        "held_out": {f"d{place}": one for place, one in enumerate(sources)},
    }


def fold(*accuracies: float) -> list[dict[str, Any]]:
    return [record(number, accuracy) for number, accuracy in enumerate(accuracies, 1)]


def test_each_rule_looks_at_its_own_numbers() -> None:
    records = [
        record(1, 0.9, [0.1, 0.2]),
        record(2, 0.6, [0.9, 0.7]),
        record(3, 0.8, [0.2, 0.8]),
        record(4, 0.7, [0, 1]),
    ]
    folds = {"d0": fold(0.1, 0.2, 0.9, 0.3), "d1": fold(0.2, 0.6, 0.4, 0.1)}
    assert select(records, folds) == {
        "final": {"round": 4, "target_accuracy": 0.7},
        "training_domain_validation": {"round": 2, "target_accuracy": 0.6},
        "leave_one_domain_out": {"round": 3, "target_accuracy": 0.8},
        "oracle": {"round": 1, "target_accuracy": 0.9},
    }


def test_ties_go_to_the_earlier_round() -> None:
    records = [record(1, 0.2), record(2, 0.6, [0.7, 0.7]), record(3, 0.6, [0.6, 0.8])]
    chosen = select(records, {"d0": fold(0.1, 0.4, 0.4)})
    assert {rule: one["round"] for rule, one in chosen.items() if rule != "final"} == {
        "training_domain_validation": 2,
        "leave_one_domain_out": 2,
        "oracle": 2,
    }


def test_only_evaluated_rounds_can_be_chosen() -> None:
    records = [{"round": 1}, record(2, 0.3), {"round": 3, "target": {}}, record(4, 0.2)]
    assert select(records)["oracle"] == {"round": 2, "target_accuracy": 0.3}
    assert select([{"round": 1}]) == select([]) == {}


def test_a_rule_without_its_numbers_is_left_out() -> None:
    records = [record(1, 0.3, None), record(2, 0.2, None)]
    assert set(select(records)) == {"final", "oracle"}
    assert "leave_one_domain_out" not in select(records, {"d0": [], "d1": fold(0.1, 0.2)})


def test_leave_one_domain_out_compares_the_rounds_that_every_fold_has() -> None:
    records = fold(0.1, 0.2, 0.3)
    folds = {"d0": fold(0.9, 0.1, 0.9), "d1": fold(0.3, 0.2)}
    assert select(records, folds)["leave_one_domain_out"] == {"round": 1, "target_accuracy": 0.1}


def test_a_source_without_a_validation_part_does_not_count() -> None:
    empty, full = {"examples": 0}, {"accuracy": 0.4}
    records = [
        {**record(1, 0.1), "held_out": {"a": empty, "b": full}},
        {**record(2, 0.2), "held_out": {"a": empty, "b": {"accuracy": 0.3}}},
    ]
    assert select(records)["training_domain_validation"]["round"] == 1


@given(st.lists(st.tuples(ACCURACIES, ACCURACIES, ACCURACIES), min_size=1, max_size=6))
def test_the_oracle_is_an_upper_bound_of_every_rule(accuracies: list[tuple[float, float, float]]) -> None:
    records = [record(number, target, sources) for number, (target, *sources) in enumerate(accuracies, 1)]
    chosen = select(records, {"d0": fold(*(one[1] for one in accuracies))})
    assert set(chosen) == set(RULES) - {"validation_domain"}
    best = chosen["oracle"]["target_accuracy"]
    assert best == max(target for target, *_ in accuracies)
    for one in chosen.values():
        assert one["target_accuracy"] == accuracies[int(one["round"]) - 1][0] <= best
    mean_of = [math.fsum(sources) for _, *sources in accuracies]
    kept = int(chosen["training_domain_validation"]["round"]) - 1
    assert mean_of[kept] == pytest.approx(max(mean_of))


def test_a_round_of_the_warm_up_is_passed_over_and_said_and_taken_only_without_another() -> None:
    records = [record(1, 0.9, [0.1, 0.2]), record(2, 0.6, [0.9, 0.7]), record(3, 0.8, [0.2, 0.8])]
    chosen = select(records, {}, 2)
    assert {rule: (one["round"], one.get("instead_of"), one.get("warmup")) for rule, one in chosen.items()} == {
        "final": (3, None, None),
        "training_domain_validation": (3, 2, 2),
        "oracle": (3, 1, 2),
    }
    assert all(one["target_accuracy"] == 0.8 and "within_warmup" not in one for one in chosen.values())
    within = select(records, {}, 3)
    assert all(one["within_warmup"] == 3 and "instead_of" not in one for one in within.values())
    assert within["training_domain_validation"]["round"] == 2


def test_the_oracle_looks_at_its_own_part_of_the_target_and_the_rest_is_reported() -> None:
    parts = [(0.3, 0.9), (0.8, 0.2)]
    records = [{**record(one, rest), "oracle": {"t": {"accuracy": own}}} for one, (rest, own) in enumerate(parts, 1)]
    assert select(records)["oracle"] == {"round": 1, "target_accuracy": 0.3}


def test_the_validation_domain_selects_by_itself_alone() -> None:
    records = [{**record(one, one / 10), "lodo_val": {"v": {"accuracy": 1 - one / 10}}} for one in (1, 2)]
    assert select(records)["validation_domain"] == {"round": 1, "target_accuracy": 0.1}
