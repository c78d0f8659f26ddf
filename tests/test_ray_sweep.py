"""A sweep's workers on Ray."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fedha.config import read_content
from fedha.runs import runfolder
from fedha.sweep.halving import Plan
from fedha.sweep.jobs import Job, Task, make_jobs
from fedha.sweep.pool import nearest, on_ray
from fedha.sweep.space import expand, read_space
from fedha.sweep.store import Store, open_sweep
from fedha.sweep.work import DONE, FAILED, REACHED, Worker, here

CONFIG = """
name: made
data: {name: arrays, root: d, target: a}
model: {name: mlp, hidden: [4]}
recipe: erm
seed: [0, 1, 2]
training: {rounds: 2}
"""


def whole(jobs: Sequence[Job]) -> list[list[Task]]:
    """One batch of them all, each to its end."""
    return [[Task(one) for one in jobs]]


def _opened(folder: str, content: str = CONFIG) -> tuple[Store, list[Job]]:
    Path("c.yaml").write_text(content)
    space = read_space(read_content(Path("c.yaml")), draws=None)
    jobs = make_jobs(list(expand(space, None)))
    return open_sweep(Path(folder), space, jobs), jobs  # relative to a folder that Ray's workers are not in


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    (tmp_path / "d").mkdir()
    for place, name in enumerate("abc"):
        inputs = generator.normal(size=(40, 3)).astype("f4") + place / 4
        np.savez(tmp_path / "d" / f"{name}.npz", inputs=inputs, labels=(inputs[:, 0] > place / 4).astype("i8"))


def test_runs_side_by_side_on_ray_have_the_bits_of_runs_one_by_one(shared_ray: None) -> None:
    store, jobs = _opened("s")
    states = [one.state for one in on_ray(store, whole(jobs), 2, stop=lambda: False) if one is not None]
    assert states == [DONE] * 3
    other, _ = _opened("one")
    assert [one.state for one in here(Worker(other), whole(jobs))] == [DONE] * 3
    for path in store.folder.rglob(runfolder.MODEL):
        assert path.read_bytes() == (other.folder / path.relative_to(store.folder)).read_bytes()


def test_a_worker_is_given_what_its_data_are_at_hand_for() -> None:
    _, jobs = _opened("s", CONFIG.replace("target: a", "target: [a, b]").replace("recipe: erm", "recipe: [erm, coral]"))
    tasks = sorted(map(Task, jobs), key=lambda one: (one.job.target, one.job.seed))
    assert nearest(tasks, ("b", 1), [("a", 0)]).job.seed == 1
    assert nearest(tasks, None, [("a", 0), ("a", 1)]) == tasks[4]
    assert nearest(tasks[:2], ("b", 1), [("a", 0)]) == tasks[0]


def test_a_worker_that_dies_costs_its_job_and_no_other(shared_ray: None) -> None:
    killing = CONFIG.replace("{name: arrays, root: d, target: a}", '{name: "tests.dying_data:domains", target: t}')
    store, jobs = _opened("s", killing)
    found = {one.name: one for one in on_ray(store, whole(jobs), 2, stop=lambda: False) if one is not None}
    states = {job.seed: found[job.name].state for job in jobs}
    assert states == {0: DONE, 1: FAILED, 2: DONE}
    assert "process ended" in store.failure(jobs[1].name)


def test_a_sweep_that_is_asked_to_stop_saves_what_is_under_way(shared_ray: None) -> None:
    store, jobs = _opened("s", CONFIG.replace("rounds: 2", "rounds: 100000"))
    begun: list[int] = []

    def stop() -> bool:
        if any((store.run_folder(one.name) / runfolder.METRICS).exists() for one in jobs):
            begun.append(1)
        return bool(begun)

    states = [one.state for one in on_ray(store, whole(jobs), 2, stop=stop) if one is not None]
    assert "stopped" in states
    assert DONE not in states
    assert any((store.run_folder(one.name) / "checkpoint" / "state.safetensors").exists() for one in jobs)


def test_halving_on_ray_keeps_those_that_it_keeps_in_one_process(shared_ray: None) -> None:
    given = CONFIG.replace("rounds: 2", "rounds: 8, learning_rate: [0.001, 0.01, 0.1, 1]").replace("[0, 1, 2]", "0")
    store, jobs = _opened("s", given)
    plan = Plan(store, jobs, 2)
    states = [one.state for one in on_ray(store, plan.batches(), 2, stop=lambda: False) if one is not None]
    assert states == [REACHED] * 6 + [DONE]
    other, _ = _opened("one", given)
    assert [one.state for one in here(Worker(other), Plan(other, jobs, 2).batches()) if one] == states
    (kept,) = store.folder.rglob(runfolder.MODEL)
    assert kept.read_bytes() == (other.folder / kept.relative_to(store.folder)).read_bytes()
    assert plan.left() == 0
