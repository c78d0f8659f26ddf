"""The tables of sweeps: accuracies by rule, what they cost, and the comparison with the baseline."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedha.errors import listed
from fedha.progress import byte_count, duration
from fedha.report.formats import Cell, Column, Summary, Table
from fedha.report.tables import BASELINE
from fedha.sweep.compared import Difference, adjusted, difference
from fedha.sweep.found import Found
from fedha.sweep.metric_format import MetricFormat
from fedha.sweep.selection import ACCURACY, RULES, Chosen, Place, Row, choose, row_of
from fedha.sweep.store import Entry

AVERAGE, WORST, OWN = "average", "worst domain", "sources' test part"


_SHORT = 8


def sweep_tables(found: Found, rules: Sequence[str] = (), metric: str = ACCURACY) -> list[Table]:
    """The tables of a sweep: for each rule the accuracies and the comparison with ERM, then the cost.

    Args:
        found: Its jobs and what became of them.
        rules: Keys of `RULES`; default: all that have numbers.
        metric: What is told of the targets.
    """
    tables: list[Table] = []
    for rule in rules or RULES:
        chosen = choose(rule, found.jobs, found.summaries, metric)
        if chosen:
            tables.append(accuracies(rule, chosen, rows_apart(found), metric))
            if compared := comparison(rule, chosen, metric):
                tables.append(compared)
    return [*tables, cost(found)] if tables or found.failures else tables


def accuracies(rule: str, chosen: Mapping[Place, Chosen], notes: Sequence[str] = (), metric: str = ACCURACY) -> Table:
    """A row a recipe, a column a target: mean and standard error over trials, best and second marked."""
    form = MetricFormat.of(metric)
    worst = max if form.smaller else min
    targets = list(dict.fromkeys(target for _, target, _ in chosen))
    rows = _rows(chosen)
    tested = metric == ACCURACY and any(one.id_test is not None for one in chosen.values())
    body: list[list[Cell]] = []
    for row in rows:
        cells: list[Cell] = [row_title(row), str(len({seed for one, _, seed in chosen if one == row}))]
        cells += [_summary(_by_trial(chosen, row, [target], form).values(), form) for target in targets]
        if len(targets) > 1:
            every = _by_trial(chosen, row, targets, form).values()
            whole = [one for one in every if len(one) == len(targets)]
            cells += [_summary([made(one) for one in whole], form) for made in (statistics.fmean, worst)]
        if tested:
            cells.append(_summary(_own_tests(chosen, row), form))
        body.append(cells)
    heads = [Column("recipe"), Column("trials", number=True)]
    names = [*targets, *([AVERAGE, WORST] if len(targets) > 1 else []), *([OWN] if tested else [])]
    heads += [Column(f"{name}{form.unit}", number=True, spread="se") for name in names]
    _mark(body, 2, form)
    several = any(isinstance(cell, Summary) and cell.deviation is not None for row in body for cell in row)
    spread = ", mean ± standard error over trials" if several else ""
    return Table(
        f"{form.title.capitalize()} on the unseen domain{form.unit and ' in %'}{spread}; {RULES[rule]}",
        tuple(heads),
        tuple(map(tuple, body)),
        (*_notes(chosen, rows, targets), *notes),
    )


def _own_tests(chosen: Mapping[Place, Chosen], row: Row) -> list[float]:
    """Accuracy on what the sources keep from selection, in percent, a number a trial."""
    found: dict[int, list[float]] = {}
    for (one, _, seed), run in chosen.items():
        if one == row and run.id_test is not None:
            found.setdefault(seed, []).append(100 * run.id_test)
    return [statistics.fmean(several) for several in found.values()]


def comparison(rule: str, chosen: Mapping[Place, Chosen], metric: str = ACCURACY) -> Table | None:
    """Each recipe less ERM, in pairs of one target and trial; None where there is no such pair."""
    pairs: dict[str, list[float]] = {}
    form = MetricFormat.of(metric)
    for (row, target, seed), one in chosen.items():
        other = chosen.get(((row[0], BASELINE), target, seed))
        if row[1] != BASELINE and other is not None:
            pairs.setdefault(row_title(row), []).append(form.scale * (one.accuracy - other.accuracy))
    if not pairs:
        return None
    compared = adjusted({name: difference(values) for name, values in pairs.items()})
    columns = (
        "pairs",
        "points" if form.unit else form.title,
        "95 % interval",
        "p",
        f"p for {len(compared)} comparisons",
    )
    heads = (Column("recipe"), *(Column(name, number=True) for name in columns))
    rule_title = RULES[rule].partition(":")[0].partition(";")[0]
    return Table(
        f"{'' if metric == ACCURACY else f'{form.title.capitalize()}: '}Minus {BASELINE}{form.unit and ', in points'}, "
        f"paired over targets and trials; {rule_title}",
        heads,
        tuple((name, *_comparison_cells(one, form.digits)) for name, one in compared.items()),
        (
            "p: two-sided sign-flip test; the last column is corrected for the number of recipes (Holm). Pairs of one "
            "target share their data, so p is rather too small than too large.",
        ),
    )


def cost(found: Found) -> Table:
    """What the runs of each row took, and how many there are of each state."""
    rows: dict[Row, list[Entry]] = {}
    for entry in found.jobs:
        rows.setdefault(row_of(entry), []).append(entry)
    body = []
    for row, entries in rows.items():
        done = [found.summaries[one.name] for one in entries if one.name in found.summaries]
        epsilons = [one["epsilon"] for one in done if one["epsilon"] is not None]
        body.append(
            (
                row_title(row),
                f"{len(done)} of {len(entries)}",
                str(sum(bool(one["diverged"]) for one in done)),
                str(sum(one.name in found.failures for one in entries)),
                _average(done, "rounds", lambda value: f"{value:.0f}"),
                _average(done, "bytes_up", lambda value: byte_count(round(value))),
                _average(done, "bytes_down", lambda value: byte_count(round(value))),
                _average(done, "seconds", lambda value: f"{value:.1f}"),
                f"{max(epsilons):.3g}" if epsilons else None,
            )
        )
    names = ("runs done", "diverged", "failed", "rounds", "up", "down", "seconds", "largest ε")
    shown = [place for place in range(len(names) + 1) if place != len(names) or any(row[-1] for row in body)]
    heads = (Column("recipe"), *(Column(name, number=True) for name in names))
    spent = [*found.summaries.values(), *found.halted.values()]
    total = sum(float(one["seconds"]) for one in spent)
    return Table(
        "Cost of a run, mean over the runs that are done; bytes are those of all clients together",
        tuple(heads[place] for place in shown),
        tuple(tuple(row[place] for place in shown) for row in body),
        (f"All runs together: {duration(total)} of training.", *_halted(found), *_failed(found)),
    )


def _halted(found: Found) -> list[str]:
    if not found.halted:
        return []
    rounds = sorted({int(one["round"]) for one in found.halted.values()})
    after = f"round {rounds[0]}" if len(rounds) == 1 else f"rounds {rounds[0]} to {rounds[-1]}"
    return [
        f"{len(found.halted)} runs stand after {after}: --halving lets those alone go on that are best on what the "
        "sources hold out. Numbers are chosen among the runs that have ended."
    ]


def _failed(found: Found) -> list[str]:
    whose: dict[str, list[str]] = {}
    for entry in found.jobs:
        if why := found.failures.get(entry.name) or entry.refused:
            whose.setdefault(why, []).append(entry.name)
    return [f"{len(names)} failed: {why} ({listed(names, most=2)})" for why, names in whose.items()]


def _notes(chosen: Mapping[Place, Chosen], rows: Sequence[Row], targets: Sequence[str]) -> list[str]:
    notes = []
    counts = sorted({one.of for one in chosen.values()})
    if counts[-1] > 1:
        among = str(counts[-1]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        notes.append(f"Each number is of the run chosen among {among} of other hyperparameters.")
    for row in rows:
        warm = [one for place, one in chosen.items() if place[0] == row and one.warmup]
        if warm:
            notes.append(
                f"{row_title(row)}: in {len(warm)} of its runs a round of the warm-up (of {warm[0].warmup}) would have "
                "been selected; its model is not yet the recipe's, so the best later round stands here."
            )
        missing = [t for t in targets if not any(place[0] == row and place[1] == t for place in chosen)]
        seeds = {t: {seed for one, target, seed in chosen if one == row and target == t} for t in targets}
        if missing or len({frozenset(one) for one in seeds.values()}) > 1:
            notes.append(f"{row_title(row)}: not every trial has every target yet; averages are over trials that have.")
    return notes


def rows_apart(found: Found) -> list[str]:
    """What has to be said of rows of several sweeps, and of those that a key divides."""
    unsaid = listed(f"{key}={value}" for key, value in found.unsaid.items())
    notes = [f"A row that does not say it has {unsaid}."] if unsaid else []
    if found.apart:
        notes.append(
            f"These sweeps differ in {listed(found.apart)}; runs are chosen among all of them. --rows KEY gives each "
            "value of a key rows of its own."
        )
    return notes


def _rows(chosen: Mapping[Place, Chosen]) -> list[Row]:
    """ERM first, then in the order in which they were asked for."""
    found = list(dict.fromkeys(row for row, _, _ in chosen))
    return sorted(found, key=lambda row: (row[0], row[1] != BASELINE))


def row_title(row: Row) -> str:
    """What a row is called: the recipe, with what was varied of the data."""
    return f"{row[1]} ({row[0]})" if row[0] else row[1]


def _by_trial(
    chosen: Mapping[Place, Chosen], row: Row, targets: Sequence[str], form: MetricFormat
) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for (one, target, seed), what in chosen.items():
        if one == row and target in targets:
            found.setdefault(seed, []).append(form.scale * what.accuracy)
    return found


def _summary(values: Iterable[float | list[float]], form: MetricFormat) -> Summary | None:
    numbers = [one if isinstance(one, float) else statistics.fmean(one) for one in values]
    if not numbers:
        return None
    error = statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else None
    return Summary(statistics.fmean(numbers), error, digits=form.digits)


def _mark(body: list[list[Cell]], first: int, form: MetricFormat) -> None:
    """Mark the best and the second of each column, ties alike, as they are printed."""
    for place in range(first, len(body[0]) if len(body) > 1 else 0):
        cells = [row[place] for row in body]
        shown = {round(one.mean, form.digits) for one in cells if isinstance(one, Summary)}
        values = sorted(shown, reverse=not form.smaller)
        for row in body:
            cell = row[place]
            if isinstance(cell, Summary) and round(cell.mean, form.digits) in values[:2]:
                row[place] = replace(cell, rank=1 + values.index(round(cell.mean, form.digits)))


def _comparison_cells(one: Difference, digits: int) -> tuple[Cell, ...]:
    ends = None if one.low is None or one.high is None else (one.low, one.high)
    interval = ends and " to ".join(f"{end:+.{digits}f}" for end in ends)
    return (str(one.pairs), f"{one.mean:+.{digits}f}", interval, _p(one.p), _p(one.adjusted))


def _p(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _average(done: Sequence[Mapping[str, Any]], key: str, text: Any) -> str | None:
    return text(statistics.fmean(one[key] for one in done)) if done else None
