"""Whole runs with secure sums: the same bits on every engine, files that name no client's numbers, refused configs."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file

from fedha.cli.display import LineDisplay
from fedha.config import POOLED, Config, parse, to_json
from fedha.engine import ray_session
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.flower.apps import bound_client_app, server_app
from fedha.flower.client import client_app
from fedha.flower.secure_client import simulated_party
from fedha.flower.serve import Job, load_domains, serve
from fedha.models import build
from fedha.report.comparison import read_runs
from fedha.report.page import render_report
from fedha.run import execute
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.jobs import run_job
from tests.killed_runs import kill_and_resume, without_time
from tests.privacy.secure.grids import FAILED, WatchedGrid, at

BASE: dict[str, Any] = {
    "data": {"color_flips": [0.1, 0.2, 0.3]},
    "model": {"hidden": [6], "one_logit": True},
    "recipe": "hgp",
    "training": {"rounds": 4},
    "evaluation": {"every": 2},
    "checkpoint": {"every": 2},
}


def config(
    engine: str | dict[str, Any] = "inline",
    *,
    secure: bool = True,
    privacy: dict[str, Any] | None = None,
    **sections: Any,
) -> Config:
    options = {"workers": 2, "batching": False} if engine == "ray" else {}
    where = engine if isinstance(engine, dict) else {"name": engine, **options}
    section = {"secure_aggregation": secure, **(privacy or {})}
    return parse({**BASE, "engine": where, "privacy": section, **sections})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "run"
    execute(config(secure=False), folder, Silent())
    return folder


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secure") / "run"
    execute(config(), folder, Silent())
    return folder


def model(folder: Path) -> bytes:
    return (folder / runfolder.MODEL).read_bytes()


def assert_near(one: Path, other: Path) -> None:
    torch.testing.assert_close(load_file(one / runfolder.MODEL), load_file(other / runfolder.MODEL), rtol=0, atol=1e-6)


def test_a_secure_run_ends_at_the_plain_runs_model(plain: Path, secure: Path) -> None:
    assert_near(plain, secure)


def test_no_file_of_a_run_tells_a_single_sources_numbers(plain: Path, secure: Path) -> None:
    for record in runfolder.read_metrics(secure):
        assert set(record["risk"]) == set(record["accuracy"]) == {POOLED}
        assert set(record.get("held_out", {POOLED: 0})) == {POOLED}
    results, other = runfolder.read_results(secure), runfolder.read_results(plain)
    assert set(results["sources"]) == set(results["train"]) == {POOLED}
    for part in ("sources", "train"):
        for name in ("accuracy", "risk"):
            pooled = sum(one[name] * one["examples"] for one in other[part].values())
            pooled /= sum(one["examples"] for one in other[part].values())
            assert results[part][POOLED][name] == pytest.approx(pooled, abs=1e-6)
    assert results["target"]["target"]["accuracy"] == other["target"]["target"]["accuracy"]
    assert results["selection"]["final"] == other["selection"]["final"]
    assert "training_domain_validation" in results["selection"]


def test_display_and_report_cope_with_one_entry_for_all_sources(secure: Path) -> None:
    out = StringIO()
    display = LineDisplay(Console(file=out, width=200))
    display.started(config(), secure, 1)
    for record in runfolder.read_metrics(secure):
        display.round_done(record)
    display.finished(runfolder.read_results(secure))
    assert "sources" in out.getvalue()
    page = render_report(read_runs([secure])[0])
    assert POOLED in page
    assert "Where the server learnt sums alone" in page


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_flowers_simulation_writes_what_one_process_writes(secure: Path, tmp_path: Path) -> None:
    run_job(Job(config("flower"), tmp_path / "run"), Silent())
    assert model(tmp_path / "run") == model(secure)
    assert without_time(tmp_path / "run" / "metrics.jsonl") == without_time(secure / "metrics.jsonl")


def test_metrics_tell_who_was_lost_in_a_round_and_in_its_evaluation(tmp_path: Path) -> None:
    run = config(
        data={"color_flips": [0.1, 0.2, 0.3, 0.4, 0.5]},
        recipe="erm",
        privacy={"threshold": 3},
        engine={"name": "inline", "on_client_error": "skip"},
        evaluation={"every": 1},
    )
    domains = load_domains(run)
    app = client_app(
        lambda context: build(run.model, domains.input_shape, domains.classes, 0),
        lambda context: domains.sources[int(str(context.node_config["partition-id"]))],
        party=simulated_party(run),
    )
    faults = {
        at("query.share", 2, 3): FAILED,
        at("query.confirm", 3, 1, 0): FAILED,
        at("query.reveal", 3, 2, 1): FAILED,
    }
    serve(Job(run, tmp_path / "run"), WatchedGrid(app, 5, faults), Silent(), domains=domains)
    records = runfolder.read_metrics(tmp_path / "run")
    told = [[(one["client"][:8], one["exchange"]) for one in record.get("events", [])] for record in records]
    assert told == [[], [("client 3", "share")], [("client 1", "confirm"), ("client 2", "reveal")], []]
    assert [record["clients"] for record in records] == [5, 4, 5, 5]
    examples = sum(len(domain.held_out) for domain in domains.sources)
    assert all(record["held_out"][POOLED]["examples"] == examples for record in records)


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(secure: Path, tmp_path: Path) -> None:
    kill_and_resume(config(), tmp_path / "run", 3)
    assert model(tmp_path / "run") == model(secure)


def test_piggyback_runs_take_five_messages_a_round(plain: Path, tmp_path: Path) -> None:
    ends = []
    for secure in (True, False):
        folder = tmp_path / str(secure)
        execute(config(secure=secure, federation={"schedule": "piggyback"}), folder, Silent())
        ends.append(folder)
    assert_near(*ends)
    assert POOLED in runfolder.read_metrics(ends[0])[1]["held_out"]


def test_checkpoints_hold_no_secret_of_a_client(tmp_path: Path) -> None:
    execute(config(), tmp_path / "run", Silent())
    with safe_open(next((tmp_path / "run" / "checkpoint").glob("*.safetensors")), "pt") as file:
        names = {name.partition("/")[0] for name in set(file.keys())}
        assert names <= {"parameters", "rule", "references", "clients"}
        assert "secret" not in json.dumps(file.metadata())


def test_an_app_outside_of_a_simulation_has_no_identity(tmp_path: Path) -> None:
    ray_session.stop()
    settings = {"settings": to_json(config()), "out": str(tmp_path / "run")}
    here = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=settings)
    grid = InlineGrid(bound_client_app(tmp_path), 3, settings)
    with pytest.raises(FedhaError, match="this app has no identity key of its own"):
        server_app(tmp_path)(grid=grid, context=here)


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"recipe": "groupdro"}, "weighs each domain by its own risk, which the server does not learn"),
        ({"training": {"client_sampling": "examples"}}, "does not learn how many examples a client has"),
        ({"training": {"clients_per_round": 2}}, r"training\.clients_per_round is 2 but privacy\.minimum is 3"),
        ({"federation": {"clients": 2}}, r"federation\.clients is 2 but privacy\.minimum is 3"),
    ],
)
def test_configs_that_cannot_be_summed_are_refused(sections: dict[str, Any], why: str) -> None:
    with pytest.raises(FedhaError, match=why):
        config(**sections)
    config(secure=False, **sections)


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"data": {"color_flips": [0.1, 0.2]}}, r"a round has 2 clients and privacy\.minimum is 3"),
        ({"training": {"clients_per_round": 0.5}}, r"a round has 2 clients and privacy\.minimum is 3"),
        ({"privacy": {"threshold": 4}}, r"privacy\.threshold is 4 and a round has 3 clients; take 2 to 3"),
        ({"data": {"color_flips": [0.1] * 5}, "privacy": {"threshold": 2}}, r"take 3 to 5 \(more than half"),
    ],
)
def test_runs_with_too_few_clients_leave_nothing_behind(sections: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match=why):
        execute(config(**sections), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()
