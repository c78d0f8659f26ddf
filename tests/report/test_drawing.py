"""Drawings stand alone in a page: no ids shared, no colour of their own, the same bytes each time."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes

from fedha.report.diagnosis.figures import plane_figure
from fedha.report.drawing import COLORS, INK, SOURCES, draw, label_ends, shorten, spread, standalone


def _plot(axes: Axes) -> None:
    axes.plot([0, 1, 2], [0.0, 0.5, 1.0], color=SOURCES[0])
    label_ends(axes, [(1.0, "one", SOURCES[0]), (0.99, "two & <three> $x$", INK)])


def test_a_drawing_is_one_element_that_says_what_it_shows() -> None:
    svg = draw(_plot, "a", 'a "rise" & <fall>')
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'a "rise" & <fall>'
    assert "two &amp; &lt;three&gt; $x$" in svg


def test_a_drawing_has_no_colour_that_the_page_does_not_name() -> None:
    svg = draw(_plot, "a", "")
    assert not any(color in svg for color in COLORS)
    assert not re.findall(r"(?:stroke|fill): #[0-9a-f]+", svg)
    assert "stroke: var(--s0)" in svg
    assert "currentColor" in svg


def test_two_drawings_share_no_id_and_refer_to_their_own() -> None:
    first, second = draw(_plot, "a", ""), draw(_plot, "b", "")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for own, svg in zip(ids, (first, second), strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg)) <= own


def test_a_drawing_is_the_same_each_time_and_holds_no_date() -> None:
    assert draw(_plot, "a", "x") == draw(_plot, "a", "x")
    assert "<metadata>" not in draw(_plot, "a", "x")


@given(st.lists(st.floats(-0.5, 1.5), max_size=8), st.floats(0.01, 0.3))
def test_labels_are_spread_within_the_axes_in_their_order(heights: list[float], gap: float) -> None:
    placed = spread(heights, gap)
    ordered = [placed[place] for place in sorted(range(len(heights)), key=lambda place: heights[place])]
    room = min(gap, 1 / max(1, len(heights) - 1))
    assert all(above - below >= room - 1e-9 for below, above in pairwise(ordered))
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in placed)


@given(st.lists(st.integers(0, 10), max_size=5, unique=True))
def test_labels_with_room_stay_where_they_are(tenths: list[int]) -> None:
    heights = [tenth / 10 for tenth in tenths]
    assert spread(heights, 0.09) == pytest.approx(heights)


def test_labels_move_as_little_as_possible() -> None:
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert spread([0.5, 0.5, 0.9], 0.1) == pytest.approx([0.45, 0.55, 0.9])
    assert spread([1.0, 1.0], 0.1) == pytest.approx([0.9, 1.0])


def test_long_labels_are_cut() -> None:
    assert shorten("short") == "short"
    assert shorten("abcdefgh", 4) == "abc…"


def test_a_drawing_can_stand_alone() -> None:
    drawing = draw(lambda axes: axes.plot([0, 1], [0, 1], color=SOURCES[0]), "alone", "a line")
    alone = standalone(drawing)
    assert "var(" in drawing
    assert "var(" not in alone
    assert "currentColor" not in alone
    assert SOURCES[0] in alone
    assert ElementTree.fromstring(alone).get("style", "").startswith("background: white")


def test_names_in_the_plane_of_shifts_are_whole_where_they_differ_at_their_ends() -> None:
    names = ("the sources' mean – an unseen target, features", "the sources' mean – an unseen target, inputs")
    drawn = plane_figure("p", dict.fromkeys(names, (0.2, 0.4)))
    words = re.sub(r"\s+", " ", " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawn)))
    assert all(name in words for name in names)
