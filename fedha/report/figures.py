"""The report's figures: curves over the rounds, and sources against the target."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes

from fedha.report.accuracies import Results, mean_over_domains, target_accuracy
from fedha.report.drawing import INK, SOURCES, TARGETS, Label, draw, label_ends, set_scale
from fedha.runs.wording import MANY, target_title

Records = Sequence[Mapping[str, Any]]  # the rounds of one run
Points = tuple[list[int], list[float], list[float]]  # rounds, means, deviations over seeds

_JOINED: Mapping[str, Callable[[list[float]], float]] = {"mean": statistics.fmean, "worst": min}  # of many domains
MOST_POINTS = 300  # of a curve; more cannot be seen


def accuracy_figure(name: str, title: str, runs: Sequence[Records], warmup: int, low: float) -> str:
    """Accuracy over the rounds: held-out parts of the sources, and the unseen targets; of many, mean and worst.

    Args:
        name: Unique in the page.
        title: Whose curves they are, for the description.
        runs: One run a seed.
        warmup: Rounds of the recipe's warm-up; its end is marked.
        low: Where the axis begins, in percent, so that figures can be compared.
    """
    curves: list[tuple[str, str, Points]] = []
    for part, colors in (("held_out", SOURCES), ("target", TARGETS)):
        names = _names(runs, part)
        of_all = {f"{word} of {len(names):,}": _over_domains(part, join) for word, join in _JOINED.items()}
        each = {target_title(one) if part == "target" else one: _accuracy(part, one) for one in names}
        for (called, value), color in zip((each if len(names) <= MANY else of_all).items(), cycle(colors)):
            curves.append((called, color, over_rounds(runs, value)))

    def plot(axes: Axes) -> None:
        axes.set_ylim(low, 100)
        labels = []
        for called, color, points in curves:
            labels += _curve(axes, points, color, called, thick=color in TARGETS)
        _mark_warmup(axes, warmup)
        _finish(axes, "accuracy %", labels)

    ends = "; ".join(f"{domain} ends at {points[1][-1]:.1f} %" for domain, _, points in curves if points[0])
    return draw(plot, name, f"Accuracy over rounds, {title}: {ends}.")


def loss_figure(name: str, title: str, runs: Sequence[Records], warmup: int) -> str:
    """The loss that is minimised and the risk in it, over the rounds, means over the sources."""
    if all("loss" not in record for records in runs for record in records):
        return ""  # where every example is protected no loss is sent
    loss = over_rounds(runs, lambda record: record.get("loss"))
    risk = over_rounds(runs, _mean_risk)

    def plot(axes: Axes) -> None:
        labels = _curve(axes, risk, SOURCES[0], "risk") + _curve(axes, loss, INK, "loss")
        if _spans(loss[1] + risk[1]):
            axes.set_yscale("log")
        _mark_warmup(axes, warmup)
        _finish(axes, "nats", labels)

    end = f"ends at {loss[1][-1]:.3g}" if loss[0] else "is never finite"
    return draw(plot, name, f"Loss and risk over rounds, {title}: the loss {end}.")


def penalty_figure(name: str, title: str, runs: Sequence[Records], warmup: int) -> str:
    """Each penalty term over the rounds, before any weight; "" for a recipe without terms."""
    terms = list(dict.fromkeys(term for run in runs for record in run for term in record.get("penalty", {})))
    curves = [(term, over_rounds(runs, _term(term))) for term in terms]
    values = [value for _, points in curves for value in points[1]]
    if not values:
        return ""

    def plot(axes: Axes) -> None:
        labels = []
        for (term, points), color in zip(curves, cycle(SOURCES)):
            labels += _curve(axes, points, color, term.replace("_", " "))
        if any(values):  # an inner product may be negative
            set_scale(axes.set_yscale, "log" if min(values) > 0 else "symlog", values)
        _mark_warmup(axes, warmup)
        _finish(axes, "penalty, unweighted", labels)

    ends = "; ".join(f"{term} ends at {points[1][-1]:.3g}" for term, points in curves if points[0])
    return draw(plot, name, f"Penalty terms over rounds, {title}: {ends}.")


def sources_figure(name: str, title: str, runs: Sequence[Records], warmup: int) -> str:
    """How far the sources' Hessians and gradients are apart, over the rounds, beside chance; "" where not logged."""
    shown = {"hessian": "Hessians, spectral norm", "gradient": "gradients"}
    known = {key: over_rounds(runs, _logged(key)) for kind in shown for key in (kind, f"{kind}_chance_95")}
    values = [value for _, means, _ in known.values() for value in means]
    if not values:
        return ""

    def plot(axes: Axes) -> None:
        labels: list[Label] = []
        for (kind, called), color in zip(shown.items(), cycle(SOURCES)):
            labels += _curve(axes, known[kind], color, called)
            rounds, chance, _ = known[f"{kind}_chance_95"]
            axes.plot(rounds, chance, color=color, linewidth=1.1, linestyle=(0, (2, 3)))
        if min(values) > 0:
            axes.set_yscale("log")
        _mark_warmup(axes, warmup)
        _finish(axes, "difference", labels)

    ends = "; ".join(
        f"{called} end at {known[kind][1][-1]:.3g}, of which chance makes up to {known[f'{kind}_chance_95'][1][-1]:.3g}"
        for kind, called in shown.items()
        if known[kind][0] and known[f"{kind}_chance_95"][0]
    )
    return draw(
        plot, name, f"Difference of the sources that are farthest apart, dotted: 95 % of chance, {title}: {ends}."
    )


