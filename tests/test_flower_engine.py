"""Flower's own simulation gives the bits of the inline engine, says what failed, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.common.config import parse_config_args
from flwr.supercore.utils import simulation_config_from_json
from hypothesis import given
from hypothesis import strategies as st

from fedha import engine
from fedha.config import CheckpointConfig, Config, from_json, parse, to_json
from fedha.engine import sessions
from fedha.engine.event_file import EventFile, new_events
from fedha.engine.flower_processes import LocalFlower
from fedha.engine.flower_simulation import _failed, _federation, _run_config, simulated_server_app
from fedha.engine.inline import InlineGrid
from fedha.errors import ClientError, FedhaError, StoppedError
from fedha.flower.serve import Job
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.disks import full_disk
from tests.driving import FaultyGrid, train_with
from tests.jobs import run_job
from tests.killed_runs import Killed, without_time
from tests.problems import make_problem

simulates = [pytest.mark.slow, pytest.mark.timeout(600)]


def settings(name: str, **training: Any) -> Config:
    return parse(
        {
            "engine": {"name": name},
            "model": {"hidden": [8], "one_logit": True},
            "recipe": "hgp",
            "training": {"rounds": 3, **training},
            "evaluation": {"every": 2},
            "checkpoint": {"every": 1},
        }
    )


class Told(Silent):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        self.events.append(("started", (config, folder, first_round)))

    def round_done(self, record: Mapping[str, Any]) -> None:
        self.events.append(("round_done", record))

    def finished(self, results: Mapping[str, Any]) -> None:
        self.events.append(("finished", results))

    def note(self, text: str) -> None:
        self.events.append(("note", text))


class Interrupted(Silent):
    """Presses Ctrl-C as soon as the ServerApp has begun, while Ray is still starting."""

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        raise KeyboardInterrupt


class Remover(Silent):
    """Takes a file away when the engine says that it starts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, text: str) -> None:
        self.path.unlink()


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Processes and temporary files of the test are gone when it ends, and the user's home was not touched.

    Every process inherits a mark in its environment, so none can hide behind its parents.
    """
    if not Path("/proc/self/environ").exists():
        pytest.skip("finds processes by /proc, which only Linux has")
    mark, home = uuid.uuid4().hex, tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("FEDHA_TEST_MARK", mark)
    monkeypatch.setenv("HOME", str(home))
    with tempfile.TemporaryDirectory(prefix="f", dir="/tmp") as temporary:
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        yield
        assert [one for one in processes() if mark in one] == []
        assert list(Path(temporary).glob("fedha-*")) == []
        assert not (home / ".flwr").exists()


def processes() -> Iterator[str]:
    """Command and environment of every process that is ours to see."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone, or somebody else's
            yield " ".join((place / name).read_text(errors="replace") for name in ("cmdline", "environ"))


# --- whole simulations ---


