"""Findings keep through JSON, and read as a table and as figures of the report's kind."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fedha.audit import findings as values
from fedha.audit import record
from fedha.audit.attacks import ATTACKS
from fedha.audit.figures import picture_figure, roc_figure, success_figure
from fedha.audit.findings import Curve, Finding, Findings, NotRun, Picture
from fedha.audit.record import Audited
from fedha.audit.section import section, sections
from fedha.audit.summary import summary
from fedha.errors import FedhaError
from fedha.report.drawing import COLORS
from fedha.report.formats import render

TILE = [[[0.0, 1.0], [0.5, 0.25]]]


def made() -> Findings:
    """Two clients and the aggregate, three rounds."""
    found = [
        Finding(attack, round, client, 0.9 - 0.1 * (client or 0) + 0.01 * round, 0.5, None, 10, {"counts": [4, 6]})
        for attack in ("labels_uniform", "labels_hessian", "feature_class_means", "tracing_joint")
        for round in (1, 2, 3)
        for client in (0, 1, None)
    ]
    found.append(Finding("feature_moments", 1, 0, 0.25, None, (0.1, 0.4), 10))
    found.append(Finding("feature_moments", 2, 0, 0.75, None, None, 10))
    found.append(Finding("input_update", 1, 0, None, None, None, 10))
    return Findings(
        tuple(found),
        (NotRun("membership_lira", None, 0, "no training of shadow models was given"),),
        (Picture("input_update", 1, 0, TILE, TILE, 31.5, 0.9), Picture("input_update", 1, 1, None, TILE, None, None)),
        (
            Curve("tracing_joint", 3, 0, [0.0, 0.0, 1.0], [0.0, 0.5, 1.0], 50),
            Curve("membership_loss", None, 0, [0, 1], [0, 1], 9),
        ),
    )


def test_findings_come_back_from_json(tmp_path: Path) -> None:
    record.write(tmp_path, Audited({"seconds": 1.5}, made(), {1: made()}))
    read = record.read(tmp_path)
    assert values.to_content(read.run) == values.to_content(made()) == values.to_content(read.small[1])
    assert (read.run.found, read.made) == (made().found, {"seconds": 1.5})
    broken = replace(made().found[0], value=float("nan"))
    assert values.to_content(replace(made(), found=(broken,)))["found"][0]["value"] is None


@pytest.mark.parametrize("change", [{"form": 9}, {"found": [{"attack": "x"}]}, {"value_range": 3}, {"curves": None}])
def test_foreign_json_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(FedhaError, match="audit"):
        values.from_content({**values.to_content(made()), **change})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"form": 9}', '{"form": 1, "made": {}, "run": {}, "small": []}'])
def test_a_file_that_is_no_audit_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match="audit"):
        record.read(tmp_path)
    (tmp_path / record.FILE).write_text(content)
    with pytest.raises(FedhaError, match="audit"):
        record.read(tmp_path)


def test_the_table_has_means_and_the_worst_release_beside_the_guess() -> None:
    table = summary(made())
    rows = {(row[0], row[1]): row for row in table.rows}
    clients = rows["label counts: gradient and Hessian diagonal", "clients"]
    assert clients[3:5] == ("6", "87.0 %")
    assert clients[6:] == ("93.0 %", "50.0 %", None)
    assert rows["label counts: gradient and Hessian diagonal", "the aggregate"][3:5] == ("3", "92.0 %")
    # of an error the smallest is the worst
    assert rows["second moments of the features", "clients"][4:8:2] == ("0.500", "0.250")
    assert rows["second moments of the features", "clients"][7] is None
    assert ("inputs from the update", "clients") not in rows
    assert any("no training of shadow models was given" in note for note in table.notes)
    assert render(table, "markdown").startswith("What the attacks recovered")


def test_the_section_has_figures_that_stand_alone_in_a_page() -> None:
    part = section(made())
    ids: list[str] = []
    for heading, drawing in part.panels:
        assert heading
        assert ElementTree.fromstring(drawing).get("aria-label")
        assert not any(color in drawing for color in COLORS)
        ids += re.findall(r'\bid="([^"]+)"', drawing)
    assert len(set(ids)) == len(ids)
    headings = [heading for heading, _ in part.panels]
    assert "Label counts: examples in the right class count" in headings
    assert "Inputs from the update" in headings
    assert "Membership from what was sent: ROC" in headings
    assert not any(
        "http" in re.sub(r'xmlns(:\w+)?="[^"]+"|"-//[^"]+" "[^"]+"', "", drawing) for _, drawing in part.panels
    )


def test_a_page_has_a_part_for_each_row_and_one_for_small_clients() -> None:
    one, two = Audited({"replay": "The same bits."}, made(), {}), Audited({}, made(), {4: made(), 1: made()})
    parts = sections({"erm": [one, one], "hgp": [two]})
    assert [part.heading for part in parts] == [
        "What was given away: erm",
        "What was given away: hgp",
        "What a few examples would give away: hgp",
    ]
    assert parts[0].explanation.count("The same bits.") == 1
    assert [len(part.tables) for part in parts] == [1, 1, 1]
    assert parts[0].tables[0].rows[0][3] == "12"  # both runs' releases
    assert {row[1] for row in parts[2].tables[0].rows} == {"1", "4"}
    assert parts[2].panels[0][0] == "Inputs from the update, one example"
    drawings = "".join(drawing for part in parts for _, drawing in part.panels)
    ids = re.findall(r'\bid="([^"]+)"', drawings)
    assert len(set(ids)) == len(ids)


def test_figures_say_in_words_what_they_show() -> None:
    drawing = success_figure("a", "label counts", "examples in the right class count", made())
    assert "with diagonal ends at 88" in drawing
    assert "guess ends at 50" in drawing
    assert "with diagonal, all ends at 93" in drawing
    assert "PSNR 31.5 dB, unknown" in picture_figure("p", made().pictures, (0.0, 1.0))
    assert "all together 0.750" in roc_figure("r", "x", made().curves[:1])


def test_what_was_not_found_is_not_drawn() -> None:
    empty = Findings((), (), (), ())
    assert section(empty).panels == ()
    assert summary(empty).rows == ()
    assert picture_figure("p", (), (0.0, 1.0)) == roc_figure("r", "x", ()) == ""


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_number_of_channels_are_drawn(channels: int) -> None:
    picture = Picture("input_update", 1, 0, TILE * channels, TILE * channels, 20.0, 0.5)
    assert picture_figure("p", [picture], (0.0, 1.0)).count("<image") >= 1


def test_every_attack_is_in_a_figure_of_its_own_measure() -> None:
    units: dict[tuple[str, str], set[str]] = {}
    for kind in ATTACKS.values():
        units.setdefault((kind.family, kind.measure), set()).add(kind.unit)
    assert all(len(one) == 1 for one in units.values())
