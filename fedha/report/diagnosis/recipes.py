"""Diagnoses of several runs together: accuracy at the worst heads against the radius, a line a recipe.

The published picture of Zhang, Zhao, Yu and Poupart, "Quantifying and Improving Transferability in Domain
Generalization", NeurIPS 2021 (figure 3): how far a target falls where the sources hardly notice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from statistics import mean
from typing import Any

from matplotlib.axes import Axes

from fedha.report.drawing import INK, SOURCES, TARGETS, Label, draw, label_ends
from fedha.report.formats import Cell, Column, Table

Found = Mapping[str, Any]  # the content of a diagnosis.json
COLORS = (*TARGETS, *SOURCES, INK)
_MARKS = "os^DvPX"


@dataclass(frozen=True)
class Curve:
    """Of one recipe and target, over the radii.

    Attributes:
        target: Its accuracies, a tuple a run: at the learned head, then at the worst one of each radius.
        sources: The sources' mean accuracies there, likewise.
    """

    target: tuple[tuple[float, ...], ...]
    sources: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Curves:
    """Of all recipes.

    Attributes:
        unit: What radii are in.
        radii: From 0, the learned head, on.
        of: A curve by target and recipe.
    """

    unit: str
    radii: tuple[float, ...]
    of: Mapping[str, Mapping[str, Curve]]


def curves(found: Sequence[Found]) -> Curves | None:
    """What diagnoses say of each target that all sources were held against.

    Returns:
        None where there are not two recipes whose diagnoses have one set of radii.
    """
    measured = [one for one in found if "transfer" in one]
    asked = [one["made"]["settings"] for one in measured]
    radii = {tuple(sorted(one["radii"] or one["logits"])) for one in asked}
    if len(radii) != 1 or len({bool(one["radii"]) for one in asked}) != 1:
        return None
    of: dict[str, dict[str, Curve]] = {}
    for one in measured:
        for target, (own, sources) in _lines(one).items():
            recipes = of.setdefault(target, {})
            known = recipes.get(one["made"]["recipe"], Curve((), ()))
            recipes[one["made"]["recipe"]] = Curve((*known.target, own), (*known.sources, sources))
    if len({recipe for one in of.values() for recipe in one}) < 2:
        return None
    return Curves("weights of the head" if asked[0]["radii"] else "logit units", (0.0, *next(iter(radii))), of)


def _lines(one: Found) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """By target its accuracies over the radii, and the sources' means."""
    roles = {domain["name"]: domain["role"] for domain in one["domains"]}
    sources = [name for name, role in roles.items() if role == "source"]
    found = {}
    for target in (name for name, role in roles.items() if role == "target"):
        pairs = [
            pair["accuracies"]
            for pair in one["transfer"]["pairs"]
            if pair["target"] == target and pair["source"] not in roles  # the sources' mean
        ]
        if pairs:
            heads = [(pairs[0], 0), *((told, 1) for told in pairs)]
            own = tuple(told[target][place] for told, place in heads)
            found[target] = own, tuple(mean(told[name][place] for name in sources) for told, place in heads)
    return found


def curves_table(known: Curves) -> Table:
    """The mean over the runs of a recipe, at every radius."""
    heads = (Column("target"), Column("recipe"), Column("runs", number=True))
    radii = tuple(Column("learned" if radius == 0 else f"{radius:.3g}", number=True) for radius in known.radii)
    rows: list[tuple[Cell, ...]] = []
    for target, recipes in known.of.items():
        for recipe, curve in recipes.items():
            pairs = zip(means(curve.target), means(curve.sources), strict=True)
            rows.append((target, recipe, str(len(curve.target)), *(f"{one:.1f} / {other:.1f}" for one, other in pairs)))
    return Table(
        f"Accuracy at the worst head, %, target / sources' mean, by radius in {known.unit}",
        (*heads, *radii),
        tuple(rows),
    )


def curves_figures(name: str, known: Curves) -> Iterator[tuple[str, str]]:
    """For each target two figures, its own accuracy and the sources': heading and ``<svg>``.

    Args:
        name: Unique in the page.
        known: As `curves` makes it.
    """
    for number, (target, recipes) in enumerate(known.of.items()):
        for kind, title in (("target", target), ("sources", "the sources' mean")):
            lines = {recipe: means(getattr(curve, kind)) for recipe, curve in recipes.items()}
            told = "; ".join(f"{recipe} {values[-1]:.1f} %" for recipe, values in lines.items())
            heading = f"Accuracy of {title} at the heads that are worst for {target}, by recipe"
            text = f"{heading}; at the largest radius: {told}."
            yield heading, draw(partial(_plot_named, known=known, lines=lines), f"{name}{kind[0]}{number}", text)


def plot(axes: Axes, known: Curves, lines: Mapping[str, Sequence[float]]) -> list[Label]:
    """Draw a line a recipe, percent against radius.

    Args:
        axes: Where.
        known: Whose radii.
        lines: By recipe; the place of one decides its colour, so an empty one keeps that of those behind it.

    Returns:
        What to write at their ends.
    """
    labels: list[Label] = []
    for (recipe, values), color, mark in zip(lines.items(), cycle(COLORS), cycle(_MARKS)):
        if values:
            axes.plot(known.radii, values, color=color, marker=mark, markersize=3, label=recipe)
            labels.append((values[-1], recipe, color))
    axes.set_xscale("symlog", linthresh=known.radii[1])
    axes.margins(x=0.01)
    return labels


def _plot_named(axes: Axes, known: Curves, lines: Mapping[str, Sequence[float]]) -> None:
    labels = plot(axes, known, lines)
    axes.set(xlabel=f"radius, {known.unit}", ylabel="accuracy, %")
    label_ends(axes, labels)


def means(several: Sequence[Sequence[float]]) -> list[float]:
    """Over runs, in percent."""
    return [100 * mean(one) for one in zip(*several, strict=True)]
