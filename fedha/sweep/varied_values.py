"""What runs of a sweep were given and what came of it, for pictures of hyperparameters."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedha.schema import number
from fedha.sweep.metric_format import MetricFormat
from fedha.sweep.selection import ACCURACY, first_value
from fedha.sweep.store import Entry

_FEW = 10  # values of a grid
_SPAN = 30  # times the smallest value, beyond which an axis is logarithmic


@dataclass(frozen=True)
class Tried:
    """A run among those that a rule chooses from.

    Attributes:
        label: Its recipe's.
        seed: Its trial's.
        values: What was varied, by key.
        validation: What the rule looked at, in percent; None: nothing.
        value: Of the metric on the first target at the round that the rule takes, in percent where it is a fraction.
    """

    label: str
    seed: int
    values: Mapping[str, Any]
    validation: float | None
    value: float


def tried(
    rule: str, jobs: Iterable[Entry], found: Mapping[str, Mapping[str, Any]], metric: str = ACCURACY
) -> list[Tried]:
    """The finished runs that did not diverge and have a value; arguments as in `fedha.sweep.selection.choose`."""
    kept, scale = [], MetricFormat.of(metric).scale
    for one in jobs:
        content = found.get(one.name)
        picked = None if content is None or content["diverged"] else content["rules"].get(rule)
        if picked and picked["targets"]:
            score = None if picked["score"] is None else 100 * picked["score"]
            if (value := first_value(picked, metric)) is not None:
                kept.append(Tried(one.label, one.seed, one.values, score, scale * value))
    return kept


def numeric_keys(runs: Sequence[Tried]) -> list[str]:
    """Keys whose values are numbers, two at least."""
    keys = dict.fromkeys(key for one in runs for key in one.values)
    return [key for key in keys if _is_numeric([one.values[key] for one in runs if key in one.values])]


def is_grid(key: str, runs: Sequence[Tried]) -> bool:
    """Whether few values were tried, the same in every trial; drawn ones differ."""
    by_seed: dict[int, set[float | None]] = {}
    for one in runs:
        if key in one.values:
            by_seed.setdefault(one.seed, set()).add(as_number(one.values[key]))
    several = {frozenset(one) for one in by_seed.values()}
    return len(several) == 1 and len(next(iter(several))) <= _FEW


def as_number(value: Any) -> float | None:
    """A value as a number; None where it is none."""
    found = number(value) if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def axis_scale(values: Sequence[float]) -> str:
    """How an axis of these values is divided: linear, log, or symlog where some are 0 or less."""
    positive = [one for one in map(abs, values) if one]
    if not positive or max(positive) < _SPAN * min(positive):
        return "linear"
    return "log" if min(values) > 0 else "symlog"


def _is_numeric(values: Sequence[Any]) -> bool:
    found = [as_number(one) for one in values]
    return None not in found and len(set(found)) > 1
