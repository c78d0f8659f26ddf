"""A cluster loses nodes: their clients go on elsewhere with the same bits, or the run says how it goes on later."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fedha.engine import ray_session
from fedha.flower import HessianAlignment
from fedha.recipes import RECIPES
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


def test_a_head_that_does_not_answer_is_told_of_and_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedha.engine import cluster as watched

    monkeypatch.setattr(watched.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:1"))
    monkeypatch.setattr(watched, "_GIVE_UP_SECONDS", 0.0)
    notes: list[str] = []
    head = watched.Head(notes.append)
    head.look()  # it was looked at a moment ago
    with pytest.raises(watched.ClusterError, match=r"the head of the Ray cluster at 127.0.0.1:1 is gone"):
        head.look(now=True)
    assert notes == ["the head of the Ray cluster at 127.0.0.1:1 does not answer; waiting for it"]


def test_a_worker_goes_to_the_node_with_most_room() -> None:
    from fedha.engine.cluster import Node, refuge

    nodes = [Node("head", "h", True, 0), Node("a", "a", True, 4), Node("b", "b", True, 2), Node("gone", "g", False, 64)]
    known = {one.id: one for one in nodes}
    assert refuge(known, ["a", "a", "a", "b", "gone"], 1) == known["b"]
    assert refuge(known, ["a", "b"], 1) == known["a"]
    assert refuge(known, ["a", "b"], 3) == known["a"]
    assert refuge(known, [], 5) is None
