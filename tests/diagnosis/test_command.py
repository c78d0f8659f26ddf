"""`fedha diagnose` on real runs: files, tables, the page, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedha.diagnosed import between_sources, to_targets
from fedha.sweep.found import read_found
from fedha.sweep.selection import choose
from tests.commands import Command
from tests.made_runs import FAST, changed

TINY = changed(FAST, "model.hidden=[6]", "recipe=exact_diagonal", "seed=0")


def read(folder: Path) -> Any:
    return json.loads((folder / "diagnosis.json").read_bytes())


def test_a_run_is_diagnosed_whole(fedha: Command, tmp_path: Path) -> None:
    assert fedha("run", "quickstart", *TINY, "--out", "run", "-q")[0] == 0
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    code, out, err = fedha("diagnose", "run", "--radius", "0.1,1")
    assert (code, err) == (0, "")
    for told in ("measured, at least", "published form alone", "spectral norm", "by chance", "Kinds of shift"):
        assert told in out
    found = read(tmp_path / "run")
    pairs = found["transfer"]["pairs"]
    assert [(one["source"], one["target"]) for one in pairs[::2]] == [
        ("the sources' mean", "target"),
        ("target", "the sources' mean"),
    ]
    assert [one["logits"] for one in pairs[:2]] == pytest.approx([0.1, 1])
    for one in pairs:
        assert one["measured"] <= one["bound"] + 1e-12
        assert sum(one["parts"].values()) == pytest.approx(one["bound"])
        assert set(one["accuracies"]) == {"flip-0.2", "flip-0.1", "target"}
    results = json.loads((tmp_path / "run" / "results.json").read_bytes())
    told = {one["name"]: one["accuracy"] for one in found["domains"]}
    assert told["target"] == pytest.approx(results["target"]["target"]["accuracy"])
    assert told["flip-0.2"] == pytest.approx(results["train"]["flip-0.2"]["accuracy"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Diagnosis" in page
    assert page.count("<svg") >= 5
    drawn = (tmp_path / "run" / "diagnosis-plane.svg").read_text()
    for one in found["shift"]:
        assert f"{one['space']}: {one['diversity']:.2f} and {one['correlation']:.2f}" in drawn
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    assert "published" not in found
    told = between_sources("run")  # the same numbers for a program, from the sources alone
    (pair,) = (one for one in found["curvature"] if {one["first"], one["second"]} == {"flip-0.2", "flip-0.1"})
    assert (told.hessian, told.logits) == (pytest.approx(pair["lower"]), 1.0)
    (there,) = (one for one in pairs if one["target"] == "target" and one["logits"] == pytest.approx(1))
    assert to_targets("run")["target"].risk_gap == pytest.approx(abs(there["parts"]["risk_gap"]))
    # again: it is there already; the report command shows it too
    held = (tmp_path / "run" / "diagnosis.json").read_bytes()
    code, out, _ = fedha("diagnose", "run", "--radius", "1,0.1")
    assert (code, "Nothing to diagnose" in out) == (0, True)
    assert (tmp_path / "run" / "diagnosis.json").read_bytes() == held
    fedha("report", "run")
    assert (tmp_path / "run" / "report.html").read_text() == page
    # five formats
    for form, mark in (("text", "measured"), ("markdown", "| from |"), ("latex", r"\toprule"), ("csv", "from,to,")):
        code, out, _ = fedha("diagnose", "run", "--radius", "0.1,1", "--format", form)
        assert (code, mark in out, "Report" in out) == (0, True, False)
    # everything that fedha wrote is its own to remove
    assert fedha("run", "quickstart", *TINY, "--out", "run", "-q", "--overwrite")[0] == 0
    assert not (tmp_path / "run" / "diagnosis.json").exists()


def test_modes_targets_and_radii(fedha: Command, tmp_path: Path) -> None:
    assert fedha("run", "quickstart", *TINY, "--out", "run", "-q")[0] == 0
    for mode, count in (("pairs", 2), ("leave-one-out", 4), ("worst", 1), ("pooled", 2)):
        code, _, err = fedha("diagnose", "run", "--mode", mode, "--rows", "transfer", "--delta", "0.5", "-q")
        assert (code, err) == (0, "")
        found = read(tmp_path / "run")["transfer"]
        assert (found["mode"], len(found["pairs"])) == (mode, count)
        assert {one["radius"] for one in found["pairs"]} == {0.5}
        assert all(one["measured"] <= one["bound"] + 1e-12 for one in found["pairs"])
    fedha("diagnose", "run", "--to", "flip-0.1", "--rows", "transfer,curvature", "-q")
    found = read(tmp_path / "run")
    assert {one["target"] for one in found["transfer"]["pairs"]} == {"flip-0.1", "the mean of flip-0.2"}
    assert "attributes" not in found
    fedha("diagnose", "run", "--to", "target, flip-0.1,target", "--rows", "transfer", "--delta", "0.5", "-q")
    pairs = [(one["source"], one["target"]) for one in read(tmp_path / "run")["transfer"]["pairs"]]
    assert pairs[::2] == [("the sources' mean", "target"), ("the mean of flip-0.2", "flip-0.1")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--radius", "0"), "--radius is '0'; give positive numbers"),
        (("--radius", "much"), "--radius is 'much'"),
        (("--delta", "nan"), "--delta is 'nan'"),
        (("--mode", "best"), "--mode is 'best'; take one of pooled, pairs, worst, leave-one-out"),
        (("--rows", "everything"), "--rows names 'everything'; take some of transfer, curvature"),
        (("--to", "moon"), "measured to 'moon', which is no domain of the run"),
    ],
)
def test_what_is_wrong_is_said(fedha: Command, tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    fedha("run", "quickstart", *changed(TINY, "training.rounds=1"), "--out", "run", "-q")
    code, _, err = fedha("diagnose", "run", *arguments, "-q")
    assert code == 2
    assert told in err
    assert not (tmp_path / "run" / "diagnosis.json").exists()


def test_heads_that_are_not_linear_are_refused(fedha: Command) -> None:
    few = changed(TINY, "training.rounds=1", "recipe=erm", "model.head_hidden=[4]")
    assert fedha("run", "quickstart", *few, "--out", "run", "-q")[0] == 0
    code, _, err = fedha("diagnose", "run", "-q")
    assert code == 2
    assert "needs a linear one with a bias" in err


def test_what_privacy_hides_is_refused_by_name(fedha: Command, tmp_path: Path) -> None:
    few = changed(TINY, "training.rounds=1", "privacy.secure_aggregation=true", "privacy.minimum=2", "recipe=erm")
    code, _, err = fedha("run", "quickstart", *few, "--out", "run", "-q")
    assert (code, err) == (0, "")
    code, _, err = fedha("diagnose", "run", "--mode", "pairs", "-q")
    assert (code, "which privacy.secure_aggregation hides" in err) == (2, True)
    code, _, err = fedha("diagnose", "run", "--rows", "curvature,attributes", "-q")
    assert (code, err) == (0, "")
    found = read(tmp_path / "run")
    assert {one["first"] for one in (*found["curvature"], *found["attributes"])} == {"the sources' mean"}


def test_another_file_of_that_name_is_not_written_over(fedha: Command, tmp_path: Path) -> None:
    assert fedha("run", "quickstart", *changed(TINY, "training.rounds=1"), "--out", "run", "-q")[0] == 0
    mine = tmp_path / "run" / "diagnosis.json"
    mine.write_text("mine")
    code, _, err = fedha("diagnose", "run", "-q", "--again")
    assert (code, "fedha did not write it" in err) == (2, True)
    assert mine.read_text() == "mine"


def test_the_published_attack_stands_beside_ours(fedha: Command, tmp_path: Path) -> None:
    assert fedha("run", "quickstart", *TINY, "--out", "run", "-q")[0] == 0
    code, out, err = fedha("diagnose", "run", "--method", "published", "--rows", "transfer", "--radius", "0.1,1")
    assert (code, err) == (0, "")
    assert "The published attack" in out
    found = read(tmp_path / "run")
    assert [one["logits"] for one in found["published"]] == pytest.approx([0.1, 1])
    for one in found["published"]:
        assert one["distance"] <= one["radius"] * (1 + 1e-12)
        assert set(one["accuracies"]) == {"flip-0.2", "flip-0.1", "target"}
    assert "The published attack" in (tmp_path / "run" / "report.html").read_text()
    code, _, err = fedha("diagnose", "run", "--method", "adam")
    assert (code, "--method is 'adam'; take one of power" in err) == (2, True)


def test_any_round_whose_model_was_kept(fedha: Command, tmp_path: Path) -> None:
    kept = changed(TINY, "checkpoint.keep=2", "evaluation.every=1")
    assert fedha("run", "quickstart", *kept, "--out", "run", "-q")[0] == 0
    found = {}
    for number in (2, 4):
        assert fedha("diagnose", "run", "--round", str(number), "--rows", "transfer", "-q")[::2] == (0, "")
        found[number] = read(tmp_path / "run")
        assert (found[number]["made"]["round"], found[number]["made"]["rule"]) == (number, "")
    assert found[2]["domains"] != found[4]["domains"]
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for number, one in found.items():
        told = {domain["name"]: domain["accuracy"] for domain in one["domains"]}
        assert told["target"] == pytest.approx(records[number - 1]["target"]["target"]["accuracy"])
    code, _, err = fedha("diagnose", "run", "--round", "3", "-q")
    assert (code, "the model of round 3 of run was not kept" in err) == (2, True)
    code, _, err = fedha("diagnose", "run", "--round", "3", "--rule", "oracle", "-q")
    assert (code, "leave one of them out" in err) == (2, True)
    code, _, err = fedha("diagnose", "run", "--rule", "oracel", "-q")
    assert (code, "did you mean 'oracle'" in err) == (2, True)
    code, out, _ = fedha("diagnose", "run", "--rule", "final", "--rows", "transfer", "--format", "json")
    assert (code, json.loads(out)["made"]["rule"]) == (0, "final")


def test_the_runs_that_a_rule_takes_of_a_sweep(fedha: Command, tmp_path: Path) -> None:
    few = ("recipe=[erm, vrex]", "seed=[0, 1]", *(one for one in FAST if not one.startswith("seed")))
    swept = ("quickstart", *few, "training.learning_rate=[0.001, 0.1]")
    assert fedha("sweep", *swept, "checkpoint.keep=best", "--out", "s", "-q")[0] == 0
    code, out, err = fedha("diagnose", "s", "--rows", "curvature", "--format", "json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert {(one["made"]["recipe"], one["made"]["seed"]) for one in found} == {
        (recipe, seed) for recipe in ("erm", "vrex") for seed in (0, 1)
    }
    assert {one["made"]["rule"] for one in found} == {"training_domain_validation"}
    assert len(list((tmp_path / "s").glob("jobs/*/diagnosis.json"))) == 4
    assert "Diagnosis" in (tmp_path / "s" / "diagnosis.html").read_text()
    code, _, err = fedha("diagnose", "s", "--round", "2")
    assert (code, "are those that --rule takes" in err) == (2, True)
    code, _, err = fedha("diagnose", "s", "--rule", "best")
    assert (code, "there is no rule 'best'" in err) == (2, True)
    assert fedha("sweep", *swept, "--out", "t", "-q")[0] == 0
    code, out, err = fedha("diagnose", "t", "--rule", "final", "--rows", "transfer", "--radius", "1", "-f", "csv")
    assert (code, err) == (0, "")
    rows = out[out.index("target,recipe,runs") :].split("\n")  # a line a recipe, at the end
    assert [one.split(",")[:3] for one in rows[1:3]] == [["target", "erm", "2"], ["target", "vrex", "2"]]
    page = (tmp_path / "t" / "diagnosis.html").read_text()
    assert page.index("Transferability") < page.index("Diagnosis")
    found = read_found([tmp_path / "t"])
    early = [one for one in choose("oracle", found.jobs, found.summaries).values() if one.round < 4]
    assert early  # a round before the last, whose model is not kept by default
    code, _, err = fedha("diagnose", "t", "--rule", "oracle", "--rows", "curvature", "-q")
    assert (code, f"(so of {len(early)} of its 4 runs); sweep with checkpoint.keep: best" in err) == (2, True)
