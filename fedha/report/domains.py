"""The tables of metrics: a row a domain, and a row a group, with intervals; what has no value says why."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedha.errors import FedhaError, listed
from fedha.metrics.choice import Choice, Over
from fedha.metrics.table import metric
from fedha.report.accuracies import Results, sound
from fedha.report.comparison import Variant
from fedha.report.formats import Cell, Column, Summary, Table
from fedha.report.tables import group, label
from fedha.runs.wording import MANY, target_title

Part = Mapping[str, Any]
Several = Sequence[Part]  # one domain, or group, in several seeds

_PLAIN = ("accuracy", "risk", "examples", "undefined", "absent", "interval", "groups", "told")
_INTERVAL = "in brackets the 95 % bootstrap interval over its examples (of several seeds the mean of the ends)"
_GROUPS = 40  # that are shown


def domain_tables(
    results: Sequence[Results], told_apart: Sequence[Variant] | None = None, *, every: bool = False
) -> list[Table]:
    """The metrics of each domain at the final round, and those of each group; none where no run has metrics.

    Args:
        results: Contents of results.json files.
        told_apart: As in `tables.accuracy_table`.
        every: Whether runs without metrics are there too, with the interval of their accuracy.
    """
    results = [_with_intervals(one) for one in results] if every else results
    rows = group(results, told_apart or [Variant()] * len(results))
    parts: dict[str, dict[str, list[Part]]] = {}
    for key, runs in rows.items():
        kept = [one for one in sound(runs) if every or _has_metrics(one)]
        sources, targets = (_by_domain(kept, part) for part in ("sources", "target"))
        if sources or targets:
            whole = {target_title(name): several for name, several in targets.items()}
            parts[label(key)] = {**sources, **_joined(sources, kept), **whole}
    if not parts:
        return []
    told = [(title, name, several) for title, named in parts.items() for name, several in named.items()]
    return [_table("Metrics at the final round", told, "domain"), *_group_table(parts)]


def told_table(domains: Mapping[tuple[str, str], Part]) -> Table | None:
    """The metrics of domains, by name and part; None where there are none.

    Args:
        domains: As results have them.
    """
    rows = [(name, part, [one]) for (name, part), one in domains.items()]
    return _table("Metrics of the examples that have labels", rows, "part", "domain") if rows else None


def _table(caption: str, rows: Sequence[tuple[str, str, Several]], second: str, first: str = "recipe") -> Table:
    names = metric_names(one for *_, several in rows for one in several)
    heads = [Column(first), Column(second), Column("examples", number=True)]
    heads += [Column(f"{title(name)}{' %' if fraction(name) else ''}", number=True) for name in names]
    body = [(one, other, _examples(several), *(_cell(name, several) for name in names)) for one, other, several in rows]
    ends = any(isinstance(cell, Summary) and cell.interval for row in body for cell in row)
    notes = dict.fromkeys(note for _, name, several in rows for note in _notes(name, several))
    return Table(f"{caption}{f', {_INTERVAL}' if ends else ''}", tuple(heads), tuple(body), tuple(notes))


def metric_names(parts: Iterable[Part]) -> list[str]:
    """The metrics that some domains have, accuracy first."""
    return list(dict.fromkeys(["accuracy", *(name for one in parts for name in one if name not in _PLAIN)]))


def title(name: str) -> str:
    """What tables call a metric."""
    return name.rpartition(":")[2].replace("_", " ")


def fraction(name: str) -> bool:
    """Whether a metric is told in percent; somebody's own that cannot be found here is not."""
    try:
        return metric(name).fraction
    except FedhaError:
        return False


def summary(name: str, values: Sequence[float], ends: Sequence[Sequence[float]] = ()) -> Summary | None:
    """A metric over seeds, as tables have it; None where there is no value."""
    if not values:
        return None
    scale, digits = (100.0, 1) if fraction(name) else (1.0, 3)
    spread = scale * statistics.stdev(values) if len(values) > 1 else None
    interval = tuple(scale * statistics.fmean(one) for one in zip(*ends, strict=True)) if ends else None
    return Summary(scale * statistics.fmean(values), spread, interval=interval, digits=digits)  # type: ignore[arg-type]


