"""Doing a sweep's jobs: one worker, which takes what nobody else has."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedha.config import Config
from fedha.data.domain import DomainSet
from fedha.data.fingerprint import fingerprint
from fedha.errors import FedhaError, StoppedError, UnwrittenError
from fedha.exhausted import out_of_memory
from fedha.flower.delivery import never
from fedha.flower.serve import load_domains
from fedha.loggers import Logged, with_loggers
from fedha.models.wanted import resolved
from fedha.run import execute, ready_domains
from fedha.runs import runfolder
from fedha.runs.files import CONSTANTS
from fedha.runs.listener import Listener, Silent
from fedha.sweep import rungs, summary
from fedha.sweep.jobs import Job, Task
from fedha.sweep.store import Store

DONE, FAILED, BUSY, STOPPED, REACHED = "done", "failed", "busy", "stopped", "reached"
PATIENCE = 2.0  # seconds to wait for a job that another worker has, before the next one is looked at
_KEPT = 2  # data sets that a worker holds: jobs come in an order in which the next one mostly has the last one's


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        name: Its name.
        state: `DONE`, `FAILED`, `BUSY` (another worker has it), `STOPPED`, or `REACHED`: it is as far as asked for.
        why: Of one that failed.
        found: Its summary.
        notes: What its trackers could not be told.
    """

    name: str
    state: str
    why: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass
class Worker:
    """Trains jobs one after the other and keeps their data between them.

    Attributes:
        store: The sweep's.
        stop: Asked now and then, whether to stop.
        log: Trackers that are told of each run, by name.
    """

    store: Store
    stop: Callable[[], bool] = never
    log: Sequence[str] = ()
    _held: "OrderedDict[str, DomainSet]" = field(default_factory=OrderedDict)
    _ready: set[tuple[str, str]] = field(default_factory=set)  # whose features are in their cache, with which network

    def work(self, task: Task, seconds: float = 0.0) -> Outcome:
        """Train a job, or go on with it, unless that is done or another worker has it.

        Args:
            task: Which, and how far.
            seconds: To wait for another worker that has it.

        Raises:
            UnwrittenError: Nothing can be written: no other job could be either.
        """
        name = task.job.name
        with self.store.claimed(name, seconds) as mine:
            if not mine:
                return Outcome(name, BUSY)
            try:
                return self._worked(*task)
            except StoppedError:
                return Outcome(name, STOPPED)
            except UnwrittenError:
                raise
            except FedhaError as error:
                why = str(error)
            except Exception as error:  # one job's fault is not the others'
                why = out_of_memory(error) or f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self.store.failed(name, why)
            return Outcome(name, FAILED, why)

    def _worked(self, job: Job, until: int | None) -> Outcome:
        place, config = self.store.run_folder(job.name), job.config
        if config is None:
            raise FedhaError(job.refused)
        if until is not None and self._as_far(place, config, until):
            self.store.succeeded(job.name)
            return Outcome(job.name, REACHED)
        notes: tuple[str, ...] = ()
        if until is None and not self.store.finished(job.name):
            notes = self._trained(config, place, Silent(), self.stop)
        found = summary.read(place) or summary.write(place, config.recipe[0].resolve().weak_rounds)
        self.store.succeeded(job.name)
        return Outcome(job.name, DONE, found=found, notes=notes)

    def _trained(self, config: Config, place: Path, listener: Listener, stop: Callable[[], bool]) -> tuple[str, ...]:
        """Train a run or go on with it; what its trackers could not be told."""
        with with_loggers(listener, self.log) as told:
            begun, shared = runfolder.holds_run(place), self.store.folder / CONSTANTS
            execute(config, place, told, resume=begun, stop=stop, load=self.ready, constants=shared)
        return tuple(told.failed) if isinstance(told, Logged) else ()

    def _as_far(self, place: Path, config: Config, until: int) -> bool:
        """Train a run up to a round, and keep what it is worth there; False where that was its end, just now."""
        if rungs.read(place, until)[0]:
            return True
        listener, begun = rungs.Until(until), runfolder.holds_run(place)
        ended = begun and runfolder.is_finished(place)
        if not ended and not (begun and rungs.passed(place, until)):
            try:
                self._trained(config, place, listener, _either(self.stop, listener))
            except StoppedError:
                if not listener.reached:
                    raise
        rungs.write(place, config, until)
        return ended or not runfolder.is_finished(place)

    def domains(self, config: Config) -> DomainSet:
        """A run's data; those of the last few are kept."""
        key = _data_key(config)
        if key not in self._held:
            while len(self._held) >= _KEPT:
                self._held.popitem(last=False)
            self._held[key] = _marked(load_domains(config), settled=config.model.features.cache is not None)
        self._held.move_to_end(key)
        return self._held[key]

    def ready(self, config: Config) -> DomainSet:
        """A run's data, whose features are in their cache: they are looked for once, before the first run of each."""
        domains, key = self.domains(config), (_data_key(config), config.model.model_dump_json())
        if key not in self._ready:
            ready_domains(config, domains)
            self._ready.add(key)
        return domains


def _data_key(config: Config) -> str:
    cached = config.model.features.cache is not None
    return f"{resolved(config)[0].model_dump_json()} {config.seed} {config.privacy.protect} {cached}"


def _marked(domains: DomainSet, *, settled: bool) -> DomainSet:
    """The domains with their digest, which every run asks for; not of what lies on a disk and may change there.

    Args:
        domains: As they were loaded.
        settled: Whether their features are looked for once and stand in their place from then on: no run reads them
            again, so that what it is trained with is what they are now.
    """
    parts = [part for one in domains.sources for part in (one.train, one.held_out)]
    known = settled or all(one.in_memory for one in parts)
    return replace(domains, mark=fingerprint(domains)) if known else domains


def _either(stop: Callable[[], bool], listener: rungs.Until) -> Callable[[], bool]:
    return lambda: listener.reached or stop()


def in_order(jobs: Iterable[Job], first: int = 0, of: int = 1) -> list[Job]:
    """Jobs as a worker takes them: those of one target and seed together, whose data are the same.

    Args:
        jobs: All.
        first: Which worker of several this is, from 0: each begins elsewhere, and goes round.
        of: How many workers there are.
    """
    ordered = sorted(jobs, key=lambda one: (one.target, one.seed))
    start = len(ordered) * first // of
    return [*ordered[start:], *ordered[:start]]


def here(worker: Worker, batches: Iterable[Sequence[Task]]) -> Iterator[Outcome | None]:
    """Do tasks in this process, one batch after the other; ends early where the worker was asked to stop.

    Jobs that other workers have are looked at again until they are done, or their worker is gone.

    Yields:
        What became of each, and None where time went by.
    """
    for batch in batches:
        yield from _in_turn(worker, batch)
        if worker.stop():
            return


def _in_turn(worker: Worker, tasks: Sequence[Task]) -> Iterator[Outcome | None]:
    waiting = list(tasks)
    failed = {one.job.name: worker.store.failure(one.job.name) for one in waiting}
    seconds = 0.0
    while waiting:
        busy: list[Task] = []
        for task in waiting:
            if worker.stop():
                return
            name, why = task.job.name, worker.store.failure(task.job.name)
            elsewhere = bool(why) and why != failed[name]  # another worker tried it meanwhile
            outcome = Outcome(name, FAILED, why) if elsewhere else worker.work(task, 0.0 if busy else seconds)
            if outcome.state == BUSY:
                busy.append(task)
                yield None
                continue
            yield outcome
            if outcome.state == STOPPED:
                return
        waiting, seconds = busy, PATIENCE
