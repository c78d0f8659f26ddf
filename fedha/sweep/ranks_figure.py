"""The critical-difference picture: recipes at their mean ranks, a bar over those that cannot be told apart."""

from matplotlib.axes import Axes

from fedha.report.drawing import GRID, INK, TARGETS, draw, shorten
from fedha.sweep.ranks import Ranks

_ROW, _BAR = 1.0, 0.45  # heights, in lines of text


def ranks_figure(name: str, ranks: Ranks) -> str:
    """Draw mean ranks on a line, the best to the left.

    Args:
        name: Unique in the page.
        ranks: Three recipes or more.
    """
    count, titles = len(ranks.means), list(ranks.means)
    half = (count + 1) // 2
    depth = _BAR * (len(ranks.cliques) + 1) + _ROW * half

    def plot(axes: Axes) -> None:
        axes.set_position((0.02, 0.03, 0.96, 0.94))
        axes.set(xlim=(1 - 0.62 * count, count + 0.62 * count), ylim=(-depth - 0.6, 2.6))
        axes.axis("off")
        _scale(axes, count)
        _critical(axes, ranks.difference, count)
        for place, (title, mean) in enumerate(ranks.means.items()):
            _recipe(axes, ranks, place, title, mean, left=place < half)
        for level, (first, last) in enumerate(ranks.cliques, 1):
            means = list(ranks.means.values())
            ends = (means[first] - 0.04, means[last] + 0.04)
            axes.plot(ends, (-_BAR * level, -_BAR * level), color=TARGETS[0], linewidth=3.2, solid_capstyle="round")

    alike = "; ".join(", ".join(titles[first : last + 1]) for first, last in ranks.cliques)
    told = ", ".join(f"{title} {mean:.2f}" for title, mean in ranks.means.items())
    text = f"Mean ranks: {told}. Critical difference {ranks.difference:.2f}. Not told apart: {alike or 'none'}."
    return draw(plot, name, text, width=7.2, height=0.9 + 0.27 * (depth + 2.6))


def _scale(axes: Axes, count: int) -> None:
    axes.plot((1, count), (0, 0), color=INK, linewidth=1.1)
    for number in range(1, count + 1):
        axes.plot((number, number), (0, 0.25), color=INK, linewidth=1.0)
        axes.text(number, 0.42, str(number), ha="center", va="bottom", fontsize=9)


def _critical(axes: Axes, difference: float, count: int) -> None:
    """The critical difference as a length over the scale."""
    end = 1 + min(difference, 1.6 * count)
    axes.plot((1, end), (1.75, 1.75), color=INK, linewidth=1.6)
    for place in (1, end):
        axes.plot((place, place), (1.6, 1.9), color=INK, linewidth=1.6)
    axes.text((1 + end) / 2, 1.98, f"critical difference {difference:.2f}", ha="center", va="bottom", fontsize=9)


def _recipe(axes: Axes, ranks: Ranks, place: int, title: str, mean: float, *, left: bool) -> None:
    """A recipe's name beside the scale, with a line to its rank."""
    count = len(ranks.means)
    row = place if left else count - 1 - place
    height = -_BAR * (len(ranks.cliques) + 1) - _ROW * row
    edge = 1 - 0.06 * count if left else count + 0.06 * count
    axes.plot((mean, mean, edge), (0, height, height), color=GRID, linewidth=1.2, zorder=1)
    axes.plot((mean,), (0,), "o", color=INK, markersize=3.5)
    text = f"{shorten(title)} {mean:.2f}"
    axes.text(edge, height, f"{text} " if left else f" {text}", ha="right" if left else "left", va="center", fontsize=9)