def _cell(name: str, several: Several) -> Cell:
    values = [one[name] for one in several if one.get(name) is not None]
    ends = [one["interval"][name] for one in several if name in (one.get("interval") or {})]
    return summary(name, values, ends if len(ends) == len(values) else ())


def _examples(several: Several) -> str | None:
    counts = list(dict.fromkeys(int(one.get("examples", 0)) for one in several))
    return f"{counts[0]:,}" if len(counts) == 1 else f"{min(counts):,} to {max(counts):,}"


def _notes(name: str, several: Several) -> Iterable[str]:
    """Why a domain has no value of a metric, which classes it lacks, and over how many a mean is."""
    for one in several:
        for called, why in (one.get("undefined") or {}).items():
            yield f"{name}: no {title(called)} (–): {why}."
        if absent := one.get("absent"):
            yield f"{name}: no example of class {listed(absent)}; means over classes are of the others."
        yield from one.get("told", ())


def _joined(domains: Mapping[str, list[Part]], runs: Sequence[Results]) -> dict[str, list[Part]]:
    """The mean over several domains and the worst of them, of each run."""
    if len(domains) < 2:
        return {}
    names = metric_names(one for several in domains.values() for one in several)
    ways: Mapping[str, Over] = {"sources, mean": "mean", "sources, worst": "worst_domain"}
    return {
        called: [_over([several[place] for several in domains.values()], names, over) for place in range(len(runs))]
        for called, over in ways.items()
        if all(len(several) == len(runs) for several in domains.values())
    }


def _over(domains: Sequence[Part], names: Sequence[str], over: Over) -> Part:
    values = {name: Choice(name, over).value(domains) for name in names}
    found: dict[str, Any] = {"examples": sum(one.get("examples", 0) for one in domains), **values}
    counts = {name: sum(one.get(name) is not None for one in domains) for name in names}
    few = [name for name, count in counts.items() if 0 < count < len(domains)]
    if over == "mean" and few:
        told = listed(f"{title(name)} over {counts[name]} of {len(domains)}" for name in few)
        found["told"] = [f"Means over domains are over those that have a value: {told}."]
    return found


def _group_table(parts: Mapping[str, Mapping[str, Several]]) -> list[Table]:
    rows = [
        (title, f"{domain}: {name}", [one["groups"][name] for one in several if name in one["groups"]])
        for title, domains in parts.items()
        for domain, several in domains.items()
        if several[0].get("groups")
        for name in several[0]["groups"]
    ]
    if not rows:
        return []
    ordered = sorted(rows, key=lambda row: min((one.get("accuracy") or 0.0) for one in row[2]))
    left = f"; the worst {_GROUPS} of {len(rows)}" if len(rows) > _GROUPS else ""
    return [_table(f"Groups at the final round, the least accurate first{left}", ordered[:_GROUPS], "group")]


def _has_metrics(results: Results) -> bool:
    parts: list[Part] = [*results.get("target", {}).values(), *results.get("sources", {}).values(), {}]
    first = parts[0]
    return any(name not in ("accuracy", "risk", "examples") for name in first)


def _with_intervals(results: Results) -> Results:
    """The same with intervals of accuracies: how many were right of how many is known of every run."""
    from fedha.metrics.intervals import interval  # torch, for what is drawn: slow to import

    def told(part: Part) -> Part:
        if part.get("accuracy") is None or not part.get("examples") or "interval" in part:
            return part
        return {**part, "interval": {"accuracy": interval(metric("accuracy"), part, int(results["seed"]))}}

    covered = (results.get("privacy") or {}).get("protect") == "examples"  # noise is on the sources' accuracies
    sides = ("target",) if covered else ("sources", "target")
    return {**results, **{side: {name: told(one) for name, one in results.get(side, {}).items()} for side in sides}}


def _by_domain(runs: Sequence[Results], part: str) -> dict[str, list[Part]]:
    found: dict[str, list[Part]] = {}
    for one in runs:
        for name, domain in one.get(part, {}).items():
            found.setdefault(name, []).append(domain)
    return found if len(found) <= MANY else {}
