"""A table says the same in every format, whatever stands in its cells."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedha.report.formats import FORMATS, Column, Format, Summary, Table, cell_text, plain_table, render, rich_table

TABLE = Table(
    "What it shows",
    (Column("name"), Column("share %", "final round", number=True), Column("gain", number=True)),
    (("a_b", Summary(71.25, 1.125), None), ("c|d", Summary(8.0), Summary(-0.5, 0.25, signed=True))),
    ("A note.",),
)


def test_text_is_aligned() -> None:
    assert render(TABLE, "text") == (
        "What it shows\n"
        "\n"
        "name      share %        gain\n"
        "      final round\n"
        "----  -----------  ----------\n"
        "a_b    71.2 ± 1.1           –\n"
        "c|d           8.0  -0.5 ± 0.2\n"
        "\n"
        "A note.\n"
    )


def test_markdown_escapes_bars_and_names_the_rule() -> None:
    assert render(TABLE, "markdown") == (
        "What it shows\n"
        "\n"
        "| name | share % (final round) | gain |\n"
        "|---|---:|---:|\n"
        "| a_b | 71.2 ± 1.1 | – |\n"
        "| c\\|d | 8.0 | -0.5 ± 0.2 |\n"
        "\n"
        "A note.\n"
    )


def test_latex_escapes_what_latex_reads() -> None:
    text = render(TABLE, "latex")
    assert r"\caption{What it shows. A note.}" in text
    assert r"name & share \% & gain \\" in text
    assert r" & \footnotesize final round &  \\" in text
    assert r"a\_b & $71.2 \pm 1.1$ & -- \\" in text
    assert r"c\textbar{}d & $8.0$ & $-0.5 \pm 0.2$ \\" in text
    hard = Table("c", (Column("x"),), ((r"50% & #1 $_{a}^2~\ ±",),))
    escaped = r"50\% \& \#1 \$\_\{a\}\textasciicircum{}2\textasciitilde{}\textbackslash{} $\pm$ \\"
    assert escaped in render(hard, "latex")


def test_csv_keeps_every_digit_and_splits_means_from_deviations() -> None:
    rows = list(csv.reader(io.StringIO(render(TABLE, "csv"))))
    assert rows == [
        ["name", "share % (final round) mean", "share % (final round) sd", "gain mean", "gain sd"],
        ["a_b", "71.25", "1.125", "", ""],
        ["c|d", "8.0", "", "-0.5", "0.25"],
    ]


def test_the_terminals_table_reads_no_markup() -> None:
    out = io.StringIO()
    table = Table("[bold]", (Column("[red]", "[i]"),), (("[/x]",),), ("[note]",))
    Console(file=out, width=60).print(rich_table(table, 60))
    for text in ("[bold]", "[red]", "[i]", "[/x]", "[note]"):
        assert text in out.getvalue()


WIDE = Table(
    "Accuracies",
    (Column("recipe"), *(Column(f"target {name} %", "training-domain validation", number=True) for name in "abcdef")),
    tuple((name, *(Summary(70.0 + place, 1.5) for place in range(5)), None) for name in ("erm", "hgp")),
)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_table_fits_the_terminal_or_stands_one_under_the_other(width: int) -> None:
    out = io.StringIO()
    Console(file=out, width=width).print(rich_table(WIDE, width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for name in ("erm", "hgp", "74.0 ± 1.5", "validation"):  # nothing is cut
        assert any(name in line for line in lines), name
    beside = [line for line in lines if "70.0 ± 1.5" in line and "74.0 ± 1.5" in line]
    assert len(beside) == (2 if width == 200 else 0)
    assert len([line for line in lines if "target a %" in line]) == (1 if width == 200 else 2)


@given(
    cells=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=8),
            st.none() | st.builds(Summary, st.floats(-100, 100), st.none() | st.floats(0, 50), st.booleans()),
        ),
        max_size=4,
    ),
    form=st.sampled_from(FORMATS),
)
def test_every_row_is_in_every_format(cells: list[tuple[str, Summary | None]], form: Format) -> None:
    columns = (Column("first"), Column("second", "rule", number=True))
    lines = render(Table("caption", columns, tuple(cells)), form).splitlines()
    empty = render(Table("caption", columns, ()), form).splitlines()
    assert len(lines) == len(empty) + len(cells)


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (Summary(1.26), "1.3"),
        (Summary(1.26, 0.0), "1.3 ± 0.0"),
        (Summary(1.26, 0.5, signed=True), "+1.3 ± 0.5"),
        (Summary(-1.26, signed=True), "-1.3"),
    ],
)
def test_a_summary_shows_one_digit_after_the_point(summary: Summary, text: str) -> None:
    assert cell_text(summary) == text


def test_elsewhere_than_on_a_terminal_a_table_is_as_long_as_it_is_unless_a_width_is_given() -> None:
    name, long = "a recipe with a long name", "what nobody may cut " * 20
    table = Table(
        "Caption", (Column("recipe"), Column("target", "final"), Column("remark")), ((name, Summary(1.0), long),)
    )
    assert plain_table(table) == plain_table(table, 1000) == render(table, "text")
    narrow = plain_table(table, 60)
    assert narrow.splitlines() == ["Caption", "", f"recipe: {name}", "  target (final): 1.0", f"  remark: {long}"]


@pytest.mark.parametrize(
    ("form", "marks"),
    [("text", ("*", "†")), ("markdown", ("**", "Bold")), ("latex", (r"\mathbf", "Bold")), ("csv", ())],
)
def test_a_format_says_what_its_own_marks_mean(form: Format, marks: tuple[str, ...]) -> None:
    columns = (Column("recipe", number=False), Column("%"))
    rows = (("a", Summary(2.0, rank=1)), ("b", Summary(1.0, rank=2)), ("c", Summary(0.0)))
    plain = Table("Accuracy", columns, tuple((name, Summary(cell.mean)) for name, cell in rows))
    shown = render(Table("Accuracy", columns, rows), form)
    assert all(mark in shown for mark in marks)
    assert ("second" in shown) is bool(marks)
    assert "second" not in render(plain, form)
