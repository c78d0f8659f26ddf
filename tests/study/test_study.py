"""A privacy study: every combination once, nothing done twice, nothing claimed that was not accounted for."""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from xml.etree import ElementTree

import pytest

from fedha.audit import record
from fedha.audit.findings import Finding, Findings
from fedha.audit.record import Audited
from fedha.config import parse
from fedha.errors import FedhaError
from fedha.report.formats import render
from fedha.runs import runfolder
from fedha.study.cells import Cell, cells_of, read_aggregations, read_noises
from fedha.study.figure import study_figure
from fedha.study.outcome import grouped, leak_table, study_table
from fedha.study.points import Point, Success, advantage, epsilon_of, read_point
from tests.commands import Command
from tests.made_runs import FAST, changed, write_run

TINY = (*FAST, "recipe=[erm, exact_diagonal]", "seed=[0, 1]")


# Cells


def test_every_recipe_meets_every_noise_aggregation_and_seed_once() -> None:
    config = parse({"recipe": ["erm", "hgp"], "seed": [0, 1, 2]})
    cells = cells_of(config, (None, 2.0), ("plain", "secure"))
    assert len({one.name for one in cells}) == len(cells) == 2 * 3 * 2 * 2
    for one in cells:
        if one.config is None:
            assert one.refused
            continue
        privacy = one.config.privacy
        assert privacy.protect == ("nothing" if one.noise is None else "examples")
        assert privacy.noise_multiplier == one.noise
        assert privacy.secure_aggregation == (one.aggregation == "secure")
        assert [one.config.recipe[0].name, one.config.seed] == [one.recipe, [one.seed]]
        assert not one.config.evaluation.leave_one_domain_out
    assert cells[0].name == "erm-noise-none-plain-seed0"


def test_a_recipe_that_is_given_twice_is_refused() -> None:
    with pytest.raises(FedhaError, match="both be called"):
        cells_of(parse({"recipe": ["erm", "erm"]}), (None,), ("plain",))


def test_noises_and_aggregations_are_read() -> None:
    assert read_noises("none, 0.5,2,0.5") == (None, 0.5, 2.0)
    assert read_aggregations("secure,plain") == ("secure", "plain")
    for wrong in ("", "0", "-1", "inf", "x", "none,nan"):
        with pytest.raises(FedhaError, match="noise"):
            read_noises(wrong)
    with pytest.raises(FedhaError, match="plain and secure"):
        read_aggregations("sealed")


# Points


@pytest.mark.parametrize(
    ("results", "records", "expected"),
    [
        ({"privacy": {"epsilon": {"a": 1.5, "b": 2.5}}}, [{"epsilon": {"a": 9.0}}], 2.5),
        ({"privacy": {"epsilon": 3}}, [], 3.0),
        ({}, [{"epsilon": 1.0}, {"epsilon": {"a": 2.0}}], 2.0),
        ({"privacy": {}}, [{"round": 1}], None),
        ({}, [], None),
    ],
)
def test_epsilon_is_the_most_that_any_client_spent(results: dict, records: list, expected: float | None) -> None:  # type: ignore[type-arg]
    assert epsilon_of(results, records) == expected


@pytest.mark.parametrize(
    ("attack", "value", "guess", "expected"),
    [
        ("labels_hessian", 0.9, 0.5, 0.4),
        ("labels_hessian", 0.4, 0.5, 0.0),
        ("tracing_joint", 0.75, 0.5, 0.5),
        ("tracing_joint", 1.0, 0.5, 1.0),
        ("feature_moments", 0.1, 0.4, 0.75),
        ("feature_moments", 0.5, 0.4, 0.0),
        ("feature_exact", 0.0, 0.4, 1.0),
        ("input_update", 30.0, 10.0, None),
        ("labels_hessian", 0.9, None, None),
    ],
)
def test_an_attacks_advantage_is_what_it_has_over_its_guess(
    attack: str, value: float, guess: float | None, expected: float | None
) -> None:
    assert advantage(attack, Success(value, guess)) == (None if expected is None else pytest.approx(expected))


def audited(folder: Path, value: float = 0.8) -> None:
    found = tuple(Finding("labels_hessian", 1, client, value, 0.5, None, 10) for client in (0, 1, None))
    record.write(folder, Audited({}, Findings(found, (), (), ()), {}))


