"""The report is one page that needs nothing else, says what the runs say, and copes with runs that say little."""

import re
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedha.report import figures
from fedha.report.comparison import Run, read_runs
from fedha.report.formats import Column, Table
from fedha.report.page import render_report, run_table, write_report
from fedha.report.section import Section
from fedha.runs.folders import find_runs
from tests.made_runs import part, record, write_run


class _Balance(HTMLParser):
    """Checks that elements close in the order they open, and collects attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def _read(page: str) -> _Balance:
    reader = _Balance()
    reader.feed(page)
    assert reader.open == []
    return reader


def _runs(tmp_path: Path) -> list[Run]:
    return read_runs(find_runs([tmp_path]))[0]


def _experiment(tmp_path: Path) -> list[Run]:
    for recipe in ("erm", "hgp"):
        for seed in (0, 1):
            write_run(tmp_path / f"{recipe}-seed{seed}", recipe, seed, accuracy=0.5 + 0.1 * seed)
    return _runs(tmp_path)


def test_a_page_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    page = render_report(_experiment(tmp_path))
    reader = _read(page)
    assert "<script" not in page
    assert "@import" not in page
    for name, value in reader.attributes:
        if name in ("src", "href", "xlink:href") or (value and "url(" in value):
            assert value is not None
            assert re.search(r"(^#|url\(#)", value), (name, value)
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_a_page_is_the_same_each_time(tmp_path: Path) -> None:
    runs = _experiment(tmp_path)
    assert render_report(runs) == render_report(runs)


def test_a_page_holds_table_figures_config_versions_and_costs(tmp_path: Path) -> None:
    reader = _read(render_report(_experiment(tmp_path), unfinished=[Path("runs/late")]))
    text = " ".join(" ".join(reader.words).split())
    for expected in (
        "55.0 ± 7.1",
        "training-domain validation",
        "oracle",
        "+0.0 ± 0.0",
        "40.0 kB",
        "20.0 kB",
        "60.0 @ 20",
        "learning_rate",
        "2.13.0",
        "made by hand",
        "Left out, because they have not finished: runs/late",
        "bands one standard deviation",
    ):
        assert expected in text, expected
    described = [value or "" for name, value in reader.attributes if name == "aria-label"]
    assert len(described) == 1 + 2 * 3  # a scatter, and three figures for each of two recipes
    assert any(text.startswith("Accuracy over rounds, hgp: near ends at") for text in described)
    assert any("erm 75.0 % and 55.0 %" in text for text in described)


def test_a_single_run_has_no_scatter_and_its_figures_side_by_side(tmp_path: Path) -> None:
    write_run(tmp_path / "run", settings={"recipe": {"name": "hgp", "warmup_rounds": 7}})
    page = render_report(_runs(tmp_path))
    assert "One run of hgp, seed 0: 20 rounds in 1.5 s." in page
    assert "Sources against target" not in page
    assert page.count("<figure>") == 3
    assert page.count("warm-up ends") == 3
    assert "bands one standard deviation" not in page


def test_names_from_outside_are_text_in_the_page(tmp_path: Path) -> None:
    hostile = "<b>&\"'$x^2$</b>"
    settings = {"name": hostile, "recipe": {"name": hostile, "align": {"gradient": 1.0}}}
    write_run(tmp_path / "run", hostile, settings=settings, name=hostile, target={hostile: part(0.5)}, data=hostile)
    page = render_report(_runs(tmp_path))
    reader = _read(page)
    assert "<b>" not in page
    assert "$x^2$" in "".join(reader.words)


def test_parts_that_others_add_stand_first_or_before_the_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    content = Table("A <table>", (Column("head"),), (("cell",),), ("a note",))
    drawing = figures.loss_figure("x9", "t", [[record(1)]], 0)
    first = Section("Before all", "why", (content,), (("", drawing),), first=True)
    later = Section("Later", "what", (content, content), (("a figure", drawing.replace("x9-", "x8-")),))
    page = render_report(_runs(tmp_path), sections=[later, first])
    reader = _read(page)
    assert page.index("Before all") < page.index("Accuracy in %") < page.index("Later") < page.index("<h2>Runs</h2>")
    assert page.count("A &lt;table&gt;") == 3
    assert page.count("<h3>a figure</h3>") == 1
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_a_run_that_says_little_still_has_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", sources={}, train={}, selection={}, versions={}, data="")
    (folder / "metrics.jsonl").write_text('{"round": 1, "loss": null, "seconds": 0.1}\n')
    page = render_report(_runs(tmp_path))
    _read(page)
    assert "the loss is never finite" in page


def test_the_page_is_written_where_it_was_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    write_report(_runs(tmp_path), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_every_run_is_a_line_with_the_rounds_that_rules_select(tmp_path: Path) -> None:
    runs = _experiment(tmp_path)
    table = run_table({"erm": runs[:2], "hgp": runs[2:]})
    assert [row[:2] for row in table.rows] == [("erm", "0"), ("erm", "1"), ("hgp", "0"), ("hgp", "1")]
    assert table.rows[1] == ("erm", "1", "20", "60.0 @ 20", "50.0 @ 15", "70.0 @ 5", "1.5", "40.0 kB", "20.0 kB")


def _points(*runs: list[dict[str, Any]]) -> figures.Points:
    return figures.over_rounds(runs, lambda record: record.get("loss"))


def test_curves_are_means_and_deviations_at_the_rounds_that_runs_share() -> None:
    first: list[dict[str, Any]] = [{"round": 1, "loss": 1.0}, {"round": 2, "loss": 2.0}, {"round": 3}]
    second: list[dict[str, Any]] = [{"round": 2, "loss": 4.0}, {"round": 3, "loss": 1.0}, {"round": 1, "loss": 1.0}]
    assert _points(first, second) == ([1, 2], [1.0, 3.0], [0.0, statistics.stdev([2.0, 4.0])])
    assert _points(first) == ([1, 2], [1.0, 2.0], [0.0, 0.0])
    assert _points(first, [{"round": 1}]) == _points(first)  # a run without the quantity does not hide the others
    assert _points([]) == ([], [], [])


@pytest.mark.parametrize("rounds", [1, 300, 301, 5000])
def test_long_curves_are_thinned_but_keep_their_ends(rounds: int) -> None:
    kept = _points([{"round": number, "loss": 1.0} for number in range(1, rounds + 1)])[0]
    assert kept[0] == 1
    assert kept[-1] == rounds
    assert len(kept) <= figures.MOST_POINTS + 1


def test_a_penalty_that_may_be_negative_is_drawn_and_one_without_terms_is_not() -> None:
    run = [{**record(number), "penalty": {"gradient": 0.1 - 0.02 * number}} for number in range(1, 21)]
    assert "gradient ends at -0.3" in figures.penalty_figure("p", "fish", [run], 0)
    zero = [{**record(number), "penalty": {"gradient": 0.0}} for number in range(1, 21)]
    assert "gradient ends at 0" in figures.penalty_figure("p", "hgp", [zero], 0)
    none = [{**record(number), "penalty": {}} for number in range(1, 21)]
    assert figures.penalty_figure("p", "erm", [none], 0) == ""
