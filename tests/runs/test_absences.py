"""Who was left out: counted by round from the events, whatever order they come in."""

from typing import Any

import pytest

from fedha.runs.absences import absence_texts, left_out

B, C = "client 1 (domain 'b')", "client 2 (domain 'c')"


def event(kind: str, who: str, exchange: str, reason: str = "it fell") -> dict[str, Any]:
    return {"event": kind, "client": who, "exchange": exchange, "reason": reason}


def test_a_client_counts_once_a_round_and_an_evaluation_only_where_it_was_trained() -> None:
    records = [
        {"round": 1, "events": [event("refused", B, "measure", "NaN"), event("skipped", B, "evaluate")]},
        {"round": 2},
        {"round": 3, "events": [event("skipped", B, "train"), event("skipped", C, "evaluate", "late")]},
    ]
    assert left_out(records) == {
        B: {"rounds": 2, "evaluations": 0, "reason": "NaN"},
        C: {"rounds": 0, "evaluations": 1, "reason": "late"},
    }
    assert absence_texts(left_out(records), 3) == [
        f"{B} was left out of 2 of 3 rounds",
        f"{C} was left out of 1 evaluations",
    ]


@pytest.mark.parametrize(
    ("events", "rounds"),
    [
        ([event("missing", B, "train"), event("returned", B, "train")], 0),
        ([event("missing", B, "introduce")], 1),
        ([event("refused", B, "confirm"), event("skipped", B, "reveal")], 0),
        ([event("skipped", B, "advertise")], 1),
    ],
)
def test_who_comes_back_or_is_in_the_sum_was_not_left_out(events: list[dict[str, Any]], rounds: int) -> None:
    found = left_out([{"round": 1, "events": events}])
    assert found.get(B, {"rounds": 0})["rounds"] == rounds
