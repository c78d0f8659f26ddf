"""A metric against each hyperparameter: a dot a run, and a line where a few values were tried by many runs."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes

from fedha.report.drawing import SOURCES, TARGETS, Label, draw, label_ends, set_scale
from fedha.sweep.metric_format import OF_ACCURACY, MetricFormat
from fedha.sweep.varied_values import Tried, as_number, axis_scale, is_grid

_MARKS = tuple((color, mark) for mark in "os^Dv" for color in (*SOURCES, *TARGETS))

Pairs = list[tuple[float, float]]  # of a hyperparameter, of the metric


def hyperparameter_figure(name: str, key: str, runs: Sequence[Tried], form: MetricFormat = OF_ACCURACY) -> str:
    """Draw one key.

    Args:
        name: Unique in the page.
        key: Whose values are numbers.
        runs: Of every recipe; those without the key are left out.
        form: How the metric is written.
    """
    groups: dict[str, Pairs] = {}
    for one in runs:
        value = as_number(one.values[key]) if key in one.values else None
        if value is not None:
            groups.setdefault(one.label, []).append((value, one.value))
    every = [value for pairs in groups.values() for value, _ in pairs]
    lines = is_grid(key, runs)

    def plot(axes: Axes) -> None:
        set_scale(axes.set_xscale, axis_scale(every), every)
        labels: list[Label] = []
        for (title, pairs), (color, mark) in zip(groups.items(), cycle(_MARKS), strict=False):
            means = list(means_of(pairs).items())
            axes.plot(*zip(*pairs, strict=True), mark, color=color, markersize=4, alpha=0.35 if lines else 0.75)
            if lines:
                axes.plot(*zip(*means, strict=True), color=color, linewidth=1.8)
            labels.append((means[-1][1] if lines else statistics.fmean(y for _, y in pairs), title, color))
        axes.set(xlabel=key, ylabel=form.axis)
        label_ends(axes, labels)

    told = "; ".join(f"{title} is best at {_best(pairs, form):.4g}" for title, pairs in groups.items())
    text = f"{form.title.capitalize()} on unseen domains against {key}, a dot a run: {told}."
    return draw(plot, name, text, height=max(3.1, 0.2 * len(groups)))


def means_of(pairs: Pairs) -> Mapping[float, float]:
    """The metric's mean at each value of a hyperparameter, from the lowest to the highest."""
    found: dict[float, list[float]] = {}
    for place, value in sorted(pairs):
        found.setdefault(place, []).append(value)
    return {place: statistics.fmean(several) for place, several in found.items()}


def _best(pairs: Pairs, form: MetricFormat) -> float:
    means = means_of(pairs)
    best = form.best(means.values())
    return next(place for place, mean in means.items() if mean == best)
