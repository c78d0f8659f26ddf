"""Who was left out of rounds: by name, of how many, and why."""

from collections.abc import Iterable, Mapping
from typing import Any

_LATE = frozenset({"confirm", "reveal"})  # steps of a secure sum after it is settled whose numbers are in it


def left_out(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Which clients' answers did not count, from the events of rounds.

    Args:
        records: Rounds, as in metrics.jsonl.

    Returns:
        By what events call the client: in how many ``rounds`` it was not trained with, in how many others only its
        evaluation is missing (``evaluations``), and the first ``reason``. Empty if everybody took part.
    """
    rounds: dict[str, set[int]] = {}
    evaluations: dict[str, set[int]] = {}
    reasons: dict[str, str] = {}
    for record in records:
        for event in record.get("events", []):
            if not _absent(event):
                continue
            who, number = str(event["client"]), int(record["round"])
            reasons.setdefault(who, str(event["reason"]))
            (evaluations if event["exchange"] == "evaluate" else rounds).setdefault(who, set()).add(number)
    found = {}
    for who, reason in reasons.items():
        trained, evaluated = rounds.get(who, set()), evaluations.get(who, set())
        found[who] = {"rounds": len(trained), "evaluations": len(evaluated - trained), "reason": reason}
    return found


def absence_texts(absences: Mapping[str, Mapping[str, Any]], rounds: int) -> list[str]:
    """One phrase a client: ``client 1 (domain 'b') was left out of 2 of 60 rounds``.

    Args:
        absences: What `left_out` gave.
        rounds: How many there were.
    """
    texts = []
    for who, absence in absences.items():
        counts = [(absence["rounds"], f"of {rounds} rounds"), (absence["evaluations"], "evaluations")]
        texts.append(f"{who} was left out of {' and of '.join(f'{n} {what}' for n, what in counts if n)}")
    return texts


def _absent(event: Mapping[str, Any]) -> bool:
    """Whether an event says that a client's answer is missing for good; who is late may still return."""
    if event["event"] == "missing":  # when the round began, or before it was evaluated: it is not asked at all
        return bool(event["exchange"] in ("introduce", "evaluate"))
    return event["event"] in ("skipped", "refused") and event["exchange"] not in _LATE
