"""A run in a few words: of many domains the mean, the worst and how many, wherever it is told."""

from typing import Any

import pytest

from fedha.errors import listed
from fedha.report.figures import accuracy_figure
from fedha.report.formats import cell_text
from fedha.report.tables import accuracy_table
from fedha.runs.wording import RoundText, result_text, shortened


def part(domains: int) -> dict[str, Any]:
    return {f"hospital-{place}": {"accuracy": 0.5 + place / 1000, "examples": 9} for place in range(domains)}


def results(sources: int, targets: int) -> dict[str, Any]:
    return {
        "recipe": "hgp",
        "seed": 0,
        "rounds": 3,
        "seconds": 1.0,
        "train": {},
        "sources": part(sources),
        "target": {f"t{place}": {"accuracy": 0.6 + place / 1000} for place in range(targets)},
    }


@pytest.mark.parametrize("count", [1, 12, 13, 301])
def test_a_line_of_progress_stays_short(count: int) -> None:
    record = {"round": 1, "loss": 0.5, "held_out": part(count), "target": part(1)}
    text, end = RoundText().update(record), result_text(results(count, count))
    if count <= 12:
        assert text.count("%") == count + 1
        assert end.count("%") == 2 * count
    else:
        last = 100 * (0.5 + (count - 1) / 1000)
        assert f"sources mean {(50 + last) / 2:.1f} % worst 50.0 % of {count}" in text
        assert f"targets mean {(60 + last + 10) / 2:.1f} % worst 60.0 % of {count}" in end
        assert max(len(text), len(end)) < 130
    training = RoundText().update({"round": 1, "accuracy": dict.fromkeys(part(count), 0.5)})
    assert len(training) < 130


@pytest.mark.parametrize("count", [12, 301])
def test_a_table_has_no_column_for_each_of_many_domains(count: int) -> None:
    table = accuracy_table([results(count, count)])
    cells = dict(zip((column.title for column in table.columns), map(cell_text, table.rows[0]), strict=True))
    if count == 12:
        assert [title for title in cells if title.startswith("target t")] == [f"target t{one} %" for one in range(12)]
        assert cells["sources held out %"] == "50.5"
    else:
        assert len(cells) < 9
        assert cells["sources held out, mean of 301 %"] == "65.0"
        assert cells["targets, mean of 301 %"] == "75.0"
        assert cells["worst of them %"] == "60.0"
        assert cells["target t0 %"] == "60.0"  # the one that the run is judged by


def test_runs_on_many_targets_share_their_mean() -> None:
    many = [{**results(2, 1), "target": {f"t{place}": {"accuracy": 0.5}}} for place in range(20)]
    assert [column.title for column in accuracy_table(many).columns][-1] == "targets, mean %"
    assert len(accuracy_table(many).columns) == 5


def test_a_long_description_of_data_is_cut_between_two_words() -> None:
    described = "arrays: " + ", ".join(f"hospital-{place} {place} examples" for place in range(300))
    (note,) = accuracy_table([{**results(2, 1), "data": described}]).notes
    assert note.startswith("Data: arrays: hospital-0 0 examples, ")
    assert len(note) < 400
    assert note.endswith("… (7,886 characters in all, in results.json).")
    assert shortened("short") == "short"


def test_a_figure_draws_two_lines_of_many_domains() -> None:
    records = [{"round": number, "held_out": part(301), "target": part(1)} for number in (1, 2)]
    drawn = accuracy_figure("a0", "erm", [records], 0, 0.0)
    assert "mean of 301 ends at 65.0 %; worst of 301 ends at 50.0 %; target hospital-0 ends at 50.0 %" in drawn
    assert len(drawn) < 40_000


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, ""), (1, "0"), (8, "0, 1, 2, 3, 4, 5, 6, 7"), (1200, "0, 1, 2, 3, 4, 5, 6, 7 and 1,192 more")],
)
def test_a_sentence_holds_a_few_names(count: int, text: str) -> None:
    assert listed(range(count)) == text
