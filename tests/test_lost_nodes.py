"""A cluster loses nodes: their clients go on elsewhere with the same bits, or the run says how it goes on later."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedha.engine import leftovers, ray_session
from fedha.errors import ClusterError
from fedha.flower import HessianAlignment
from fedha.recipes import RECIPES
from tests.driving import assert_same_bits, train_over
from tests.problems import SEED
from tests.test_ray_grid import SYNCHRONOUS, five_clients, grid_of

pytestmark = pytest.mark.usefixtures("same_numerics")


@contextmanager
def cluster(head_cpus: int, *nodes: int) -> Iterator[tuple[Any, list[Any]]]:
    """A head and other nodes, all on this machine; yields the cluster and those nodes."""
    ray_session.stop()
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80_000_000}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": head_cpus, "include_dashboard": False, **small})
    try:
        yield made, [made.add_node(num_cpus=cpus, **small) for cpus in nodes]
    finally:
        ray_session.stop()
        made.shutdown()


def kill(node: Any, what: str = "raylet") -> None:
    os.kill(node.all_processes[what][0].process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("together", [False, True])
def test_clients_of_a_lost_node_go_on_at_one_that_is_left_and_without_any_the_run_ends(together: bool) -> None:
    from fedha.engine.host import Resources

    problem, row = five_clients(), replace(RECIPES["fishr"], weight=9.0)
    notes: list[tuple[float, str]] = []
    ends = []

    def note(text: str) -> None:
        notes.append((time.monotonic(), text))

    with cluster(0, 1, 1) as (made, nodes):
        ray_session.start(0, 0, made.address)
        for lost in (False, True):
            grid = grid_of(problem, together=together, resources=Resources(cpus=1), note=note)
            first = train_over(grid, HessianAlignment(row, SYNCHRONOUS, seed=SEED, clients=5), problem, 2)
            assert len({host.node for host in grid.hosts}) == 2
            if lost:
                kill(nodes[1])
                killed = time.monotonic()
            again = HessianAlignment(row, SYNCHRONOUS, seed=SEED, clients=5)
            ends.append((first, train_over(grid, again, problem, 2)))
            if lost:
                assert notes[0][0] - killed < 40  # on a loaded machine; the workers' start may take longer
                kill(nodes[0])
                with pytest.raises(ClusterError, match=r"lost its node .*, and no other has 1 CPUs for its clients"):
                    train_over(grid, HessianAlignment(row, SYNCHRONOUS, seed=SEED, clients=5), problem, 1)
            grid.close()
    for before, after in zip(*ends, strict=True):
        assert_same_bits(before[0], after[0])
        assert before[1] == after[1]
    first, second, third = (text for _, text in notes)
    assert "has lost its node" in first
    assert "go on at" in second
    assert "has lost its node" in third


@contextmanager
def head(cpus: int) -> Iterator[tuple[Path, str, Callable[[str], list[int]]]]:
    """A head of its own, as a user starts one; yields its folder, its address, and what finds processes of it."""
    folder = Path(tempfile.mkdtemp(prefix="head", dir="/tmp"))  # Ray's sockets need a short path
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ray = Path(sys.executable).with_name("ray")
    options = ["--head", f"--port={address.rpartition(':')[2]}", f"--temp-dir={folder}", f"--num-cpus={cpus}"]
    options += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--object-store-memory=80000000"]

    def processes(name: str) -> list[int]:
        started = {pid: Path(f"/proc/{pid}/cmdline") for pid in leftovers.living(folder)}
        return [pid for pid, line in started.items() if name.encode() in line.read_bytes().split(b"\0")[0]]

    try:
        marked = {**open_house(), leftovers.MARK: str(folder)}
        subprocess.run([ray, "start", *options], env=marked, check=True, capture_output=True, timeout=600)
        yield folder, address, processes
    finally:
        leftovers.end(folder)
        shutil.rmtree(folder, ignore_errors=True)


def open_house() -> dict[str, str]:
    """The environment without the token of this process' own Ray."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}