def scatter_figure(name: str, rows: Mapping[str, Sequence[Results]]) -> str:
    """Held-out accuracy on the sources against accuracy on the target, a dot a run; "" where no run has both."""
    dots = {}
    for title, runs in rows.items():
        pairs = [(mean_over_domains("sources")(one), target_accuracy()(one)) for one in runs]
        dots[title] = [(100 * x, 100 * y) for x, y in pairs if x is not None and y is not None]
    every = [pair for pairs in dots.values() for pair in pairs]
    if not every:
        return ""

    def plot(axes: Axes) -> None:
        axes.set(xlim=_limits([x for x, _ in every]), ylim=_limits([y for _, y in every]))
        axes.plot([0, 100], [0, 100], color=INK, linewidth=0.9, linestyle=(0, (2, 3)), zorder=1)
        labels = []
        styles = cycle((color, mark) for mark in "os^Dv" for color in (*SOURCES, *TARGETS))
        for (title, pairs), (color, mark) in zip(dots.items(), styles, strict=False):
            if pairs:
                axes.plot(*zip(*pairs, strict=True), mark, color=color, markersize=6, alpha=0.85, label=title)
                labels.append((statistics.fmean(y for _, y in pairs), f"{_SHAPES[mark]} {title}", color))
        axes.set(xlabel="sources held out, accuracy %", ylabel="target, accuracy %")
        label_ends(axes, labels)

    said = "; ".join(
        f"{title} {statistics.fmean(x for x, _ in pairs):.1f} % and {statistics.fmean(y for _, y in pairs):.1f} %"
        for title, pairs in dots.items()
        if pairs
    )
    text = f"Accuracy on the sources' held-out parts and on the target, final round, means: {said}."
    return draw(plot, name, text, width=6.6, height=max(4.2, 0.34 * len(dots)))


def over_rounds(runs: Sequence[Records], value: Callable[[Mapping[str, Any]], float | None]) -> Points:
    """A quantity's mean and deviation over the runs that have it, at the rounds they share.

    Returns:
        Rounds, means, sample deviations (0 for one run), thinned to about `MOST_POINTS`.
    """
    every = [{record["round"]: found for record in run if (found := value(record)) is not None} for run in runs]
    by_run = [one for one in every if one] or [{}]
    common = [round for round in by_run[0] if all(round in one for one in by_run)]
    step = -(-len(common) // MOST_POINTS) or 1
    kept = sorted({*common[::step], *common[-1:]})
    at = [[one[round] for one in by_run] for round in kept]
    return kept, [statistics.fmean(v) for v in at], [statistics.stdev(v) if len(v) > 1 else 0.0 for v in at]


_SHAPES = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼"}


def _curve(axes: Axes, points: Points, color: str, label: str, *, thick: bool = False) -> list[Label]:
    rounds, means, deviations = points
    if not rounds:
        return []
    axes.plot(rounds, means, color=color, linewidth=2.4 if thick else 1.5, marker="o" if len(rounds) == 1 else "")
    if any(deviations):
        lower = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
        upper = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
        axes.fill_between(rounds, lower, upper, color=color, alpha=0.16, linewidth=0)
    return [(means[-1], label, color)]


def _finish(axes: Axes, unit: str, labels: list[Label]) -> None:
    axes.set(xlabel="round", ylabel=unit)
    axes.margins(x=0.01)
    label_ends(axes, labels)


def _mark_warmup(axes: Axes, warmup: int) -> None:
    if warmup:
        axes.axvline(warmup, color=INK, linewidth=0.9, linestyle=(0, (2, 3)))
        place = axes.get_xaxis_transform()
        axes.text(warmup, 1.0, " warm-up ends", transform=place, va="top", fontsize=8.5)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """An axis around values, of ten points at least, so that small differences do not look large."""
    margin = max(0.08 * (max(values) - min(values)), 5 - (max(values) - min(values)) / 2)
    return min(values) - margin, max(values) + margin


def _spans(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > 30 * min(values)


def _names(runs: Sequence[Records], part: str) -> list[str]:
    return list(dict.fromkeys(name for run in runs for record in run for name in record.get(part) or {}))


def _accuracy(part: str, domain: str) -> Callable[[Mapping[str, Any]], float | None]:
    def value(record: Mapping[str, Any]) -> float | None:
        accuracy = ((record.get(part) or {}).get(domain) or {}).get("accuracy")
        return None if accuracy is None else 100 * accuracy

    return value


def _over_domains(part: str, join: Callable[[list[float]], float]) -> Callable[[Mapping[str, Any]], float | None]:
    def value(record: Mapping[str, Any]) -> float | None:
        found = [one.get("accuracy") for one in (record.get(part) or {}).values()]
        known = [100 * one for one in found if one is not None]
        return join(known) if known else None

    return value


def _term(term: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda record: record.get("penalty", {}).get(term)


def _logged(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda record: record.get("diagnosis", {}).get(key)


def _mean_risk(record: Mapping[str, Any]) -> float | None:
    risks = [risk for risk in record.get("risk", {}).values() if risk is not None]
    return statistics.fmean(risks) if risks and all(map(math.isfinite, risks)) else None
