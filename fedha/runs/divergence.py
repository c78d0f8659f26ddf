"""Whether a run came apart: a network whose loss is beyond anything that trains is no result, however accurate."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedha.runs.wording import short_number

ABSURD = 1e3  # times the loss that it began with, or that of a uniform guess: what trains oscillates by ten or so

Record = Mapping[str, Any]


def divergence(records: Sequence[Record], results: Record) -> str | None:
    """Why a finished run is none to compare with others, in a phrase; None for one that is.

    The cross-entropy is looked at, not the whole loss, which a recipe's weight may make large. It came apart where the
    final one is not finite, or `ABSURD` times what it was at first and what a uniform guess has; or where it was so in
    some round, and the network guesses since: nothing of what it had learnt is left.

    Args:
        records: The run's rounds, as in metrics.jsonl.
        results: Its results, as in results.json, or as they will be.
    """
    began, final = _began(records), _final(results, records)
    if final is None:
        return None
    risk, accuracy = final
    guess = math.log(max(2, (results.get("expects") or {}).get("classes") or 2))
    base = max(guess, 1.0 if began is None else began)
    if not math.isfinite(risk):
        return "its loss is not finite"
    if risk > ABSURD * base:
        return f"its loss is {short_number(risk)}, where a uniform guess has {guess:.2f}"
    worst = max((one for one in map(_risk, records) if one is not None), default=0.0)
    guesses = risk > 0.9 * guess if accuracy is None else accuracy <= 1.05 * math.exp(-guess)
    if worst > ABSURD * base and guesses:
        return f"its loss was {short_number(worst)} in a round, and it guesses since"
    return None


def _began(records: Sequence[Record]) -> float | None:
    """The risk before anything was trained."""
    found = _risk(records[0]) if records else None
    return found if found is not None and math.isfinite(found) else None


def _final(results: Record, records: Sequence[Record]) -> tuple[float, float | None] | None:
    """Risk and accuracy of the final model on what was trained on; where no client tells them, on what was not."""
    for part in ("train", "sources", "target"):
        known = [one for one in (results.get(part) or {}).values() if "risk" in one]
        if known:
            risks = [_number(one["risk"]) for one in known]
            right = [one["accuracy"] for one in known if one.get("accuracy") is not None]
            return sum(risks) / len(risks), sum(right) / len(right) if right else None
    risk = _risk(records[-1]) if records else None
    return None if risk is None else (risk, None)


def _risk(record: Record) -> float | None:
    """The clients' mean risk in a round, before its step."""
    risks = [_number(one) for one in (record.get("risk") or {}).values()]
    return sum(risks) / len(risks) if risks else None


def _number(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value  # JSON has null for what is not finite
