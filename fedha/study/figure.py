"""The study's figure: target accuracy against what an attack gains, epsilon beside every mark."""

import math
from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes

from fedha.report.drawing import INK, SOURCES, TARGETS, Label, draw, label_ends
from fedha.study.outcome import Group

_SECURE = "secure"
_LEAST_REACH = 10.0  # points that the axis of attacks has at least, so that chance does not look large


def study_figure(name: str, groups: Sequence[Group]) -> str:
    """Every cell as a mark: up is better for the user, right is better for the attacker.

    A recipe's marks of one aggregation are joined in the order of their epsilon; hollow marks are of secure sums.

    Args:
        name: Unique in the page.
        groups: Of a study.

    Returns:
        An ``<svg>`` element; "" where no run has both an accuracy and an attack.
    """
    placed = [(one, one.worst[0], one.accuracy.mean) for one in groups if one.worst and one.accuracy]
    if not placed:
        return ""
    colors = dict(zip(dict.fromkeys(one.recipe for one, _, _ in placed), cycle((*SOURCES, *TARGETS)), strict=False))

    def plot(axes: Axes) -> None:
        labels: list[Label] = []
        for recipe, color in colors.items():
            for aggregation in dict.fromkeys(one.aggregation for one, _, _ in placed):
                line = [p for p in placed if (p[0].recipe, p[0].aggregation) == (recipe, aggregation)]
                line.sort(key=lambda p: -p[0].epsilon)
                x, y = [100 * p[1] for p in line], [p[2] for p in line]
                secure = aggregation == _SECURE
                face = "none" if secure else color
                axes.plot(x, y, color=color, linestyle=(0, (5, 2)) if secure else "-", linewidth=1, zorder=1)
                axes.plot(x, y, "o", color=color, markerfacecolor=face, markersize=7)
                for p in line:
                    said = f"  ε {_epsilon(p[0].epsilon)}"
                    axes.annotate(said, (100 * p[1], p[2]), fontsize=7.5, va="top" if secure else "bottom", color=INK)
                if line:
                    labels.append((y[0], f"{'○' if secure else '●'} {recipe}", color))
        reach = max(_LEAST_REACH, 1.15 * max(100 * far for _, far, _ in placed))
        axes.set(xlabel="the strongest attack, points beyond its guess", ylabel="target, accuracy %")
        axes.set_xlim(-0.04 * reach, reach)
        axes.margins(y=0.12)
        label_ends(axes, labels)

    said = "; ".join(
        f"{one.recipe}, {one.aggregation} sums, ε {_epsilon(one.epsilon)}: {accuracy:.1f} % and {100 * far:.0f} points"
        for one, far, accuracy in placed
    )
    text = f"Accuracy on the target, and how far the strongest attack comes beyond its guess: {said}."
    return draw(plot, name, text, width=7.2, height=max(4.4, 0.34 * len(placed)))


def _epsilon(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2g}"
