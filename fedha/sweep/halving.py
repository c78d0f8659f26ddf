"""Successive halving: runs that are compared train a part of their rounds first, and the better ones alone go on."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedha.errors import FedhaError
from fedha.sweep import rungs
from fedha.sweep.jobs import Job, Task
from fedha.sweep.selection import Place, row_of
from fedha.sweep.store import Store


@dataclass(frozen=True)
class Plan:
    """In which order a sweep's jobs are done, and how far each goes.

    Attributes:
        store: The sweep's.
        jobs: All that are asked for, in the order in which a worker takes them.
        factor: One of so many goes on after each rung; None: every job goes to its end.
    """

    store: Store
    jobs: Sequence[Job]
    factor: int | None = None

    def batches(self) -> Iterator[list[Task]]:
        """What is still to do, one batch after the other: the next one is made when the last one is done."""
        if self.factor is None:
            yield [Task(job) for job in self.jobs if not self.store.finished(job.name)]
            return
        groups = _groups(self.jobs)
        for level in range(max((_levels(len(one), self.factor) for one in groups), default=0) + 1):
            wanted = {task.job.name: task for group in groups for task in self._tasks(group, level)}
            yield [wanted[one.name] for one in self.jobs if one.name in wanted]

    def left(self) -> int:
        """How many jobs are to be worked on before the sweep is done or it is known which go on."""
        return len(next((one for one in self.batches() if one), []))

    def _tasks(self, group: Sequence[Job], level: int) -> list[Task]:
        """What a group has to do at a level that is not done."""
        factor, last = self.factor or 1, _levels(len(group), self.factor or 1)
        alive = list(group)
        for below in range(min(level, last)):
            alive = _best(self.store, alive, factor ** (last - below), max(1, len(group) // factor ** (below + 1)))
        if level < last:
            found = [Task(one, rung_round(one, factor ** (last - level))) for one in alive]
            return [one for one in found if not rungs.read(self.store.run_folder(one.job.name), one.until)[0]]
        return [Task(one) for one in alive if not self.store.finished(one.name)]


def check(jobs: Sequence[Job]) -> None:
    """Whether runs can be compared before their end.

    Raises:
        FedhaError: Each trains folds first; or nothing is compared.
    """
    configs = [one.config for one in jobs if one.config is not None]
    if any(one.evaluation.leave_one_domain_out for one in configs):
        raise FedhaError(
            "--halving compares runs before their end, but with evaluation.leave_one_domain_out each trains its folds "
            "whole before its first round; leave one of them out"
        )
    if any(one.data.held_out == 0 for one in configs):
        raise FedhaError("--halving compares runs by what the sources hold out, and data.held_out is 0; raise it")


def whole_runs(jobs: Sequence[Job], factor: int) -> float:
    """How many whole runs a sweep is worth with halving, roughly; arguments as in `Plan`."""
    total = 0.0
    for count in map(len, _groups(jobs)):
        last, done = _levels(count, factor), 0.0
        for level in range(last + 1):
            share = factor ** (level - last)
            total += max(1, count // factor**level) * (share - done)
            done = share
    return total


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs among which one is chosen: of one row, target and trial; refused ones are no candidates."""
    found: dict[Place, list[Job]] = {}
    for job in jobs:
        if job.config is not None:
            found.setdefault((row_of(job), job.target, job.seed), []).append(job)
    return [sorted(one, key=lambda job: job.name) for one in found.values()]


def _levels(count: int, factor: int) -> int:
    """How often one of `factor` goes on until one is left."""
    levels = 0
    while factor ** (levels + 1) <= count:
        levels += 1
    return levels


def rung_round(job: Job, part: int) -> int:
    """The round after which one part of a run's rounds is done, those of its warm-up not counted.

    Args:
        job: The run.
        part: Which part: 3 is a third.

    Returns:
        An evaluated round.
    """
    if job.config is None:
        raise FedhaError(job.refused)
    rounds, every = job.config.training.rounds, job.config.evaluation.every
    weak = min(job.config.recipe[0].resolve().weak_rounds, rounds)
    wanted = weak + math.ceil((rounds - weak) / part)
    return min(rounds, math.ceil(max(wanted, 1) / every) * every)


def _best(store: Store, jobs: Sequence[Job], part: int, count: int) -> list[Job]:
    """The jobs that are best after a part of their rounds, by what the sources hold out; of two as good the first.

    Raises:
        FedhaError: There is nothing to compare them by.
    """
    found = [(one, *rungs.read(store.run_folder(one.name), rung_round(one, part))) for one in jobs]
    known = [(one, score) for one, there, score in found if there and score is not None]
    if any(there for _, there, _ in found) and not known:
        raise FedhaError(
            f"--halving compares runs by what the sources hold out, and those of {jobs[0].label} hold nothing out; "
            "raise data.held_out, or leave --halving out"
        )
    return [one for one, _ in sorted(known, key=lambda one: -one[1])[:count]]
