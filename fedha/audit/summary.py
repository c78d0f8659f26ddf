"""An audit as a table: every attack in a row, beside the guess."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import torch

from fedha.audit.attacks import ATTACKS
from fedha.audit.findings import Finding, Findings
from fedha.audit.scores import bootstrap
from fedha.report.formats import Cell, Column, Table

_INTERVALS = "Intervals: bootstrap over releases; releases of one client in other rounds are not independent of it."


def summary(findings: Findings, seed: int = 0, caption: str = "What the attacks recovered from what was sent") -> Table:
    """Every attack in a row: how well it did on clients and on the aggregate, beside its baseline.

    Args:
        findings: Of an audit.
        seed: Of the intervals over releases.
        caption: Of the table.

    Returns:
        Means over releases, and the most that any single release gave away; attacks without a score are left out.
    """
    heads = ("attack", "on", "measured as", "releases", "mean", "95 % interval", "worst release", "guess", "also")
    rows: list[tuple[Cell, ...]] = []
    for attack, kind in ATTACKS.items():
        scored = [one for one in findings.found if one.attack == attack and one.value is not None]
        for on, group in (("clients", _clients(scored)), ("the aggregate", _aggregates(scored))):
            if group:
                numbers = _numbers(attack, group, seed)
                rows.append((kind.title, on, kind.measure, str(len(group)), *numbers, _also(group)))
    columns = tuple(Column(head, number=head in heads[3:-1]) for head in heads)
    return Table(caption, columns, tuple(rows), (_INTERVALS, *_absent(findings)))


def small_summary(small: Mapping[int, Findings], seed: int = 0) -> Table:
    """The same for clients of a few examples, with the number of their examples in a column.

    Args:
        small: By the number of each client's examples; one or more.
        seed: Of the intervals over releases.
    """
    tables = {count: summary(findings, seed) for count, findings in small.items()}
    rows = [(row[0], str(count), *row[1:]) for count, table in tables.items() for row in table.rows]
    first, *others = next(iter(tables.values())).columns
    columns = (first, Column("examples each", number=True), *others)
    notes = dict.fromkeys(note for table in tables.values() for note in table.notes if note.startswith("Not run"))
    return Table("A first round with clients of a few examples", columns, tuple(rows), tuple(notes))


def mean_value(findings: Iterable[Finding]) -> float | None:
    """The mean over findings that have a score; None where none has."""
    values = [one.value for one in findings if one.value is not None and math.isfinite(one.value)]
    return statistics.fmean(values) if values else None


def _numbers(attack: str, group: Sequence[Finding], seed: int) -> tuple[str | None, ...]:
    kind = ATTACKS[attack]
    values = torch.tensor([one.value for one in group], dtype=torch.float64)
    guesses = [one.baseline for one in group if one.baseline is not None]
    [(low, high)] = bootstrap(lambda some: [float(some.mean())], [values], seed)
    worst = float(values.min() if kind.lower_is_better else values.max())
    return (
        kind.text(float(values.mean())),
        f"{kind.text(low)} to {kind.text(high)}" if len(group) > 1 else None,
        kind.text(worst),
        kind.text(statistics.fmean(guesses)) if guesses else None,
    )


def _clients(found: Iterable[Finding]) -> list[Finding]:
    return [one for one in found if one.client is not None]


def _aggregates(found: Iterable[Finding]) -> list[Finding]:
    return [one for one in found if one.client is None]


def _also(group: Sequence[Finding]) -> str | None:
    """Second measures: members found at few false alarms, likeness of images, size of an error."""
    said = []
    if rates := [one.detail["true_positive_rate"] for one in group if "true_positive_rate" in one.detail]:
        said.append(f"TPR at 1 % FPR {100 * statistics.fmean(rates):.1f} %")
    if likeness := [value for one in group for value in one.detail.get("ssim") or ()]:
        said.append(f"SSIM {statistics.fmean(likeness):.2f}")
    if errors := [one.detail["relative_error"] for one in group if "relative_error" in one.detail]:
        said.append(f"relative error {statistics.fmean(errors):.2f}")
    return ", ".join(said) or None


def _absent(findings: Findings) -> list[str]:
    """Which attacks did not run on some releases and why, a sentence a reason."""
    places = [(one.round, one.client) for one in findings.found] + [(one.round, one.client) for one in findings.not_run]
    count = len({place for place in places if place[0] is not None})
    reasons: dict[str, list[str]] = {}
    for attack, kind in ATTACKS.items():
        own = [one.reason for one in findings.not_run if one.attack == attack]
        if own:
            reason = max(own, key=own.count)
            some = "" if len(own) >= count or kind.family.endswith("model") else f" on {len(own)} releases"
            reasons.setdefault(reason, []).append(f"{kind.title}{some}")
    return [f"Not run, because {reason}: {'; '.join(titles)}." for reason, titles in reasons.items()]
