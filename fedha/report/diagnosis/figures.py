"""The diagnosis's figures: accuracy against radius, measured beside its bound, the plane of shifts."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes

from fedha.report.drawing import INK, SOURCES, TARGETS, Label, draw, label_ends

Pairs = Sequence[Mapping[str, Any]]
Points = Mapping[str, tuple[float, float]]  # diversity and correlation by what they are of

KNOWN: Points = {
    "Colored MNIST, colour": (0.0, 0.75),
    "colour and shape": (0.0, 0.607),
    "backgrounds, a quarter apart": (0.25, 0.0),
    "a half apart": (0.5, 0.0),
    "three quarters apart": (0.75, 0.0),
}
_WIDE, _HIGH = 6.4, 3.9
_LINE = 19  # letters of a legend's line


def panels(name: str, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every figure that the diagnosis has something for: heading and ``<svg>``.

    Args:
        name: Unique in the page.
        found: The content of a diagnosis.json.
    """
    pairs = found.get("transfer", {}).get("pairs", [])
    roles = {one["name"]: one["role"] for one in found["domains"]}
    for place, (source, target) in enumerate(dict.fromkeys((one["source"], one["target"]) for one in pairs)):
        own = [one for one in pairs if (one["source"], one["target"]) == (source, target)]
        title = f"from {source} to {target}"
        yield f"Accuracy at the worst head, {title}", radius_figure(f"{name}r{place}", title, own, roles)
        yield f"Measured and bound, {title}", bound_figure(f"{name}b{place}", title, own)
    if points := points_of(found):
        yield "Diversity and correlation", plane_figure(f"{name}s", points)


def radius_figure(name: str, title: str, pairs: Pairs, roles: Mapping[str, str]) -> str:
    """Each domain's accuracy at the worst head, against the radius."""
    radii = [one["logits"] for one in pairs]
    names = list(pairs[0]["accuracies"])
    colors = _colors(names, roles)

    def plot(axes: Axes) -> None:
        labels: list[Label] = []
        for domain in names:
            values = [100 * one["accuracies"][domain][1] for one in pairs]
            start = 100 * pairs[0]["accuracies"][domain][0]
            axes.plot([0, *radii], [start, *values], color=colors[domain], marker="o", markersize=3)
            labels.append((values[-1], domain, colors[domain]))
        axes.set(xlabel="radius, logit units", ylabel="accuracy, %")
        axes.set_xscale("symlog", linthresh=min(radii))
        axes.margins(x=0.01)
        label_ends(axes, labels)

    ends = "; ".join(f"{domain} {100 * pairs[-1]['accuracies'][domain][1]:.1f} %" for domain in names)
    return draw(plot, name, f"Accuracy at the worst head, {title}; at the largest radius: {ends}.")


def bound_figure(name: str, title: str, pairs: Pairs) -> str:
    """What was measured beside the parts of the bound, for each radius."""
    kinds = {"risk_gap": "risk gap", "gradient": "gradient", "curvature": "curvature", "third_order": "third order"}

    def plot(axes: Axes) -> None:
        bottoms = [0.0] * len(pairs)
        for (kind, shown), color in zip(kinds.items(), SOURCES, strict=False):
            values = [max(0.0, one["parts"][kind]) for one in pairs]
            axes.bar(range(len(pairs)), values, 0.55, bottom=bottoms, color=color, label=shown)
            bottoms = [low + one for low, one in zip(bottoms, values, strict=True)]
        axes.plot(
            range(len(pairs)),
            [one["measured"] for one in pairs],
            "_",
            color=TARGETS[0],
            markersize=22,
            label="measured",
        )
        axes.set_xticks(range(len(pairs)), [f"{one['logits']:.3g}\n{one['rule']}" for one in pairs])
        axes.set(ylabel="nats", xlabel="")
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=8)

    told = "; ".join(f"{one['logits']:.3g}: {one['measured']:.3g} of {one['bound']:.3g}" for one in pairs)
    return draw(plot, name, f"Measured and bound by radius in logit units, {title}: {told}.")


def points_of(found: Mapping[str, Any]) -> Points:
    """Where the shifts of a diagnosis lie in the plane, by pair and space."""
    return {
        f"{one['first']} – {one['second']}, {one['space']}": (one["diversity"], one["correlation"])
        for one in found.get("shift", [])
    }


def plane_figure(name: str, points: Points, known: Points = KNOWN) -> str:
    """The plane of diversity and correlation: what was found, and as rings data sets whose truth is known."""

    def plot(axes: Axes) -> None:
        for x, y in known.values():
            axes.plot(x, y, "o", color=INK, markersize=11, markerfacecolor="none", linewidth=0.8, clip_on=False)
        for (title, (x, y)), color, mark in zip(points.items(), cycle((*TARGETS, *SOURCES)), cycle("os^Dv")):
            shown = textwrap.fill(title, _LINE)  # names differ at their ends, which a cut would lose
            axes.plot(x, y, mark, color=color, markersize=6, clip_on=False, linestyle="none", label=shown)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="diversity", ylabel="correlation")
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=9, labelspacing=0.7)

    told = "; ".join(f"{title}: {x:.2f} and {y:.2f}" for title, (x, y) in points.items())
    rings = "; ".join(f"{title} {x:.3g} and {y:.3g}" for title, (x, y) in known.items())
    text = f"Diversity and correlation of shifts. {told}. Rings, known: {rings}."
    lines = sum(len(textwrap.wrap(title, _LINE)) for title in points)
    return draw(plot, name, text, width=_WIDE, height=max(_HIGH, 0.22 * lines))


def _colors(names: Sequence[str], roles: Mapping[str, str]) -> dict[str, str]:
    sources, targets = cycle(SOURCES), cycle(TARGETS)
    return {one: next(targets if roles.get(one) == "target" else sources) for one in names}
