"""A deployment of real processes, with TLS and identities, trains what a simulation trains, whatever ends meanwhile."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedha import config as configs
from fedha.deploy import demo, inventory
from fedha.deploy.create import Wanted, create
from fedha.deploy.places import Office
from fedha.engine import sessions
from fedha.privacy import accounting
from fedha.privacy.ledger import restore
from fedha.runs import runfolder
from tests.deploy.federations import CLIENTS, US
from tests.deploy.running import Running
from tests.test_resume import without_time

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "deployment.yaml"
ERM = ("recipe=erm", "evaluation.every=100")
SECURE = ("recipe=fishr", "federation.schedule=piggyback", "privacy.secure_aggregation=true", "training.rounds=1")
NOISY = ("privacy.protect=examples", "privacy.noise_multiplier=4.0")
PRIVATE = ("recipe=exact_diagonal", "training.rounds=2", "evaluation.every=100", *NOISY, "privacy.evaluation_noise=5.0")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, logs = tmp_path_factory.mktemp("made") / "federation", tmp_path_factory.mktemp("logs")
    create(
        folder,
        Wanted(CLIENTS, (), 8443, 30),
        inventory.now(),
        US,
        {},
        lambda office: demo.fill(office, CLIENTS, configs.load(CONFIG)),
    )
    running = Running(Office(folder), logs, CLIENTS)
    try:
        running.start()
        yield running
    finally:
        running.stop()


class Deployed:
    """`fedha deploy run` in a process of its own."""

    def __init__(self, federation: Running, name: str, *overrides: str, command: str = "run") -> None:
        self.folder = federation.runs / name
        what = [str(CONFIG), *overrides, "--out", str(self.folder)] if command == "run" else [str(self.folder)]
        to = ["--to", str(federation.office.folder), "--address", federation.address]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fedha", "deploy", command, *what, *to],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def rounds(self) -> int:
        log = self.folder / runfolder.METRICS
        return len(log.read_text().splitlines()) if log.exists() else 0

    def end(self, seconds: float = 600) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, said

    def events(self) -> list[dict[str, str]]:
        lines = (self.folder / runfolder.METRICS).read_text().splitlines()
        return [event for line in lines for event in json.loads(line).get("events", [])]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> "dict[str, Path]":
    """The same runs in one process, by name."""
    place = tmp_path_factory.mktemp("simulated")
    runs = {"exact": ("recipe=exact_diagonal", "training.rounds=2"), "erm": (*ERM, "training.rounds=4")}
    runs["piggyback"] = ("recipe=fishr", "federation.schedule=piggyback")
    runs["secure"] = SECURE
    runs["private"] = PRIVATE
    for name, overrides in runs.items():
        command = [sys.executable, "-m", "fedha", "run", str(CONFIG), *overrides, "--engine", "inline", "--quiet"]
        subprocess.run([*command, "--out", str(place / name)], check=True, capture_output=True)
    return {name: place / name for name in runs}


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


def assert_same_run(run: Path, simulated: Path, *, events: bool = False) -> None:
    assert (run / runfolder.MODEL).read_bytes() == (simulated / runfolder.MODEL).read_bytes()
    one, other = without_time(run / runfolder.METRICS), without_time(simulated / runfolder.METRICS)
    if not events:
        sent, simply = (sum(record["bytes_down"] for record in records) for records in (one, other))
        assert sent < simply  # clients keep the model: it is sent once, not once an exchange
    for record in (*one, *other):
        for key in ("bytes_down", *(("events", "bytes_up") if events else ())):  # who is asked twice costs more
            record.pop(key, None)
    assert one == other


def test_a_run_has_the_bits_of_the_simulation(federation: Running, simulated: dict[str, Path]) -> None:
    run = Deployed(federation, "exact", "recipe=exact_diagonal", "training.rounds=2")
    code, said = run.end()
    assert code == 0, said
    assert_same_run(run.folder, simulated["exact"])
    assert "unseen target" in said or "target" in said
    assert {path.name for path in run.folder.iterdir()} >= {"config.yaml", "results.json", "report.html", "checkpoint"}
    assert list((federation.runs / ".events").iterdir()) == []


def test_one_exchange_a_round_has_the_bits_of_its_simulation(federation: Running, simulated: dict[str, Path]) -> None:
    """Fishr: what clients remember is on their disks between messages."""
    run = Deployed(federation, "piggyback", "recipe=fishr", "federation.schedule=piggyback")
    code, said = run.end()
    assert code == 0, said
    assert_same_run(run.folder, simulated["piggyback"])


def test_secure_sums_between_sites_with_keys_of_their_own_have_the_bits_of_the_simulation(
    federation: Running, simulated: dict[str, Path]
) -> None:
    run = Deployed(federation, "secure", *SECURE)
    code, said = run.end()
    assert code == 0, said
    assert_same_run(run.folder, simulated["secure"])
    assert run.events() == []


def test_a_client_that_ends_in_mid_round_is_waited_for(federation: Running, simulated: dict[str, Path]) -> None:
    run = Deployed(federation, "killed-client", *ERM, "training.rounds=4")
    federation.wait_until("round 1", lambda: run.rounds >= 1)
    federation.end("south-node", signal.SIGKILL)
    federation.node_until_it_is_taken("south")
    code, said = run.end()
    assert code == 0, said
    assert_same_run(run.folder, simulated["erm"], events=True)
    assert {(one["event"], one["client"]) for one in run.events()} == {
        (what, "client 1 (domain 'flip-0.2') at south") for what in ("missing", "returned")
    }
    assert "missing: client 1" in said


def test_a_client_that_is_too_slow_is_passed_over_and_comes_back(federation: Running) -> None:
    rules = ("federation.on_missing=skip", "federation.timeout=25", "federation.min_clients=2")
    run = Deployed(federation, "slow-client", *ERM, "training.rounds=4", *rules)
    federation.wait_until("round 1", lambda: run.rounds >= 1)
    app = federation.processes["west-app"].pid
    for pid in sessions.living([app]):
        os.kill(pid, signal.SIGSTOP)
    try:
        federation.wait_until("a round without it", lambda: any(one["event"] == "skipped" for one in run.events()))
    finally:
        for pid in sessions.living([app]):
            os.kill(pid, signal.SIGCONT)
    code, said = run.end()
    assert code == 0, said
    skipped = [one for one in run.events() if one["event"] == "skipped"]
    assert {one["client"] for one in skipped} == {"client 2 (domain 'flip-0.1') at west"}
    assert "skipped: client 2" in said
    clients = [json.loads(line)["clients"] for line in (run.folder / runfolder.METRICS).read_text().splitlines()]
    assert 2 in clients
    assert clients[0] == 3


def test_a_superlink_that_is_killed_comes_back_with_its_state(federation: Running, simulated: dict[str, Path]) -> None:
    run = Deployed(federation, "killed-superlink", *ERM, "training.rounds=4")
    federation.wait_until("round 1", lambda: run.rounds >= 1)
    federation.end("superlink", signal.SIGKILL)
    federation.superlink()
    code, said = run.end()
    assert code == 0, said
    assert_same_run(run.folder, simulated["erm"], events=True)


def test_a_server_process_that_is_killed_is_sent_again_from_its_checkpoint(
    federation: Running, simulated: dict[str, Path]
) -> None:
    run = Deployed(federation, "killed-server", *ERM, "training.rounds=4")
    federation.wait_until("round 2", lambda: run.rounds >= 2)
    federation.end("server", signal.SIGKILL)
    federation.server()
    code, said = run.end()
    assert code == 0, said
    assert "the server's process was lost" in said
    assert re.search(r"goes on after round [23] of 4", " ".join(said.split()))
    assert_same_run(run.folder, simulated["erm"], events=True)


def test_ctrl_c_stops_the_run_and_resume_goes_on(federation: Running, simulated: dict[str, Path]) -> None:
    run = Deployed(federation, "stopped", *ERM, "training.rounds=4")
    federation.wait_until("round 1", lambda: run.rounds >= 1)
    run.process.send_signal(signal.SIGINT)
    code, said = run.end()
    assert code == 130
    assert "continue with: fedha deploy resume" in said
    again = Deployed(federation, "stopped", command="resume")
    code, said = again.end()
    assert code == 0, said
    assert_same_run(run.folder, simulated["erm"], events=True)


def test_what_the_user_can_mend_is_one_sentence_and_code_2(federation: Running) -> None:
    run = Deployed(federation, "wrong", "recipe=erm", "evaluation.leave_one_domain_out=true")
    code, said = run.end()
    assert code == 2
    assert said.splitlines()[-1].startswith("fedha: evaluation.leave_one_domain_out trains without one site at a time")


def test_noise_is_the_sites_own_and_epsilon_is_what_was_planned(
    federation: Running, simulated: dict[str, Path], limits: Path
) -> None:
    pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')
    limits.write_text("max_epsilon: 20.0\nmin_examples: 100\nstatistics: [gradient, hessian_diagonal, evaluation]\n")
    run = Deployed(federation, "private", *PRIVATE)
    code, said = run.end()
    assert code == 0, said
    one, other = (runfolder.read_metrics(folder) for folder in (run.folder, simulated["private"]))
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
    model, seeded = (load_file(one / runfolder.MODEL) for one in (run.folder, simulated["private"]))
    assert all(bool(value.isfinite().all()) for value in model.values())
    assert any(not torch.equal(value, seeded[name]) for name, value in model.items())

    account = json.loads((federation.office.site("west") / "cache" / "account" / "colored_digits-2.json").read_text())
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
    assert f"skipped: client 2 (domain 'flip-0.1') at west: {refusal}" in said
    assert [(one["event"], one["client"], one["reason"]) for one in run.events()] == [
        ("skipped", "client 2 (domain 'flip-0.1') at west", refusal)
    ]
    assert "one more round would spend epsilon" in federation.said("west-app")