def test_a_run_with_noise_that_tells_no_epsilon_is_no_point(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", "hgp", 3, accuracy=0.7)
    audited(folder)
    point = read_point(Cell("hgp", None, "plain", 3, None), folder)
    assert (point.accuracy, point.epsilon) == (0.7, math.inf)
    assert point.attacks["labels_hessian"] == {"clients": Success(0.8, 0.5), "aggregate": Success(0.8, 0.5)}
    with pytest.raises(FedhaError, match="epsilon"):
        read_point(Cell("hgp", 2.0, "plain", 3, None), folder)
    results = json.loads((folder / runfolder.RESULTS).read_text())
    covered = {"protect": "examples", "noise_multiplier": 1.0, "relation": "add or remove one", "noise": "seeded"}
    privacy = {**covered, "epsilon": {"near": 4.5}, "delta": {"near": 1e-5}, "sampling": ["whole"]}
    (folder / runfolder.RESULTS).write_text(json.dumps({**results, "privacy": privacy}))
    assert read_point(Cell("hgp", 2.0, "plain", 3, None), folder).epsilon == 4.5


# Outcome


def point(recipe: str, accuracy: float, leak: float, noise: float | None = None, seed: int = 0, **more: str) -> Point:
    attacks = {"labels_hessian": {"clients": Success(leak, 0.5), "aggregate": Success(0.55, 0.5)}}
    epsilon = math.inf if noise is None else 10 / noise
    return Point(recipe, noise, more.get("aggregation", "plain"), seed, epsilon, accuracy, attacks)


def several() -> list[Point]:
    return [
        point("erm", 0.10, 0.5),
        point("erm", 0.10, 0.5, seed=1),
        point("hgp", 0.50, 0.7),
        point("hgp", 0.52, 0.8, seed=1),
        point("hgp", 0.30, 0.5, noise=5.0),
        point("hgp", 0.50, 0.52, aggregation="secure"),
        point("exact_diagonal", 0.30, 0.9),
        point("iga", 0.05, 1.0),
    ]


def test_the_table_has_a_row_for_each_cell_over_its_seeds() -> None:
    refused = [Cell("hutchinson", 5.0, "plain", seed, None, "no noise covers it") for seed in (0, 1)]
    table = study_table(grouped(several()), refused)
    assert [row[:5] for row in table.rows][:4] == [
        ("erm", "none", "plain", "2", "∞"),
        ("hgp", "none", "plain", "2", "∞"),
        ("hgp", "5", "plain", "1", "2"),
        ("hgp", "none", "secure", "1", "∞"),
    ]
    assert (table.rows[1][5], str(table.rows[1][6])) == (None, "51.0 ± 1.4")
    assert [column.title for column in table.columns][7:] == ["label counts: clients", "label counts: aggregate"]
    assert str(table.rows[1][7]) == "25.0 ± 7.1"
    told = study_table(
        grouped([replace(point("erm", 0.1, 0.5, seed=seed), sources=0.8 + seed / 10) for seed in (0, 1)])
    )
    assert str(told.rows[0][5]) == "85.0 ± 7.1"
    assert table.notes[2] == "Left out, because no noise covers it: hutchinson (noise 5, plain)."
    assert "51.0" in render(table, "csv")


def test_what_leaks_most_for_its_gain_is_named() -> None:
    table = leak_table(grouped(several()))
    assert table is not None
    assert [row[0] for row in table.rows] == ["iga", "exact_diagonal", "hgp"]  # what buys nothing is first
    assert table.rows[0][5] is None
    assert table.rows[1][2:] == (
        "+20.0",
        "label counts: gradient and Hessian diagonal (the Hessian's diagonal)",
        "+40.0",
        "2.00",
    )
    assert "exact_diagonal leaks most for it: +40.0 points for +20.0" in table.notes[1]
    assert leak_table(grouped(several()[2:])) is None  # without ERM there is nothing to compare with


def test_the_figure_says_what_it_shows() -> None:
    drawing = study_figure("s", grouped(several()))
    said = ElementTree.fromstring(drawing).get("aria-label") or ""
    assert "hgp, plain sums, ε ∞: 51.0 % and 25 points" in said
    assert "hgp, plain sums, ε 2: 30.0 % and 5 points" in said
    assert "ε 2" in drawing
    assert study_figure("s", grouped([Point("erm", None, "plain", 0, math.inf, None, {})])) == ""


# The command


def test_a_study_trains_audits_and_goes_on_where_it_was_stopped(fedha: Command, tmp_path: Path) -> None:
    options = ("--noise", "none", "--rounds", "1,last", "--out", "study")
    code, out, _ = fedha("study", "privacy", "quickstart", *TINY, *options, "--dry-run")
    assert code == 0
    assert out.count("to do") == 4
    assert not (tmp_path / "study").exists()
    code, out, err = fedha("study", "privacy", "quickstart", *TINY, *options, "-q")
    assert (code, err) == (0, "")
    assert "exact_diagonal  none   plain      2  ∞" in out
    for name in ("study.yaml", "study.json", "study.md", "study.csv", "study.svg", "report.html"):
        assert (tmp_path / "study" / name).is_file(), name
    runs = json.loads((tmp_path / "study" / "study.json").read_text())["runs"]
    assert [one["recipe"] for one in runs] == ["erm", "erm", "exact_diagonal", "exact_diagonal"]
    assert all(one["epsilon"] is None and one["attacks"]["labels_uniform"]["clients"] for one in runs)
    told = runfolder.read_results(tmp_path / "study" / "erm-noise-none-plain-seed1")["sources"]
    assert runs[1]["sources"] == pytest.approx(fmean(one["accuracy"] for one in told.values()))
    ElementTree.parse(tmp_path / "study" / "study.svg")
    page = (tmp_path / "study" / "report.html").read_text()
    assert page.index("Accuracy, epsilon, attacks") < page.index("target minus erm")
    # one run and one audit are lost
    cells = [tmp_path / "study" / f"exact_diagonal-noise-none-plain-seed{seed}" for seed in (0, 1)]
    (cells[0] / runfolder.RESULTS).unlink()
    (cells[0] / runfolder.AUDIT).unlink()
    (cells[1] / runfolder.AUDIT).unlink()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("study/erm*/*")}
    _, out, _ = fedha("study", "privacy", "quickstart", *TINY, *options, "--dry-run")
    assert [out.count(state) for state in ("done", "begun", "to audit")] == [2, 1, 1]
    fedha("study", "privacy", "quickstart", *TINY, *options, "-q")
    assert json.loads((tmp_path / "study" / "study.json").read_text())["runs"] == runs
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    # another config is another study
    code, _, err = fedha("study", "privacy", "quickstart", *changed(TINY, "training.rounds=5"), *options)
    assert code == 2
    assert "another study" in err or "study of another config" in err


