"""Parallel coordinates: each run of a recipe as a line through its hyperparameters and what came of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from fedha.report.drawing import GRID, SOURCES, TARGETS, draw, shorten
from fedha.schema import shown
from fedha.sweep.metric_format import OF_ACCURACY, MetricFormat
from fedha.sweep.varied_values import Tried, as_number, axis_scale

_MOST_LINES = 300
_BEST = 0.1  # share of the runs that are drawn thick
_VALIDATION = "validation %"


@dataclass(frozen=True)
class Scale:
    """An upright axis.

    Attributes:
        title: What stands below it.
        heights: Of each run, 0 to 1.
        low: What stands at its lower end.
        high: At its upper end.
    """

    title: str
    heights: Sequence[float]
    low: str
    high: str


def parallel_figure(name: str, title: str, runs: Sequence[Tried], form: MetricFormat = OF_ACCURACY) -> str:
    """Draw the runs of one recipe; "" for fewer than three, or where fewer than two things were varied.

    Args:
        name: Unique in the page.
        title: The recipe's.
        runs: Its; of very many those with the best validation.
        form: How the metric is written.
    """
    judged = sorted(runs, key=lambda one: -math.inf if one.validation is None else one.validation)
    kept = judged[-_MOST_LINES:]
    keys = [key for key in dict.fromkeys(key for one in kept for key in one.values) if _differ(key, kept)]
    if len(kept) < 3 or len(keys) < 2:
        return ""
    scales = [scale_of(key.rpartition(".")[2], [one.values.get(key) for one in kept]) for key in keys]
    if all(one.validation is not None for one in kept):
        scales.append(scale_of(_VALIDATION, [one.validation for one in kept]))
    scales.append(scale_of(f"unseen {form.title}{form.unit}", [one.value for one in kept]))
    best = max(1, round(_BEST * len(kept)))

    def plot(axes: Axes) -> None:
        axes.set_position((0.05, 0.2, 0.9, 0.66))
        axes.set(xlim=(-0.4, len(scales) - 0.6), ylim=(-0.02, 1.02))
        axes.axis("off")
        for place, scale in enumerate(scales):
            axes.plot((place, place), (0, 1), color=GRID, linewidth=1.4)
            axes.text(place, -0.06, scale.low, ha="center", va="top", fontsize=8)
            axes.text(place, 1.04, scale.high, ha="center", va="bottom", fontsize=8)
            axes.text(place, -0.16, shorten(scale.title, 22), ha="center", va="top", fontsize=9)
        for number in range(len(kept)):
            first = number >= len(kept) - best
            color, width, alpha = (TARGETS[0], 2.0, 0.95) if first else (SOURCES[0], 1.0, 0.3)
            line = [scale.heights[number] for scale in scales]
            axes.plot(range(len(scales)), line, color=color, linewidth=width, alpha=alpha, zorder=2 + first)

    told = ", ".join(f"{key} {shown(kept[-1].values.get(key))}" for key in keys)
    text = f"Each run of {title} as a line through what was varied; the best by validation has {told}."
    return draw(plot, name, text, width=max(5.6, 1.35 * len(scales)), height=3.4)


def scale_of(title: str, values: Sequence[Any]) -> Scale:
    """Where each value stands on an upright axis: numbers by their size, others by their names' order."""
    numbers = [as_number(one) for one in values]
    known = [one for one in numbers if one is not None]
    if len(known) < len(values):
        names = sorted({shown(one) for one in values})
        step, ends = 1 / max(1, len(names) - 1), (shorten(names[0], 14), shorten(names[-1], 14))
        return Scale(title, [step * names.index(shown(one)) for one in values], *ends)
    placed = [math.log10(one) for one in known] if axis_scale(known) == "log" else known
    low, span = min(placed), (max(placed) - min(placed)) or 1.0
    return Scale(title, [(one - low) / span for one in placed], f"{min(known):.4g}", f"{max(known):.4g}")


def _differ(key: str, runs: Sequence[Tried]) -> bool:
    return len({shown(one.values.get(key)) for one in runs}) > 1