def fedha(*words: "str | Path") -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "fedha", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=open_house())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the head's processes in /proc")
def test_a_killed_head_ends_the_run_with_the_way_to_go_on_which_works(tmp_path: Path) -> None:
    from fedha.runs import runfolder

    run, plain = tmp_path / "run", tmp_path / "plain"
    settings = [
        "quickstart",
        "recipe=hgp",
        "seed=0",
        "evaluation.leave_one_domain_out=false",
        "engine.batching=false",
        "checkpoint.every=100000",  # so it is the loss of the head that saves
    ]
    with head(2) as (_, address, processes):
        there = ["engine.name=ray", f"engine.address={address}", "engine.workers=2", "training.rounds=100000"]
        running = fedha("run", *settings, *there, "--out", run)
        try:
            while running.poll() is None and len(runfolder.read_metrics(run)) < 5:
                time.sleep(0.1)
            (head_process,) = processes("gcs_server")
            os.kill(head_process, signal.SIGKILL)
            _, said = running.communicate(timeout=600)
        finally:
            running.kill()
    assert running.returncode == 2, said  # Ray, which ends its drivers after 60 seconds, makes it 1
    flat = " ".join(said.split())
    assert f":{address.rpartition(':')[2]} is gone; continue from" in flat
    again = f"fedha resume {run}, once a cluster answers at {address}, or with engine.address= behind it"
    assert again in flat
    done = len(runfolder.read_metrics(run))
    resumed = fedha("resume", run, "engine.address=", f"training.rounds={done + 3}")
    _, said = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, said
    straight = fedha("run", *settings, "engine.name=inline", f"training.rounds={done + 3}", "--out", plain)
    _, said = straight.communicate(timeout=600)
    assert straight.returncode == 0, said
    assert (run / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the head's processes in /proc")
def test_a_head_that_dies_while_workers_start_is_seen_too() -> None:
    """In a process of its own: a Ray that has lost its head may take its driver with it."""
    with head(1) as (_, address, processes):
        program = subprocess.Popen(
            [sys.executable, "-c", _WAITS, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=open_house(),
        )
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "waits\n"
            (head_process,) = processes("gcs_server")
            os.kill(head_process, signal.SIGKILL)
            said, complaints = program.communicate(timeout=600)
        finally:
            program.kill()
    assert said.endswith(f":{address.rpartition(':')[2]} is gone\n"), complaints


_WAITS = """
import os, sys
from flwr.app import RecordDict
from fedha.engine import leftovers, ray_session
from fedha.engine.host import Resources
from fedha.engine.ray_grid import RayGrid
from fedha.errors import ClusterError

ray_session.start(0, 0, sys.argv[1])
grid = RayGrid(dict, 1, resources=Resources(cpus=64))  # more than there are, so it waits for long
print("waits", flush=True)
try:
    list(grid.send_and_receive([grid.create_message(RecordDict(), "train", 2, "1")]))
except ClusterError as error:
    print(error, flush=True)
os._exit(0)
"""


def test_a_head_that_does_not_answer_is_told_of_and_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedha.engine import cluster as watched

    monkeypatch.setattr(watched.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:1"))
    monkeypatch.setattr(watched, "_GIVE_UP_SECONDS", 0.0)
    notes: list[str] = []
    head = watched.Head(notes.append)
    head.look()  # it was looked at a moment ago
    with pytest.raises(ClusterError, match=r"the head of the Ray cluster at 127.0.0.1:1 is gone"):
        head.look(now=True)
    assert notes == ["the head of the Ray cluster at 127.0.0.1:1 does not answer; waiting for it"]


def test_a_worker_goes_to_the_node_with_most_room() -> None:
    from fedha.engine.cluster import Node, node_with_room

    nodes = [Node("head", "h", True, 0), Node("a", "a", True, 4), Node("b", "b", True, 2), Node("gone", "g", False, 64)]
    known = {one.id: one for one in nodes}
    assert node_with_room(known, ["a", "a", "a", "b", "gone"], 1) == known["b"]
    assert node_with_room(known, ["a", "b"], 1) == known["a"]
    assert node_with_room(known, ["a", "b"], 3) == known["a"]
    assert node_with_room(known, [], 5) is None
