"""A small sweep: three domains, a config, and commands that are typed in its folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedha.config import read_content
from fedha.runs import runfolder
from fedha.sweep.jobs import Job, Task, make_jobs
from fedha.sweep.space import expand, read_space
from fedha.sweep.store import Store, open_sweep
from tests.commands import Command

CONFIG = """
name: made
data: {name: arrays, root: d, target: [a, b]}
model: {name: mlp, hidden: [4]}
recipe: [erm, {name: exact_diagonal, weight: [0.1, 1]}]
seed: [0, 1]
training: {rounds: 2}
"""
JOBS = 2 * 2 * 3


def write_data(folder: Path, names: str = "abc") -> None:
    """A file a domain: 40 rows of 3 numbers."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for place, name in enumerate(names):
        inputs = generator.normal(size=(40, 3)).astype("f4") + place / 4
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=(inputs[:, 0] > place / 4).astype("i8"))


def sweep(fedha: Command, *arguments: str) -> tuple[int, str, str]:
    """The sweep of c.yaml into s, in this process."""
    return fedha("sweep", "c.yaml", "--out", "s", "--jobs", "1", *arguments)


def finished(folder: str = "s") -> list[Path]:
    """The results of runs that have ended."""
    return sorted(Path(folder).rglob(runfolder.RESULTS))


def opened(folder: str = "s", *changes: str, draws: int | None = None) -> tuple[Store, list[Job]]:
    """The folder of c.yaml's sweep, and its jobs; none is begun."""
    space = read_space(read_content(Path("c.yaml"), list(changes)), draws=draws)
    jobs = make_jobs(list(expand(space, draws)))
    return open_sweep(Path(folder), space, jobs), jobs


def whole(jobs: Sequence[Job]) -> list[list[Task]]:
    """One batch of them all, each to its end."""
    return [[Task(one) for one in jobs]]
