"""Metrics in runs: the same numbers in every way of running, in secure sums, and the model that a table names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fedha
from fedha import Metric
from fedha.audit.replay import difference, replay
from fedha.config import POOLED, Config, parse
from fedha.data.domain import Domain, Examples
from fedha.errors import FedhaError
from fedha.flower.serve import Job, load_domains
from fedha.privacy.contract import contract_of
from fedha.report.comparison import read_runs
from fedha.report.domains import domain_tables
from fedha.report.formats import render
from fedha.report.page import render_report
from fedha.run import execute
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from fedha.training import evaluate
from tests.jobs import run_job
from tests.killed_runs import assert_same_bits, kill_and_resume, without_time
from tests.metrics import others
from tests.models_of_others import fitted
from tests.privacy.rounds import run_on
from tests.privacy.test_contract import grid_of

COUNTED = ["balanced_accuracy", "macro_f1", "expected_calibration_error", "log_loss"]
BASE: dict[str, Any] = {
    "data": {"color_flips": [0.1, 0.2, 0.3]},
    "model": {"hidden": [6], "one_logit": True},
    "recipe": {"name": "hgp", "warmup_rounds": 2},
    "training": {"rounds": 6},
    "evaluation": {"metrics": [*COUNTED, "auroc"]},
    "checkpoint": {"every": 2},
    "engine": {"name": "inline"},
}


def config(**sections: Any) -> Config:
    return parse({**BASE, **sections})


def numbers(folder: Path) -> list[Any]:
    return [(one.get("held_out"), one.get("target")) for one in runfolder.read_metrics(folder)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "run"
    execute(config(), folder, Silent())
    return folder


def test_nothing_else_changes_where_metrics_are_asked_for(plain: Path, tmp_path: Path) -> None:
    execute(config(evaluation={}), tmp_path / "run", Silent())
    bare, asked = runfolder.read_metrics(tmp_path / "run"), runfolder.read_metrics(plain)
    for one, other in zip(bare, asked, strict=True):
        for part in ("held_out", "target"):
            for name, values in one[part].items():
                assert {key: other[part][name][key] for key in values} == values
        assert one["bytes_down"] == other["bytes_down"]
    assert load_file(plain / "model.safetensors").keys() == load_file(tmp_path / "run/model.safetensors").keys()
    results = runfolder.read_results(plain)
    assert set(results["target"]["target"]["interval"]) == {"accuracy", *COUNTED[:3]}
    assert "interval" not in runfolder.read_metrics(plain)[-1]["target"]["target"]


def test_clients_that_are_evaluated_together_count_the_same(plain: Path, tmp_path: Path) -> None:
    execute(config(engine={"name": "inline", "batching": True}), tmp_path / "run", Silent())
    first, second = numbers(plain)[0][0], numbers(tmp_path / "run")[0][0]
    for name, values in first.items():
        for key, value in values.items():
            assert second[name][key] == pytest.approx(value, abs=1e-4)


def test_several_clients_of_a_domain_add_their_counts(tmp_path: Path) -> None:
    several = config(data={"clients_per_domain": 3}, evaluation={"metrics": COUNTED}, training={"rounds": 1})
    execute(several, tmp_path / "run", Silent())
    domains, model = load_domains(several), fedha.load(tmp_path / "run")
    found = runfolder.read_results(tmp_path / "run")["sources"]
    for one in domains.sources:
        whole = evaluate(model, {}, one.held_out)
        assert found[one.name]["accuracy"] == pytest.approx(whole["accuracy"])
        assert found[one.name]["examples"] == whole["examples"]
        assert found[one.name]["balanced_accuracy"] is not None


def test_what_rides_along_with_updates_has_the_counts_too(plain: Path, tmp_path: Path) -> None:
    riding = config(federation={"schedule": "piggyback"}, recipe="erm")
    execute(riding, tmp_path / "riding", Silent())
    execute(config(recipe="erm"), tmp_path / "exact", Silent())
    assert numbers(tmp_path / "riding") == numbers(tmp_path / "exact")


@pytest.mark.parametrize("schedule", ["exact", "piggyback"])
def test_secure_sums_carry_exact_counts(tmp_path: Path, schedule: str) -> None:
    section = {"evaluation": {"metrics": COUNTED}, "recipe": "erm", "training": {"rounds": 2, "averaging": "clients"}}
    secure = config(**section, privacy={"secure_aggregation": True}, federation={"schedule": schedule})
    execute(secure, tmp_path / "run", Silent())
    model, whole = fedha.load(tmp_path / "run"), torch.zeros(2, 2)
    for one in load_domains(secure).sources:
        logits = model(one.held_out.take()).detach()[:, 0]
        whole += torch.bincount(2 * one.held_out.labels + (logits > 0), minlength=4).reshape(2, 2)
    found = runfolder.read_results(tmp_path / "run")["sources"]
    assert list(found) == [POOLED]
    recalls = whole.diagonal() / whole.sum(1)
    assert found[POOLED]["balanced_accuracy"] == pytest.approx(float(recalls.mean()))
    assert found[POOLED]["expected_calibration_error"] is not None


@pytest.mark.usefixtures("shared_ray")
def test_workers_count_the_same(plain: Path, tmp_path: Path) -> None:
    execute(config(engine={"name": "ray", "workers": 2, "batching": False}), tmp_path / "run", Silent())
    assert numbers(tmp_path / "run") == numbers(plain)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_flowers_processes_count_the_same(plain: Path, tmp_path: Path) -> None:
    run_job(Job(config(engine={"name": "flower"}), tmp_path / "run"), Silent())
    assert numbers(tmp_path / "run") == numbers(plain)


KEEPING: dict[str, dict[str, Any]] = {
    "by accuracy": {"evaluation": {"leave_one_domain_out": True}},
    "by the worst domain's log loss": {
        "evaluation": {"metrics": ["log_loss"], "select_by": {"metric": "log_loss", "over": "worst_domain"}}
    },
    "with evaluations that ride along": {"federation": {"schedule": "piggyback"}, "evaluation": {"every": 2}},
}


@pytest.mark.parametrize("sections", KEEPING.values(), ids=KEEPING)
def test_the_model_that_a_rule_names_is_the_one_that_is_loaded(tmp_path: Path, sections: dict[str, Any]) -> None:
    wanted = config(**sections, checkpoint={"keep": "best", "every": 2}, training={"rounds": 7, "learning_rate": 0.05})
    folder = tmp_path / "run"
    results = execute(wanted, folder, Silent())
    (target,) = load_domains(wanted).targets
    for rule, chosen in results["selection"].items():
        found = evaluate(fedha.load(folder, rule=rule), {}, target.held_out)
        assert found["accuracy"] == chosen["target_accuracy"], rule
    rounds = {one["round"] for rule, one in results["selection"].items() if rule != "final"}
    assert {path.name for path in (folder / "models").glob("*")} == {f"round-{one:06d}.safetensors" for one in rounds}
    with pytest.raises(FedhaError, match="was not kept"):
        fedha.load(folder, round=next(one for one in range(1, 7) if one not in rounds))


def test_a_finished_run_that_goes_on_has_its_best_model_still(tmp_path: Path) -> None:
    folder, best = tmp_path / "run", {"keep": "best"}
    for rounds in (3, 6):
        wanted = config(checkpoint=best, training={"rounds": rounds}, recipe="erm")
        results = execute(wanted, folder, Silent(), resume=rounds > 3)
    for rule in results["selection"]:
        fedha.load(folder, rule=rule)


def test_a_run_that_is_resumed_keeps_the_same_models(tmp_path: Path) -> None:
    wanted = config(checkpoint={"keep": "best", "every": 2}, training={"rounds": 7, "learning_rate": 0.05})
    results = execute(wanted, tmp_path / "whole", Silent())
    assert kill_and_resume(wanted, tmp_path / "killed", 5)["selection"] == results["selection"]
    names = [sorted(path.name for path in (tmp_path / one / "models").glob("*")) for one in ("whole", "killed")]
    assert names[0] == names[1]
    for name in names[0]:
        assert (tmp_path / "whole/models" / name).read_bytes() == (tmp_path / "killed/models" / name).read_bytes()


def test_every_kth_model_stays(tmp_path: Path) -> None:
    execute(config(checkpoint={"keep": 2}, evaluation={"every": 6}), tmp_path / "run", Silent())
    names = sorted(path.name for path in (tmp_path / "run/models").glob("*"))
    assert names == [f"round-{number:06d}.safetensors" for number in (2, 4, 6)]
    fedha.load(tmp_path / "run", round=4)


STOPPING = {"metric": "accuracy", "patience": 2}


@pytest.mark.parametrize("schedule", ["exact", "piggyback"])
def test_a_run_that_ends_early_ends_alike_when_it_is_resumed(tmp_path: Path, schedule: str) -> None:
    training = {"rounds": 40, "learning_rate": 0.05, "stop": STOPPING}
    wanted = config(training=training, federation={"schedule": schedule}, recipe="erm", evaluation={"every": 2})
    whole = execute(wanted, tmp_path / "whole", Silent())
    assert 4 <= whole["rounds"] < 40
    assert "was no better for 2 evaluations" in whole["stopped"]
    assert runfolder.read_metrics(tmp_path / "whole")[-1]["round"] == whole["rounds"]
    assert set(whole["train"]) == set(whole["sources"])
    for after in (3, whole["rounds"]):
        folder = tmp_path / f"killed{after}"
        kill_and_resume(wanted, folder, after)
        assert_same_bits(folder, tmp_path / "whole")
        assert without_time(folder / runfolder.RESULTS) == without_time(tmp_path / "whole" / runfolder.RESULTS)


def test_an_audit_does_a_run_that_ended_early_again(tmp_path: Path) -> None:
    wanted = config(training={"rounds": 40, "learning_rate": 0.05, "stop": STOPPING}, recipe="erm", evaluation={})
    assert execute(wanted, tmp_path / "run", Silent())["rounds"] < 40
    again = replay(wanted, load_domains(wanted), rounds=(), keep=None)
    assert difference(again, runfolder.read_model(tmp_path / "run")) == 0


def test_clients_who_hold_a_contract_count_what_was_agreed(plain: Path, tmp_path: Path) -> None:
    wanted = config(training={"rounds": 6, "stop": {"metric": "accuracy", "patience": 9}})
    run_on(grid_of(wanted, contract_of(wanted)), wanted, tmp_path / "run")
    assert numbers(tmp_path / "run") == numbers(plain)
    other = contract_of(config(evaluation={"metrics": ["macro_f1"]}))
    with pytest.raises(FedhaError, match="contract"):
        run_on(grid_of(wanted, other), wanted, tmp_path / "other")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": ({"evaluation": {"metrics": ["makro_f1"]}}, "did you mean 'macro_f1'"),
    "twice": ({"evaluation": {"metrics": ["auroc", "auroc"]}}, "^the config: evaluation.metrics names 'auroc' twice"),
    "stops by no metric": (
        {"training": {"stop": {"metric": "aurok", "patience": 2}}},
        r"training\.stop: there is no metric 'aurok'; did you mean 'auroc'",
    ),
    "selects by what is not computed": ({"evaluation": {"select_by": "auroc"}}, "not among evaluation.metrics"),
    "stops by what is not computed": (
        {"evaluation": {}, "training": {"stop": {"metric": "auroc", "patience": 1}}},
        "not among",
    ),
    "no groups": ({"evaluation": {"select_by": {"metric": "accuracy", "over": "worst_group"}}}, "names no column"),
    "scores in secure sums": ({"privacy": {"secure_aggregation": True}}, "'auroc', which needs all examples"),
    "scores of shared domains": ({"data": {"clients_per_domain": 2}}, "'auroc', which needs all examples"),
    "scores of divided domains": ({"data": {"partition": "dirichlet"}}, "'auroc', which needs all examples"),
    "groups in secure sums": (
        {"evaluation": {"groups": "site"}, "privacy": {"secure_aggregation": True}},
        "nobody tells which groups",
    ),
    "no ledger": (
        {"privacy": {"protect": "examples", "noise_multiplier": 1.0, "evaluation_noise": 1.0}},
        "its ledger covers accuracy alone",
    ),
    "nothing to stop by": (
        {
            "evaluation": {},
            "training": {"stop": STOPPING},
            "privacy": {"protect": "examples", "noise_multiplier": 1.0},
        },
        "privacy.evaluation_noise is not given",
    ),
    "no patience": ({"training": {"stop": "accuracy"}}, "training.stop"),
    "keeps nonsense": ({"checkpoint": {"keep": 0}}, "checkpoint.keep"),
}


@pytest.mark.parametrize(("sections", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(FedhaError, match=message):
        config(**sections)


def domain(place: int) -> Domain:
    draws = torch.Generator().manual_seed(place)
    inputs = torch.randn(60, 2, 3, generator=draws)
    labels = (inputs[:, 0, 0] > 0).long()
    sides = torch.arange(60).numpy() % 2
    parts = [Examples(inputs[s], labels[s], metadata={"side": sides[s]}) for s in (slice(40), slice(40, 60))]
    return Domain(f"d{place}", *parts)


def test_own_metrics_and_groups_of_a_program(tmp_path: Path) -> None:
    asked = {
        "metrics": [others.sure, "tests.metrics.others:MISSED", Metric("half", lambda accuracy: accuracy / 2)],
        "groups": "side",
        "select_by": {"metric": "accuracy", "over": "worst_group"},
    }
    domains = [domain(0), domain(1), domain(2)]
    found = fedha.simulate(
        domains, fitted, "erm", target="d2", training={"rounds": 3}, evaluation=asked, out=tmp_path / "run"
    )
    by_half = {**asked, "select_by": "half"}
    chosen = fedha.simulate(domains, fitted, "erm", target="d2", training={"rounds": 3}, evaluation=by_half).results
    assert chosen["selection"]["training_domain_validation"]["round"] in (1, 2, 3)
    assert found.metric("half", "d2") == found.accuracy("d2") / 2
    assert 0 < (found.metric("sure", "d0") or 0) < 1
    part = found.results["sources"]["d0"]
    assert set(part["groups"]) == {"0", "1"}
    assert sum(one["examples"] for one in part["groups"].values()) == part["examples"]
    assert part["interval"]["tests.metrics.others:MISSED"][0] <= part["tests.metrics.others:MISSED"]
    with pytest.raises(FedhaError, match="have side"):
        fedha.simulate(domains, fitted, "erm", target="d2", training={"rounds": 1}, evaluation={"groups": "sid"})
    runs, _ = read_runs([tmp_path / "run"])
    metrics, groups = domain_tables([run.results for run in runs])
    assert "sources, worst" in render(metrics, "text")
    assert {row[1] for row in groups.rows} == {f"{name}: {one}" for name in ("d0", "d1", "target d2") for one in "01"}
    assert "Rules compare rounds by the worst group&#39;s accuracy." in render_report(runs)


def test_a_table_says_where_there_is_no_value_and_over_how_many_a_mean_is(plain: Path) -> None:
    (run,), _ = read_runs([plain])
    names = list(run.results["sources"])
    undefined = {"auroc": None, "undefined": {"auroc": "all its examples are of class 1"}, "absent": [0]}
    sources = {**run.results["sources"], names[0]: {**run.results["sources"][names[0]], **undefined}}
    (table,) = domain_tables([{**run.results, "sources": sources}])
    text = render(table, "text")
    assert f"{names[0]}: no auroc (–): all its examples are of class 1." in text
    assert f"{names[0]}: no example of class 0" in text
    assert "auroc over 2 of 3" in text
    columns = [column.heading for column in table.columns]
    assert table.rows[0][columns.index("auroc %")] is None
    mean = next(row for row in table.rows if row[1] == "sources, mean")[columns.index("auroc %")]
    known = [100 * sources[name]["auroc"] for name in names[1:]]
    assert mean.mean == pytest.approx(sum(known) / 2)  # type: ignore[union-attr]
    assert "low,accuracy % high" in render(table, "csv")
