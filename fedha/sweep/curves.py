"""A metric on unseen domains of the runs that a rule keeps, over their rounds, bytes and seconds."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from fedha.report.drawing import SOURCES, TARGETS, Label, draw, label_ends
from fedha.report.figures import MOST_POINTS
from fedha.runs import runfolder
from fedha.sweep.metric_format import OF_ACCURACY, MetricFormat
from fedha.sweep.selection import ACCURACY, Chosen, Place, Row

AXES: Mapping[str, str] = {"rounds": "round", "bytes": "megabytes, up and down", "seconds": "seconds"}
_STYLES = tuple((color, dash) for dash in ("-", (0, (4, 2)), (0, (1, 1.5))) for color in (*SOURCES, *TARGETS))


@dataclass(frozen=True)
class Point:
    """A round that was evaluated.

    Attributes:
        spent: Rounds, megabytes and seconds so far: the keys of `AXES`.
        value: Of the metric on the first target, in percent where it is a fraction.
    """

    spent: Mapping[str, float]
    value: float


@dataclass(frozen=True)
class Curve:
    """A recipe's line, with a band.

    Attributes:
        spent: By axis the places of its points, means over its runs.
        means: Of the metric over targets and trials.
        deviations: Over trials; 0 for one.
    """

    spent: Mapping[str, Sequence[float]]
    means: Sequence[float]
    deviations: Sequence[float]


def read_curves(chosen: Mapping[Place, Chosen], places: Mapping[str, Path], metric: str = ACCURACY) -> dict[Row, Curve]:
    """The curves of the runs that a rule keeps, by row.

    Args:
        chosen: As `fedha.sweep.selection.choose` has it.
        places: The runs' folders, by name.
        metric: What is drawn.

    Raises:
        FedhaError: A file is damaged.
    """
    rows: dict[Row, dict[int, list[dict[int, Point]]]] = {}
    for (row, _, seed), one in chosen.items():
        points = run_points(runfolder.read_metrics(places[one.entry.name]), metric)
        rows.setdefault(row, {}).setdefault(seed, []).append(points)
    return {row: curve for row, trials in rows.items() if (curve := joined(trials)) is not None}


def run_points(records: Iterable[Mapping[str, Any]], metric: str = ACCURACY) -> dict[int, Point]:
    """A run's rounds at which a metric has a value on its first target, by number."""
    found, kept, scale = {}, list(records), MetricFormat.of(metric).scale
    moved = accumulate((one.get("bytes_up") or 0) + (one.get("bytes_down") or 0) for one in kept)
    took = accumulate(one.get("seconds") or 0.0 for one in kept)
    for record, amount, seconds in zip(kept, moved, took, strict=True):
        known = [one[metric] for one in (record.get("target") or {}).values() if one.get(metric) is not None]
        if known:
            spent = {"rounds": float(record["round"]), "bytes": amount / 1e6, "seconds": seconds}
            found[int(record["round"])] = Point(spent, scale * known[0])
    return found


def joined(trials: Mapping[int, Sequence[Mapping[int, Point]]]) -> Curve | None:
    """The curve of several trials, each of one run a target, at the rounds that all have; None where there is none."""
    runs = [one for several in trials.values() for one in several]
    common = sorted(set.intersection(*(set(one) for one in runs)))
    step = -(-len(common) // MOST_POINTS) or 1
    rounds = sorted({*common[::step], *common[-1:]})
    if not rounds:
        return None
    spent = {axis: [statistics.fmean(one[number].spent[axis] for one in runs) for number in rounds] for axis in AXES}
    at = [[_mean_at(several, number) for several in trials.values()] for number in rounds]
    deviations = [statistics.stdev(one) if len(one) > 1 else 0.0 for one in at]
    return Curve(spent, [statistics.fmean(one) for one in at], deviations)


def _mean_at(runs: Sequence[Mapping[int, Point]], number: int) -> float:
    return statistics.fmean(one[number].value for one in runs)


def curve_figure(name: str, curves: Mapping[str, Curve], axis: str, form: MetricFormat = OF_ACCURACY) -> str:
    """Draw one line a recipe; "" where nothing is known of the axis.

    Args:
        name: Unique in the page.
        curves: By title.
        axis: A key of `AXES`.
        form: How the metric is written.
    """
    if not any(any(one.spent[axis]) for one in curves.values()):
        return ""

    def plot(axes: Axes) -> None:
        labels: list[Label] = []
        for (title, curve), (color, dash) in zip(curves.items(), cycle(_STYLES), strict=False):
            places = curve.spent[axis]
            axes.plot(places, curve.means, color=color, linestyle=dash, marker="o" if len(places) == 1 else "")
            if any(curve.deviations):
                low, high = (_shifted(curve, sign) for sign in (-1, 1))
                axes.fill_between(places, low, high, color=color, alpha=0.14, linewidth=0)
            labels.append((curve.means[-1], title, color))
        axes.set(xlabel=AXES[axis], ylabel=form.axis)
        axes.margins(x=0.01)
        label_ends(axes, labels)

    ends = "; ".join(
        f"{title} {form.written(one.means[-1])} after {one.spent[axis][-1]:.4g}" for title, one in curves.items()
    )
    text = f"{form.title.capitalize()} on unseen domains over {AXES[axis]}, ends: {ends}."
    return draw(plot, name, text, height=max(3.1, 0.2 * len(curves)))


def _shifted(curve: Curve, sign: int) -> list[float]:
    return [mean + sign * one for mean, one in zip(curve.means, curve.deviations, strict=True)]
