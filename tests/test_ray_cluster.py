"""A cluster loses nodes: their clients go on elsewhere with the same bits, or the run says how it goes on later."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedha.engine import ray_session
from fedha.flower import HessianAlignment
from fedha.recipes import RECIPES
from fedha.runs import runfolder
from tests.test_engines import assert_same_bits, same_numerics, train_over
from tests.test_ray_grid import SYNCHRONOUS, five_clients, grid_of
from tests.test_recipes import SEED

__all__ = ["same_numerics"]  # a fixture that every test here uses


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
    from fedha.engine.cluster import ClusterError
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


@pytest.mark.slow
def test_a_run_whose_head_is_gone_says_how_to_go_on_and_leaves_its_checkpoint(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "fedha", "run", "quickstart", "seed=0", "training.rounds=100000", "checkpoint.every=1"),
        *("engine.name=ray", "--out", str(tmp_path / "run")),
    ]
    with cluster(2) as (made, _):
        command.append(f"engine.address={made.address}")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
            try:
                metrics = tmp_path / "run" / runfolder.METRICS
                deadline = time.monotonic() + 120
                while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
                    time.sleep(0.2)
                kill(made.head_node, "gcs_server")
                said, complaints = run.communicate(timeout=100)
            finally:
                run.kill()
    assert run.returncode == 2, complaints
    last = complaints.strip().splitlines()[-1]
    assert last.startswith(f"fedha: the head of the Ray cluster at {made.address} is gone; continue from the last")
    assert f"fedha resume {tmp_path / 'run'}" in last
    assert "does not answer" in said
    assert any((tmp_path / "run" / "checkpoint").iterdir())


def test_a_worker_goes_to_the_node_with_most_room() -> None:
    from fedha.engine.cluster import Node, refuge

    nodes = [Node("head", "h", True, 0), Node("a", "a", True, 4), Node("b", "b", True, 2), Node("gone", "g", False, 64)]
    known = {one.id: one for one in nodes}
    assert refuge(known, ["a", "a", "a", "b", "gone"], 1) == known["b"]
    assert refuge(known, ["a", "b"], 1) == known["a"]
    assert refuge(known, ["a", "b"], 3) == known["a"]
    assert refuge(known, [], 5) is None
