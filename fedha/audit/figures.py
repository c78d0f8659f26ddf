"""The audit's figures: success over the rounds against a guess, recovered images beside the originals, ROC curves."""

from collections.abc import Iterable, Sequence
from itertools import cycle

import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from fedha.audit.attacks import ATTACKS
from fedha.audit.findings import Curve, Finding, Findings, Picture
from fedha.audit.summary import mean_value
from fedha.report.drawing import INK, SOURCES, TARGETS, Label, draw, label_ends

MOST_PICTURES = 8  # in one figure
MOST_CURVES = 8
_DOTTED, _DASHED = (0, (2, 3)), (0, (5, 2))

Points = list[tuple[int, float]]  # round, mean


def success_figure(name: str, family: str, measure: str, findings: Findings) -> str:
    """How well a family's attacks did over the rounds: means over the clients, the aggregate, and the guess.

    Args:
        name: Unique in the page.
        family: An `Attack.family`.
        measure: An `Attack.measure` of it.
        findings: Of an audit.

    Returns:
        An ``<svg>`` element; "" where nothing of the kind was scored in a round.
    """
    kinds = {key: kind for key, kind in ATTACKS.items() if (kind.family, kind.measure) == (family, measure)}
    scored = [one for one in findings.found if one.attack in kinds and one.round is not None and one.value is not None]
    lines: list[tuple[str, str, Points]] = []
    for (key, kind), color in zip(kinds.items(), cycle((*SOURCES, *TARGETS))):
        for aggregate in (False, True):
            points = _means(one for one in scored if one.attack == key and (one.client is None) == aggregate)
            lines += [(kind.short + (", all" if aggregate else ""), color, points)] if points else []
    if not lines:
        return ""
    guess = _means([one for one in scored if one.client is not None] or scored, baseline=True)
    lines += [("guess", INK, guess)] if guess else []
    unit = next(iter(kinds.values())).unit
    scale = 100 if unit == "%" else 1

    def plot(axes: Axes) -> None:
        labels: list[Label] = []
        for title, color, points in lines:
            rounds, values = zip(*points, strict=True)
            style = _DOTTED if title == "guess" else _DASHED if title.endswith(", all") else "-"
            mark = "o" if len(rounds) == 1 else ""
            axes.plot(rounds, [scale * one for one in values], color=color, linestyle=style, marker=mark, markersize=4)
            labels.append((scale * values[-1], title, color))
        axes.set(xlabel="round", ylabel=f"{measure}, {unit}" if unit else measure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.01)
        label_ends(axes, labels)

    ends = "; ".join(f"{title} ends at {scale * points[-1][1]:.3g}" for title, _, points in lines)
    return draw(plot, name, f"Success of the attacks on {family} over rounds, {measure}: {ends}.")


def picture_figure(name: str, pictures: Sequence[Picture], value_range: tuple[float, float]) -> str:
    """Originals above, what was recovered below; "" without pictures.

    Args:
        name: Unique in the page.
        pictures: At most `MOST_PICTURES` are drawn, those nearest to their originals first.
        value_range: Lowest and highest value of a pixel.
    """
    chosen = sorted(pictures, key=lambda one: -(one.psnr or 0.0))[:MOST_PICTURES]
    if not chosen:
        return ""
    tiles = [(_rgb(one.original, value_range), _rgb(one.recovered, value_range)) for one in chosen]

    def plot(axes: Axes) -> None:
        axes.set_position((0.01, 0.01, 0.98, 0.9))
        axes.set(xlim=(0, len(tiles)), ylim=(0, 2), aspect="equal")
        axes.axis("off")
        for place, (one, pair) in enumerate(zip(chosen, tiles, strict=True)):
            for row, tile in enumerate(reversed(pair)):
                if tile is not None:
                    box = (place + 0.04, place + 0.96, row + 0.04, row + 0.96)
                    axes.imshow(tile, extent=box, interpolation="nearest", aspect="equal")
            said = "" if one.psnr is None else f"{one.psnr:.0f} dB"
            axes.text(place + 0.5, 2.02, said, ha="center", va="bottom", fontsize=8.5)

    said = ", ".join("unknown" if one.psnr is None else f"{one.psnr:.1f} dB" for one in chosen)
    text = f"Training images, above, and what was recovered of them from what was sent, below; PSNR {said}."
    return draw(plot, name, text, width=0.9 * len(tiles) + 0.1, height=2.1)


def roc_figure(name: str, title: str, curves: Sequence[Curve]) -> str:
    """True against false positive rates, both on logarithmic axes down to the smallest rate that can be measured.

    Args:
        name: Unique in the page.
        title: Whose curves they are, for the description.
        curves: Of each client and the aggregate, the one with the largest area is drawn; "" without any.
    """
    best = {one.client: one for one in sorted(curves, key=_area)}
    curves = [best[client] for client in dict.fromkeys(one.client for one in curves)][:MOST_CURVES]
    if not curves:
        return ""
    least = min(1 / (2 * max(1, one.others)) for one in curves)

    def plot(axes: Axes) -> None:
        for curve, color in zip(curves, cycle((*SOURCES, *TARGETS))):
            x = [max(value, least) for value in curve.false_positives]
            y = [max(value, least) for value in curve.true_positives]
            axes.plot(x, y, color=color, drawstyle="steps-post", label=_curve_title(curve))
        axes.plot([least, 1], [least, 1], color=INK, linewidth=0.9, linestyle=_DOTTED)
        axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1))
        axes.set(xlabel="others taken for members", ylabel="members found")
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=8)

    areas = "; ".join(f"{_curve_title(one)} {_area(one):.3f}" for one in curves)
    return draw(plot, name, f"ROC curves, {title}; areas under them: {areas}.", height=3.4)


def _curve_title(curve: Curve) -> str:
    return f"{'all' if curve.client is None else f'client {curve.client}'}: {ATTACKS[curve.attack].short}"


def _area(curve: Curve) -> float:
    x, y = (torch.tensor(values, dtype=torch.float64) for values in (curve.false_positives, curve.true_positives))
    return float(torch.trapezoid(y, x))


def _means(found: Iterable[Finding], *, baseline: bool = False) -> list[tuple[int, float]]:
    by_round: dict[int, list[Finding]] = {}
    for one in found:
        if one.round is not None and (one.baseline is not None or not baseline):
            by_round.setdefault(one.round, []).append(one)
    if baseline:
        return [
            (round, sum(one.baseline or 0.0 for one in group) / len(group)) for round, group in sorted(by_round.items())
        ]
    return [(round, mean) for round, group in sorted(by_round.items()) if (mean := mean_value(group)) is not None]


def _rgb(
    image: Sequence[object] | None, value_range: tuple[float, float]
) -> "numpy.typing.NDArray[numpy.float64] | None":
    """Any number of channels as red, green, blue: one is gray, two are red and green, more than three their mean."""
    if image is None:
        return None
    low, high = value_range
    pixels: Tensor = ((torch.tensor(image, dtype=torch.float64) - low) / max(high - low, 1e-12)).clamp(0, 1)
    if len(pixels) == 2:
        pixels = torch.cat([pixels, torch.zeros_like(pixels[:1])])
    elif len(pixels) != 3:
        pixels = pixels.mean(0, keepdim=True).expand(3, -1, -1)
    return pixels.permute(1, 2, 0).numpy()
