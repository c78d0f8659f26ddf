"""What a record says of a domain: its metrics, of all its examples and of each group, and why one has no value."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from fedha.errors import FedhaError
from fedha.metrics.counts import called
from fedha.metrics.intervals import interval
from fedha.metrics.metric import BINS, COUNTS, NOT_FINITE
from fedha.metrics.table import metric

Pooled = Mapping[str, Any]  # accuracy, risk, examples, counts, scores; and groups, likewise

_PLAIN = ("accuracy", "risk", "examples")


def as_recorded(pooled: Pooled, names: Sequence[str], *, seed: int | None = None) -> dict[str, Any]:
    """A domain's numbers as records have them.

    Args:
        pooled: What its clients counted.
        names: Of the metrics; none: its accuracy, risk and examples stay alone.
        seed: Of the bootstrap, where there shall be intervals.

    Returns:
        ``{accuracy, risk, examples}`` and each metric by its name, None where it has no value; ``undefined`` says why,
        ``absent`` which classes have no example; ``interval`` has the ends by metric, ``groups`` the same of each.
    """
    found = {name: pooled[name] for name in _PLAIN if name in pooled}
    if not pooled.get("examples") or (not names and "groups" not in pooled):
        return found
    have = _arrays(pooled)
    values = {name: _value(name, have) for name in names}
    found |= {name: None if math.isnan(value) else value for name, (value, _) in values.items()}
    if reasons := {name: why for name, (value, why) in values.items() if math.isnan(value)}:
        found["undefined"] = reasons
    if "confusion" in have and (absent := numpy.flatnonzero(have["confusion"].sum(1) == 0).tolist()):
        found["absent"] = absent
    if seed is not None:
        known = [name for name in dict.fromkeys(("accuracy", *names)) if found.get(name) is not None]
        ends = {name: interval(metric(name), have, seed) for name in known}
        found["interval"] = {name: list(one) for name, one in ends.items() if one is not None}
    if groups := pooled.get("groups"):
        found["groups"] = {name: as_recorded(groups[name], names) for name in sorted(groups)}
    return found


def _arrays(pooled: Pooled) -> dict[str, Any]:
    have = dict(pooled)
    if "confusion" in have:
        classes = math.isqrt(len(have["confusion"]))
        have["confusion"] = numpy.asarray(have["confusion"], dtype=float).reshape(classes, classes)
    if "bins" in have:
        have["bins"] = numpy.asarray(have["bins"], dtype=float).reshape(BINS, 3)
    return have


def _value(name: str, have: Mapping[str, Any]) -> tuple[float, str]:
    """A metric's value, or NaN and the reason."""
    row = metric(name)
    if row.of_scores:
        value = have.get(name)
        return (math.nan, _no_score(name, have)) if value is None or not math.isfinite(value) else (value, "")
    if missing := [need for need in row.needs if have.get(need) is None]:
        return math.nan, f"nobody told its {missing[0]}"
    return called(name, row.function, {need: have[need] for need in row.needs})


def _no_score(name: str, have: Mapping[str, Any]) -> str:
    if name not in have:
        return "several clients share the domain, and none has all its examples"
    known = numpy.flatnonzero(have["confusion"].sum(1)).tolist() if "confusion" in have else list[int]()
    if len(known) == 1:
        return f"all its examples are of class {known[0]}"
    return "it has no value there" if math.isfinite(have["risk"]) else NOT_FINITE


def joined(one: Pooled, other: Pooled) -> dict[str, Any]:
    """The evaluation of two sets of examples together; what cannot be put together is left out.

    Raises:
        FedhaError: They counted different things.
    """
    if not one["examples"] or not other["examples"]:
        return dict(other if other["examples"] else one)
    total = one["examples"] + other["examples"]
    found = {
        name: (one[name] * one["examples"] + other[name] * other["examples"]) / total
        for name in ("accuracy", "risk")
        if name in one and name in other
    }
    for name in (name for name in COUNTS if name in one and name in other):
        if len(one[name]) != len(other[name]):
            raise FedhaError(f"two clients of a domain count {name} over other classes; give all one network")
        found[name] = [a + b for a, b in zip(one[name], other[name], strict=True)]
    groups = {**one.get("groups", {})}
    for name, numbers in other.get("groups", {}).items():
        groups[name] = joined(groups[name], numbers) if name in groups else numbers
    return {**found, "examples": total, **({"groups": groups} if groups else {})}


def wrong_counts(sums: Mapping[str, Sequence[float]], numbers: Mapping[str, float]) -> str | None:
    """What is wrong with counts that a client sent, in a phrase; None if nothing is.

    Args:
        sums: By part, perhaps group, and name.
        numbers: What it sent beside them.
    """
    for key, values in sums.items():
        where, _, name = key.rpartition("/")
        size = 3 * BINS if name == "bins" else math.isqrt(len(values)) ** 2
        if name not in COUNTS or len(values) != size:
            return f"its {key} has {len(values)} numbers"
        if name == "confusion":
            examples = numbers.get(f"{where}/examples", 0)
            if any(value < 0 or not float(value).is_integer() for value in values) or sum(values) != examples:
                return f"its {key} does not count its {examples:g} examples"
    return None
