"""A metric over two hyperparameters of a recipe: a cell for two values of a grid, a dot for a draw."""

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from fedha.report.drawing import GRID, INK, SOURCES, draw, set_scale
from fedha.sweep.metric_format import OF_ACCURACY, MetricFormat
from fedha.sweep.varied_values import Tried, as_number, axis_scale, is_grid, numeric_keys

_FAINTEST, _STRONGEST = 0.08, 0.85  # how opaque the worst and the best are

Cells = Mapping[tuple[float, float], float]  # mean by the two values


def heat_figure(name: str, title: str, runs: Sequence[Tried], form: MetricFormat = OF_ACCURACY) -> str:
    """Draw the runs of one recipe over the two keys of which most values were tried; "" where there are no two.

    Args:
        name: Unique in the page.
        title: The recipe's.
        runs: Its.
        form: How the metric is written.
    """
    keys = sorted(numeric_keys(runs), key=lambda key: -len({one.values.get(key) for one in runs}))[:2]
    if len(keys) < 2:
        return ""
    cells = cells_of(keys[0], keys[1], runs)
    if len({x for x, _ in cells}) < 2 or len({y for _, y in cells}) < 2:
        return ""
    grid = all(is_grid(key, runs) for key in keys)

    def plot(axes: Axes) -> None:
        axes.set(xlabel=keys[0], ylabel=keys[1])
        (_in_cells if grid else _as_dots)(axes, cells, form)

    best = _best(cells, form)
    told = " and ".join(f"{key} {value:.4g}" for key, value in zip(keys, best, strict=True))
    text = (
        f"{form.title.capitalize()} on unseen domains of {title} over {keys[0]} and {keys[1]}: best at {told}, "
        f"{form.written(cells[best])}."
    )
    return draw(plot, name, text)


def cells_of(first: str, second: str, runs: Sequence[Tried]) -> Cells:
    """The metric's mean over targets and trials at each two values."""
    found: dict[tuple[float, float], list[float]] = {}
    for one in runs:
        x, y = (as_number(one.values.get(key)) for key in (first, second))
        if x is not None and y is not None:
            found.setdefault((x, y), []).append(one.value)
    return {place: statistics.fmean(several) for place, several in found.items()}


def _best(cells: Cells, form: MetricFormat) -> tuple[float, float]:
    best = form.best(cells.values())
    return next(place for place, value in cells.items() if value == best)


def _in_cells(axes: Axes, cells: Cells, form: MetricFormat) -> None:
    columns, rows = (sorted({place[axis] for place in cells}) for axis in (0, 1))
    for place, strength in _strengths(cells, form).items():
        x, y = columns.index(place[0]), rows.index(place[1])
        axes.fill(
            (x - 0.5, x + 0.5, x + 0.5, x - 0.5), (y - 0.5, y - 0.5, y + 0.5, y + 0.5), SOURCES[0], alpha=strength
        )
        axes.text(x, y, f"{cells[place]:.{form.digits}f}", ha="center", va="center", fontsize=9, color=INK)
    axes.set_xticks(range(len(columns)), [f"{one:.4g}" for one in columns])
    axes.set_yticks(range(len(rows)), [f"{one:.4g}" for one in rows])
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5))
    axes.grid(visible=False)


def _as_dots(axes: Axes, cells: Cells, form: MetricFormat) -> None:
    for change, axis in ((axes.set_xscale, 0), (axes.set_yscale, 1)):
        values = [place[axis] for place in cells]
        set_scale(change, axis_scale(values), values)
    for (x, y), strength in sorted(_strengths(cells, form).items(), key=lambda one: one[1]):  # the best lie on top
        axes.plot(x, y, "s", color=SOURCES[0], alpha=strength, markersize=9, markeredgecolor=GRID)
    best = _best(cells, form)
    axes.annotate(form.written(cells[best]), best, xytext=(6, 6), textcoords="offset points", fontsize=9)


def _strengths(cells: Cells, form: MetricFormat) -> dict[tuple[float, float], float]:
    low, high = min(cells.values()), max(cells.values())
    worst, span = (high, low - high) if form.smaller else (low, high - low)
    return {place: _FAINTEST + (_STRONGEST - _FAINTEST) * (one - worst) / (span or 1.0) for place, one in cells.items()}
