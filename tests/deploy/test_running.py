"""A deployment in real processes, with TLS and identities, trains what a simulation trains, inside sites' limits."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedha.privacy import accounting
from fedha.privacy.ledger import restore
from fedha.runs import runfolder
from tests.deploy.deployed import CONFIG, ERM, NOISY, PRIVATE, SECURE, Deployed, Simulated, assert_same_run
from tests.deploy.running import SCRIPTS, Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def limits(federation: Running, tmp_path: Path) -> Iterator[Path]:
    """West's own limits: a file that its app reads anew for each message."""
    file = tmp_path / "limits.yaml"
    federation.end("west-app")
    federation.app("west", FEDHA_LIMITS=str(file))
    try:
        yield file
    finally:
        federation.end("west-app")
        federation.app("west")


def test_a_run_has_the_bits_of_the_simulation(federation: Running, simulated: Simulated) -> None:
    """Started as a user starts it, with the installed command."""
    program = str(SCRIPTS / "fedha")
    run = Deployed(federation, "exact", "recipe=exact_diagonal", "training.rounds=2", program=program)
    code, said = run.end()
    assert code == 0, said
    assert_same_run(run.folder, simulated.run("recipe=exact_diagonal", "training.rounds=2"))
    assert "unseen target" in said or "target" in said
    assert {path.name for path in run.folder.iterdir()} >= {"config.yaml", "results.json", "report.html", "checkpoint"}
    assert list((federation.runs / ".events").iterdir()) == []


def test_one_exchange_a_round_has_the_bits_of_its_simulation(federation: Running, simulated: Simulated) -> None:
    """Fishr: what clients remember is on their disks between messages."""
    run = Deployed(federation, "piggyback", "recipe=fishr", "federation.schedule=piggyback")
    code, said = run.end()
    assert code == 0, said
    assert_same_run(run.folder, simulated.run("recipe=fishr", "federation.schedule=piggyback"))


def test_secure_sums_between_sites_with_keys_of_their_own_have_the_bits_of_the_simulation(
    federation: Running, simulated: Simulated
) -> None:
    run = Deployed(federation, "secure", *SECURE)
    code, said = run.end()
    assert code == 0, said
    assert_same_run(run.folder, simulated.run(*SECURE))
    assert run.events() == []


def test_a_run_begins_with_the_model_of_one_of_the_servers_runs(federation: Running, simulated: Simulated) -> None:
    code, said = Deployed(federation, "probe", *ERM, "training.rounds=1").end()
    assert code == 0, said
    tuned = (
        "recipe=exact_diagonal",
        "training.rounds=2",
        "training.optimizer=adamw",
        "training.rates={featurizer: 0.1}",
    )
    run = Deployed(federation, "tuned", *tuned, "model.start=probe", "model.start_head=false")
    code, said = run.end()
    assert code == 0, said
    probe = simulated.run(*ERM, "training.rounds=1")
    assert_same_run(run.folder, simulated.run(*tuned, f"model.start={probe}", "model.start_head=false"))
    started = json.loads((run.folder / runfolder.RESULTS).read_text())["start"]
    assert started["run"] == "probe"
    code, said = Deployed(federation, "outside", *ERM, "model.start=../probe").end()
    assert code == 2
    assert "'../probe' does not name a place in the server's folder of runs" in said


def test_what_the_user_can_mend_is_one_sentence_and_code_2(federation: Running) -> None:
    run = Deployed(federation, "wrong", "recipe=erm", "evaluation.leave_one_domain_out=true")
    code, said = run.end()
    assert code == 2
    assert said.splitlines()[-1].startswith("fedha: evaluation.leave_one_domain_out trains without one site at a time")


def test_noise_is_the_sites_own_and_epsilon_is_what_was_planned(
    federation: Running, simulated: Simulated, limits: Path
) -> None:
    pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')
    limits.write_text("max_epsilon: 20.0\nmin_examples: 100\nstatistics: [gradient, hessian_diagonal, evaluation]\n")
    run = Deployed(federation, "private", *PRIVATE)
    code, said = run.end()
    assert code == 0, said
    one, other = (runfolder.read_metrics(folder) for folder in (run.folder, simulated.run(*PRIVATE)))
    assert [record["epsilon"] for record in one] == [record["epsilon"] for record in other]
    assert [record.get("events", []) for record in one] == [[], []]
    spent = one[-1]["epsilon"]
    plan = [sys.executable, "-m", "fedha", "privacy", "plan", str(CONFIG), *PRIVATE]
    rows = subprocess.run(plan, check=True, capture_output=True, text=True).stdout.splitlines()
    for client in ("flip-0.3", "flip-0.2", "flip-0.1"):
        (row,) = (row for row in rows if row.startswith("exact_diagonal") and client in row)
        assert f" {spent[client]:.3g} " in row

    results = json.loads((run.folder / runfolder.RESULTS).read_text())
    assert results["privacy"]["noise"].startswith("cryptographic")
    assert "cryptographic" in (run.folder / runfolder.REPORT).read_text()
    model, seeded = (load_file(one / runfolder.MODEL) for one in (run.folder, simulated.run(*PRIVATE)))
    assert all(bool(value.isfinite().all()) for value in model.values())
    assert any(not torch.equal(value, seeded[name]) for name, value in model.items())

    (account_file,) = (federation.init_folder.site("west") / "cache" / "account").glob("examples-*.json")
    account = json.loads(account_file.read_text())
    own = restore(account["ledgers"]["train"])
    assert accounting.spent(own, results["privacy"]["delta"]["flip-0.1"]).epsilon == pytest.approx(spent["flip-0.1"])
    assert_refused_by_its_own_limit(federation, limits, spent["flip-0.1"] + 0.01)


def assert_refused_by_its_own_limit(federation: Running, limits: Path, budget: float) -> None:
    """The account goes on from run to run: what is left of the budget is too little for one more round."""
    limits.write_text(f"max_epsilon: {budget}\n")
    run = Deployed(federation, "over-budget", *ERM, *NOISY, "training.rounds=1")
    code, said = run.end()
    assert code == 2, said
    refusal = "client 2 (domain 'flip-0.1') at west failed to train in round 1: it refuses to answer (budget)"
    assert said.splitlines()[-1] == f"fedha: {refusal}"
    run = Deployed(federation, "without-west", *ERM, *NOISY, "training.rounds=1", "engine.on_client_error=skip")
    code, said = run.end()
    assert code == 0, said
    assert f"skipped: {refusal}" in said
    assert [(one["event"], one["client"], one["reason"]) for one in run.events()] == [
        ("skipped", "client 2 (domain 'flip-0.1') at west", refusal)
    ]
    assert "one more round would spend epsilon" in federation.said("west-app")