def test_a_study_takes_data_and_networks_of_ones_own(fedha: Command, tmp_path: Path) -> None:
    own = ("data.name=tests.data_of_others:wards", "data.target=ward2", "model.name=tests.models_of_others:fitted")
    changes = ("recipe=exact_diagonal", "training.rounds=1", "training.learning_rate=0.1", "engine.name=inline")
    options = ("--noise", "none,1", "--attacks", "labels", "--out", "study", "-q")
    (tmp_path / "own.yaml").write_text("name: own\n")
    code, out, err = fedha("study", "privacy", "own.yaml", *own, *changes, *options)
    assert (code, err) == (0, "")
    runs = json.loads((tmp_path / "study" / "study.json").read_text())["runs"]
    assert [one["epsilon"] is None for one in runs] == [True, False]
    assert all(one["attacks"]["labels_uniform"]["clients"] for one in runs)
    assert "Left out" not in out


def test_a_study_of_which_nothing_can_run_says_why(fedha: Command) -> None:
    arguments = ("quickstart", *TINY, "data.root=nowhere", "data.name=heart", "data.target=va", "--noise", "none")
    code, _, err = fedha("study", "privacy", *arguments, "-q")
    assert code == 2
    assert "nowhere" in err


def test_help_teaches(fedha: Command) -> None:
    code, out, _ = fedha("study", "privacy", "--help")
    assert code == 0
    assert "fedha study privacy quickstart" in out.split("Example")[1]
