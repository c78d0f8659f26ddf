"""An audit as a table: every attack in a row, beside the guess."""

import math
import statistics
from collections.abc import Iterable, Sequence

import torch

from fedha.audit.attacks import ATTACKS
from fedha.audit.findings import Finding, Findings, NotRun
from fedha.audit.scores import bootstrap
from fedha.report.formats import Cell, Column, Table


def summary(findings: Findings, seed: int = 0, caption: str = "What the attacks recovered from what was sent") -> Table:
    """Every attack in a row: how well it did on clients and on the aggregate, beside its baseline.

    Args:
        findings: Of an audit.
        seed: Of the intervals over releases.
        caption: Of the table.

    Returns:
        Means over releases, and the most that any single release gave away; attacks without a score are left out.
    """
    heads = ("attack", "on", "measured as", "releases", "mean", "95 % interval", "worst release", "guess")
    rows: list[tuple[Cell, ...]] = []
    for attack, kind in ATTACKS.items():
        scored = [one for one in findings.found if one.attack == attack and one.value is not None]
        for on, group in (("clients", _clients(scored)), ("the aggregate", _aggregates(scored))):
            if group:
                rows.append((kind.title, on, kind.measure, str(len(group)), *_numbers(attack, group, seed)))
    notes = ["Intervals: bootstrap over releases; releases of one client in other rounds are not independent of it."]
    notes += [
        f"{kind.title}: could not run on {count} of the releases, for example because {reason}."
        for attack, kind in ATTACKS.items()
        for count, reason in [_reasons(findings.not_run, attack)]
        if count
    ]
    columns = tuple(Column(head, number=head in heads[3:]) for head in heads)
    return Table(caption, columns, tuple(rows), tuple(notes))


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


def _reasons(not_run: Iterable[NotRun], attack: str) -> tuple[int, str]:
    reasons = [one.reason for one in not_run if one.attack == attack]
    return len(reasons), max(reasons, key=reasons.count, default="")
