"""`fedha audit` end to end: what must succeed does, what must fail falls to the guess, and nothing is done twice."""

import json
import statistics
from pathlib import Path

import pytest

from fedha.audit import record
from fedha.audit.findings import Finding, Findings
from tests.audit.bounds import chance_bound
from tests.commands import Command
from tests.made_runs import FAST, changed

TINY = changed(FAST, "model.hidden=[16]", "recipe=exact_diagonal")


def of(findings: Findings, attack: str) -> list[Finding]:
    return [one for one in findings.found if one.attack == attack and one.client is not None]


def test_a_config_is_trained_and_audited_and_single_examples_have_no_secret(fedha: Command, tmp_path: Path) -> None:
    code, out, err = fedha("audit", "quickstart", *TINY, "seed=0", "--out", "run", "--shadows", "4", "--small", "1,2")
    assert (code, err) == (0, "")
    assert "the replay ended with the run's own model, to the bit" in out
    audited = record.read(tmp_path / "run")
    assert audited.made["same_bits"] is True
    assert audited.made["rounds"] == [1, 2, 3, 4]
    one = audited.small[1]
    assert [found.value for found in of(one, "labels_hessian")] == [1.0, 1.0]
    assert max(found.value for found in of(one, "feature_exact")) < 1e-3  # float32
    assert [found.value for found in of(one, "input_exact")] == [100.0, 100.0]
    assert min(found.value for found in of(one, "input_update")) > 20
    assert min(found.value for found in of(one, "tracing_joint")) > 0.99
    assert {found.attack for found in audited.run.found} >= {"membership_loss", "membership_lira", "labels_public"}
    assert {found.client for found in audited.run.found} == {0, 1, None}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What was given away" in page
    assert "What a few examples would give away" in page
    assert "single example" in out
    # again: it is there already
    before = (tmp_path / "run" / "audit.json").read_bytes()
    options = ("--shadows", "4", "--small", "1,2")
    code, out, _ = fedha("audit", "run", *options)
    assert code == 0
    assert "Nothing to audit" in out
    assert (tmp_path / "run" / "audit.json").read_bytes() == before
    # the report command shows it too
    fedha("report", "run")
    assert (tmp_path / "run" / "report.html").read_text() == page


def test_noise_without_end_leaves_every_attack_at_its_guess(fedha: Command, tmp_path: Path) -> None:
    seeds = 3
    code, *_ = fedha("run", "quickstart", *TINY, f"seed={list(range(seeds))}", "--out", "runs", "-q")
    assert code == 0
    options = ("--attacks", "labels,features,tracing,input_update", "--rounds", "1,last", "--small", "1", "-q")
    code, _, err = fedha("audit", "runs", *options, "--noise", "1e6", "--out", "drowned")
    assert (code, err) == (0, "")
    audits = [record.read(tmp_path / "drowned" / f"exact_diagonal-seed{seed}") for seed in range(seeds)]
    assert not list((tmp_path / "runs").rglob("audit.json"))
    every = [one.run for one in audits]
    held, trained = 120, 479
    for attack in ("tracing_gradient", "tracing_diagonal", "tracing_joint"):
        areas = [statistics.fmean(one.value for one in of(found, attack)) for found in every]
        assert abs(statistics.fmean(areas) - 0.5) < chance_bound(trained, held, seeds, false_alarms=1e-2)
    for attack in ("labels_uniform", "labels_public", "labels_hessian", "feature_class_means"):
        found = [one for each in every for one in of(each, attack)]
        assert statistics.fmean(one.value for one in found) < statistics.fmean(one.baseline for one in found)
    small = [one.small[1] for one in audits]
    for attack in ("feature_exact", "feature_moments"):
        errors = [one for each in small for one in of(each, attack)]
        assert statistics.fmean(one.value for one in errors) > statistics.fmean(one.baseline for one in errors)
    images = [one for each in small for one in of(each, "input_update")]
    assert images
    assert max(one.value for one in images) < 20  # without noise: above 20, see above


def test_several_runs_share_a_page_with_a_part_for_each_recipe(fedha: Command, tmp_path: Path) -> None:
    changes = (*FAST, "recipe=[erm, hgp]", "seed=[0, 1]")
    options = ("--attacks", "labels", "--rounds", "last", "--small", "", "--keep")
    code, out, _ = fedha("audit", "quickstart", *changes, *options, "--out", "runs")
    assert code == 0
    assert out.count("to the bit") == 4
    page = (tmp_path / "runs" / "report.html").read_text()
    assert "What was given away: erm" in page
    assert "What was given away: hgp" in page
    assert "What a few examples" not in page
    assert (tmp_path / "runs" / "hgp-seed1" / "sent" / "round-000004.safetensors").exists()
    # a change makes another run, which is trained
    code, out, _ = fedha("audit", "runs", "recipe=hgp", "seed=7", *options[:-1], "--out", "other")
    assert code == 0
    assert json.loads((tmp_path / "other" / "audit.json").read_text())["made"]["seed"] == 7


def test_a_run_that_was_made_otherwise_is_not_said_to_be_the_same(fedha: Command, tmp_path: Path) -> None:
    fedha("run", "quickstart", *FAST, "recipe=erm", "seed=0", "--out", "run", "-q")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("learning_rate: 0.01\n", "learning_rate: 0.02\n", 1))
    code, out, _ = fedha("audit", "run", "--attacks", "labels", "--small", "")
    assert code == 0
    assert "differs from the run's by up to" in out
    assert record.read(tmp_path / "run").made["same_bits"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "there is no file nowhere"),
        (("run", "--rounds", "9"), "asks for 9, but the run has the rounds 1 to 4"),
        (("run", "--attacks", "lables"), "did you mean 'labels'"),
        (("run", "--small", "x"), "--small is 'x'"),
        (("run", "--shadows", "3"), "even number of 4 or more"),
        (("run", "--noise", "3"), "--out"),
        ((".", "seed=1"), "holds neither"),
    ],
)
def test_what_cannot_be_audited_is_explained(fedha: Command, arguments: tuple[str, ...], said: str) -> None:
    fedha("run", "quickstart", *FAST, "recipe=erm", "seed=0", "--out", "run", "-q")
    code, _, err = fedha("audit", *arguments)
    assert code == 2
    assert said in err


def test_help_teaches(fedha: Command) -> None:
    code, out, _ = fedha("audit", "--help")
    assert code == 0
    for word in ("labels", "features", "inputs", "tracing", "membership", "fedha audit quickstart", "--noise"):
        assert word in out
