"""Figures as inline SVG that follow the page's light or dark colours."""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Every colour has a name in the page's style sheet; matplotlib draws with the stand-ins.
SOURCES = ("#2563a8", "#1a8a72", "#7a4fb5", "#5b6b7a", "#8a6d1a", "#b0508f")
TARGETS = ("#cf4a1f", "#b77b00")
INK, GRID = "#0a0b0c", "#0d0e0f"
COLORS: Mapping[str, str] = {
    **{color: f"var(--s{place})" for place, color in enumerate(SOURCES)},
    **{color: f"var(--t{place})" for place, color in enumerate(TARGETS)},
    INK: "currentColor",
    GRID: "var(--line)",
}

_INK_ON_WHITE, _LINE_ON_WHITE = "#1c2126", "#dfe3e4"  # as in the page's style sheet

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "mathtext.default": "regular",
}

LINE = 0.19  # height of a line of text, in inches

Label = tuple[float, str, str]  # height in data units, text, colour


def draw(plot: Callable[[Axes], None], name: str, text: str, *, width: float = 5.6, height: float = 3.1) -> str:
    """Draw one pair of axes as SVG.

    Args:
        plot: Draws into the axes; keeps the right margin for labels (`label_ends`).
        name: Unique in the page, letters and digits: makes the ids inside unique.
        text: What the figure shows, for those who do not see it.
        width: In inches; the page scales it.
        height: In inches.

    Returns:
        An ``<svg>`` element; the same input gives the same bytes.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.11, 0.155, 0.6, 0.8))
        plot(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue(), name, text)


def set_scale(change: Callable[..., None], scale: str, values: Iterable[float]) -> None:
    """Give an axis a scale; ``symlog`` is linear around 0 up to the value that is nearest to it.

    Args:
        change: ``axes.set_xscale`` or ``axes.set_yscale``.
        scale: matplotlib's name.
        values: On the axis.
    """
    change(scale, **({"linthresh": min(abs(one) for one in values if one)} if scale == "symlog" else {}))


def label_ends(axes: Axes, labels: Sequence[Label]) -> None:
    """Write labels at the right edge, each at its line's end, pushed apart where they would overlap."""
    to_share = axes.transData.transform
    low, high = axes.transAxes.transform([(0, 0), (0, 1)])[:, 1]
    gap = LINE * axes.figure.dpi / (high - low)
    wanted = [(to_share((axes.get_xlim()[1], height))[1] - low) / (high - low) for height, _, _ in labels]
    for (_, text, color), place, natural in zip(labels, spread(wanted, gap), wanted, strict=True):
        axes.annotate(
            shorten(text),
            xy=(1.0, min(max(natural, 0.0), 1.0)),
            xytext=(1.035, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=color,
            va="center",
            fontsize=9,
            annotation_clip=False,
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 1,
                "relpos": (0, 0.5),
            },
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights apart until neighbours differ by `gap`, as little as possible, within 0 to 1.

    Subtract k gaps from the k-th lowest height: what remains must not decrease, and the nearest such values in least
    squares come from pooling neighbours that do.

    Args:
        heights: Where labels want to be.
        gap: The least distance; made smaller where 0 to 1 has no room for so many.

    Returns:
        The new heights, in the order given; their order from low to high does not change.
    """
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    gap = min(gap, 1 / max(1, len(heights) - 1))
    pools: list[tuple[float, int]] = []  # mean, members
    for rank, place in enumerate(order):
        mean, members = heights[place] - rank * gap, 1
        while pools and pools[-1][0] > mean:
            below, count = pools.pop()
            mean, members = (below * count + mean * members) / (count + members), count + members
        pools.append((mean, members))
    ceiling = 1 - gap * (len(heights) - 1)
    levels = [min(max(mean, 0.0), ceiling) for mean, members in pools for _ in range(members)]
    result = [0.0] * len(heights)
    for rank, place in enumerate(order):
        result[place] = levels[rank] + rank * gap
    return result


def standalone(svg: str) -> str:
    """A drawing of `draw` as a file of its own: the page's light colours, on white."""
    for color, variable in COLORS.items():
        svg = svg.replace(variable, _INK_ON_WHITE if color == INK else _LINE_ON_WHITE if color == GRID else color)
    head, _, rest = svg.partition(">")
    return f'{head} style="background: white; color: {_INK_ON_WHITE}">{rest}\n'


def shorten(text: str, most: int = 24) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _inline(svg: str, name: str, text: str) -> str:
    """A drawing as part of a page: no prolog, ids of its own, colours by name, a description."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'\1="#{name}-\2"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r' d="[^"]+"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)  # finer cannot be seen
    for color, variable in COLORS.items():
        svg = svg.replace(color, variable)
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{escaped}" ', svg, count=1).strip()