class TestSimulation:
    pytestmark = simulates

    def test_a_run_that_flower_continues_is_the_inline_run_bit_for_bit(
        self, tmp_path: Path, nothing_left: None
    ) -> None:
        run_job(Job(settings("inline"), tmp_path / "whole"), Silent())
        with pytest.raises(KeyboardInterrupt):
            run_job(Job(settings("inline"), tmp_path / "flower"), Killed(1))

        told, job = Told(), Job(settings("flower"), tmp_path / "flower")
        results = run_job(job, told, resume=True)

        whole, flower = tmp_path / "whole", tmp_path / "flower"
        assert (flower / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        for name in ("metrics.jsonl", "results.json"):
            assert without_time(flower / name) == without_time(whole / name)
        records = runfolder.read_metrics(flower)[1:]
        assert told.events == [
            ("note", f"starting Flower's simulation: 2 clients on {min(2, os.cpu_count() or 1)} Ray workers"),
            ("started", (job.config, job.folder, 2)),
            ("note", "goes on after round 1 of 3"),
            *[("round_done", record) for record in records],
            ("finished", results),
        ]
        assert results == runfolder.read_results(flower)

    @pytest.mark.parametrize(
        "model",
        [
            {"name": "tests.models_of_others:shaped", "kind": "attention"},
            {"name": "tests.models_of_others:normed", "batch_norm": "local"},
            {"name": "timm", "architecture": "test_resnet", "weights": "none", "frozen": True, "hidden": [8]},
        ],
        ids=["attention with dropout", "each client its own batch norm", "a frozen convolutional network"],
    )
    def test_own_networks_with_chance_and_state_have_the_inline_runs_bits(
        self, model: dict[str, Any], tmp_path: Path, nothing_left: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        training = {"rounds": 2, "mode": "local", "local": {"steps": 2, "batch_size": 32}}
        for engine_name in ("inline", "flower"):
            config = parse({"engine": {"name": engine_name}, "model": model, "recipe": "hgp", "training": training})
            run_job(Job(config, tmp_path / engine_name), Silent())
        inline, flower = (tmp_path / name / "model.safetensors" for name in ("inline", "flower"))
        assert flower.read_bytes() == inline.read_bytes()

    def test_a_run_that_is_asked_to_stop_saves_its_rounds_and_goes_on(self, tmp_path: Path, nothing_left: None) -> None:
        job = Job(settings("flower", rounds=30), tmp_path / "flower")
        job = replace(job, config=job.config.model_copy(update={"checkpoint": CheckpointConfig(every=1000)}))
        told = Told()
        with pytest.raises(StoppedError, match=r"stopped after round \d+ of 30, which is saved"):
            run_job(job, told, stop=lambda: any(event == "round_done" for event, _ in told.events))
        run_job(replace(job, config=settings("inline", rounds=30)), Silent(), resume=True)
        run_job(Job(settings("inline", rounds=30), tmp_path / "whole"), Silent())
        whole, flower = tmp_path / "whole", tmp_path / "flower"
        assert (flower / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()

    def test_a_client_that_fails_ends_the_run_with_its_own_sentence(self, tmp_path: Path, nothing_left: None) -> None:
        told, job = Told(), Job(settings("flower", optimizer="sgd", learning_rate=1e11), tmp_path / "flower")
        who = r"client \d \(domain 'flip-0\.\d'\)"
        wrong = r"the parameter [\w.]+ that the server sent has numbers that are not finite, or beyond 1e\+19"
        advice = r"where the run is honest, lower training\.learning_rate or the recipe's weight"
        sentence = rf"^{who} failed to \w+ in round 2: it refuses to answer \(request\): {wrong}; {advice}$"
        with pytest.raises(FedhaError, match=sentence):
            run_job(job, told)
        assert not (job.folder / "error.txt").exists()

        inline = Job(settings("inline", optimizer="sgd", learning_rate=1e11), tmp_path / "inline")
        with pytest.raises(FedhaError, match=sentence):
            run_job(inline, Silent())
        assert without_time(job.folder / "metrics.jsonl") == without_time(inline.folder / "metrics.jsonl")

    def test_a_server_that_fails_ends_the_run_with_its_sentence(self, tmp_path: Path, nothing_left: None) -> None:
        for name in ("a", "b", "c"):
            np.savez(tmp_path / f"{name}.npz", inputs=np.ones((4, 2), np.float32), labels=np.array([0, 1, 0, 1]))
        data = {"name": "arrays", "root": str(tmp_path), "sources": ["a", "b"], "target": "c"}
        config = parse({"data": data, "engine": {"name": "flower"}, "training": {"rounds": 1}})
        with pytest.raises(FedhaError, match=r"^data\.sources names 'b', which is no domain") as failure:
            run_job(Job(config, tmp_path / "run"), Remover(tmp_path / "b.npz"))
        assert "\n" not in str(failure.value)
        assert not (tmp_path / "run").exists()

    def test_an_interrupted_run_takes_its_processes_along(self, tmp_path: Path, nothing_left: None) -> None:
        with pytest.raises(KeyboardInterrupt):
            run_job(Job(settings("flower"), tmp_path), Interrupted())
        assert runfolder.holds_run(tmp_path)


# --- what does not get that far ---


def test_a_folder_that_holds_a_run_is_refused_at_once(tmp_path: Path, nothing_left: None) -> None:
    runfolder.create(tmp_path, settings("flower"))
    with pytest.raises(FedhaError, match="already holds a run"):
        run_job(Job(settings("flower"), tmp_path), Silent())


def test_a_flower_that_does_not_start_says_why(
    tmp_path: Path, nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flwr.py").write_text("raise ImportError('this is another flwr')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(FedhaError, match=r"superlink stopped at its start with status 1: .*this is another flwr"):
        run_job(Job(settings("flower"), tmp_path / "run"), Silent())


def test_flowers_commands_must_be_there(tmp_path: Path, nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FedhaError, match=r"Flower's command flwr is not on the path"):
        run_job(Job(settings("flower"), tmp_path / "run"), Silent())


# what a config's name may hold is what Python calls printable; a domain's name may hold anything
PRINTABLE = st.text(min_size=1).map(lambda text: "".join(c for c in text if c.isprintable())).filter(bool)


@given(PRINTABLE, st.text(), st.booleans())
def test_the_run_config_survives_toml(name: str, left_out: str, resume: bool) -> None:
    job = Job(parse({"name": name, "data": {"root": "data"}}), Path("runs/one"), left_out)
    read = tomllib.loads(_run_config(job, resume))
    config = from_json(read["settings"])
    assert config.model_copy(update={"data": job.config.data}) == job.config
    assert config.data.root == Path.cwd() / "data"
    assert (read["out"], read["left-out"], read["resume"]) == (str(Path.cwd() / "runs/one"), left_out, resume)


@pytest.mark.parametrize(("clients", "workers", "threads"), [(2, 2, 1), (7, 3, 2), (1, 1, 4)])
def test_every_worker_has_the_threads_of_a_client(clients: int, workers: int, threads: int) -> None:
    config = parse({"engine": {"threads": threads}})
    sizes = parse_config_args([_federation(config, clients, workers)])  # as flwr reads it
    assert simulation_config_from_json({key.replace("-", "_"): value for key, value in sizes.items()})
    assert sizes["num-supernodes"] == clients
    assert sizes["client-resources-num-cpus"] == threads
    assert sizes["init-args-num-cpus"] == workers * threads


# --- why it failed ---

TRACE = """<class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'\x1b[36mray::ClientAppActor.run()\x1b[39m (pid=7)
                  ^^^^^^^^
  File "client_app.py", line 161, in __call__
{error}

The above exception was the direct cause of the following exception:

\x1b[36mray::ClientAppActor.run()\x1b[39m (pid=7)
flwr.clientapp.client_app.ClientAppException:
Exception ClientAppException occurred. Message: it'>"""
DIED = (
    "<class 'ray.exceptions.ActorDiedError'>:<'The actor died unexpectedly.\n\tclass_name: ClientAppActor\n\tpid: 7'>"
)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("<class 'fedha.errors.FedhaError'>:<'a site's sentence: lower it'>", "a site's sentence: lower it"),
        ("<class 'ValueError'>:<'boom'>", "ValueError: boom"),
        ("<class 'KeyError'>:<''>", "KeyError:"),
        (TRACE.format(error="fedha.errors.FedhaError: a client's sentence"), "a client's sentence"),
        (TRACE.format(error="torch.OutOfMemoryError: no memory"), "OutOfMemoryError: no memory"),
        (DIED, "ActorDiedError: The actor died unexpectedly."),
        ("No heartbeat received", "No heartbeat received"),
    ],
)
def test_an_error_reply_is_told_without_its_wrapping(reason: str, told: str) -> None:
    with pytest.raises((FedhaError, ClientError)) as failure:
        train_with({("train", 2, 1): reason})
    assert str(failure.value) == f"client 1 (domain 'd1') failed to train in round 2: {told}"
    assert isinstance(failure.value, FedhaError) == ("FedhaError" in reason)


def test_a_failure_that_nobody_expected_keeps_flowers_log(tmp_path: Path) -> None:
    flower = LocalFlower(tmp_path, {})
    for name in ("run", "superlink", "superexec"):
        (tmp_path / f"{name}.log").write_text(f"\x1b[91mERROR\x1b[0m the trace in {name}\n")
    error = _failed(flower, Job(settings("flower"), tmp_path / "run"), "lost\nthe worker")
    kept = tmp_path / "run" / "error.txt"
    assert str(error) == f"Flower's simulation failed: lost the worker; its log is in {kept}"
    assert kept.read_text().split("\n")[0] == "ERROR the trace in run"


def serve_over(grid: InlineGrid, config: Config, folder: Path) -> list[tuple[str, Any]]:
    """The events of a ServerApp that ends with an error."""
    run_config = {"settings": to_json(config), "out": str(folder / "run")}
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=run_config)
    with pytest.raises((FedhaError, ClientError)):
        simulated_server_app(folder / "events")(grid=grid, context=context)
    with (folder / "events").open("rb") as file:
        return list(new_events(file))


@pytest.mark.parametrize(
    ("reason", "tells"),
    [("<class 'fedha.errors.FedhaError'>:<'lower it'>", True), ("<class 'ValueError'>:<'boom'>", False)],
)
def test_the_server_tells_errors_of_ours_alone(reason: str, tells: bool, tmp_path: Path) -> None:
    faulty = FaultyGrid(make_problem(), {("query.introduce", 1, place): reason for place in range(3)})
    begun, *rest = serve_over(faulty, settings("flower"), tmp_path)
    assert begun == ("started", 1)
    assert rest == (
        [("failed", "client 0 (domain 'flip-0.2') failed to introduce itself in round 1: lower it")] if tells else []
    )


# --- events and sessions ---


def test_an_event_that_does_not_fit_on_the_disk_leaves_nothing_of_itself(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "events")
    file.note("first")
    whole = file.path.read_bytes()
    with full_disk(len(whole) + 5), pytest.raises(FedhaError, match=r"cannot write .*events: .*free some space"):
        file.failed("what went wrong")
    assert file.path.read_bytes() == whole
    file.note("second")
    with file.path.open("rb") as read:
        assert list(new_events(read)) == [("note", "first"), ("note", "second")]


def test_events_are_read_once_each_and_only_when_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "events"
    listener = EventFile(path)
    listener.note("begins")
    with path.open("rb") as file:
        assert list(new_events(file)) == [("note", "begins")]
        assert list(new_events(file)) == []
        listener.started(settings("flower"), tmp_path, 3)
        listener.round_done({"round": 3, "loss": float("nan"), "risk": {"a": 1 / 3}})
        with path.open("ab") as other:
            other.write(b'["finis')
        assert list(new_events(file)) == [
            ("started", 3),
            ("round_done", {"round": 3, "loss": None, "risk": {"a": 1 / 3}}),
        ]
        with path.open("ab") as other:
            other.write(b'hed", null]\n')
        assert list(new_events(file)) == [("finished", None)]


STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)


def test_a_session_ends_with_grandchildren_and_with_those_that_do_not_want_to() -> None:
    family = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUBBORN!r}], process_group=0)"
    leader = subprocess.Popen([sys.executable, "-c", family], stdout=subprocess.PIPE, start_new_session=True)
    with leader:
        leader.stdout.readline()
        assert len(sessions.living([leader.pid])) == 2
        sessions.end([leader.pid])
        assert sessions.living([leader.pid]) == set()


def test_the_guard_ends_sessions_when_its_process_is_killed(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    program = f"""
import json, subprocess, sys, time
from pathlib import Path
from fedha.engine import sessions
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
with sessions.guard(Path({str(tmp_path / "temporary")!r}), [child.pid]) as guard:
    print(json.dumps([child.pid, guard.pid]), flush=True)
    time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(engine.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE) as process:
        child, guard = json.loads(process.stdout.readline())
        assert sessions.living([child, guard]) == {child, guard}
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while sessions.living([child, guard]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sessions.living([child, guard]) == set()
    assert not (tmp_path / "temporary").exists()
