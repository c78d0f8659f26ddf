"""Doing a sweep's jobs: one worker, which takes what nobody else has."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fedha.config import Config
from fedha.data.domain import DomainSet
from fedha.errors import FedhaError, StoppedError, UnwrittenError
from fedha.exhausted import out_of_memory
from fedha.flower.delivery import never
from fedha.flower.serve import load_domains
from fedha.resolution import resolved
from fedha.run import execute
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from fedha.sweep import summary
from fedha.sweep.jobs import Job
from fedha.sweep.store import Store

DONE, FAILED, BUSY, STOPPED = "done", "failed", "busy", "stopped"
PATIENCE = 2.0  # seconds to wait for a job that another worker has, before the next one is looked at
_KEPT = 2  # data sets that a worker holds: jobs come in an order in which the next one mostly has the last one's


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        name: Its name.
        state: `DONE`, `FAILED`, `BUSY` (another worker has it) or `STOPPED`.
        why: Of one that failed.
        found: Its summary.
    """

    name: str
    state: str
    why: str = ""
    found: dict[str, Any] = field(default_factory=dict)


@dataclass
class Worker:
    """Trains jobs one after the other and keeps their data between them.

    Attributes:
        store: The sweep's.
        stop: Asked now and then, whether to stop.
    """

    store: Store
    stop: Callable[[], bool] = never
    _held: "OrderedDict[str, DomainSet]" = field(default_factory=OrderedDict)

    def work(self, job: Job, seconds: float = 0.0) -> Outcome:
        """Train a job, or go on with it, unless it is done or another worker has it.

        Args:
            job: Which.
            seconds: To wait for another worker that has it.

        Raises:
            UnwrittenError: Nothing can be written: no other job could be either.
        """
        with self.store.claimed(job.name, seconds) as mine:
            if not mine:
                return Outcome(job.name, BUSY)
            try:
                return self._done(job)
            except StoppedError:
                return Outcome(job.name, STOPPED)
            except UnwrittenError:
                raise
            except FedhaError as error:
                why = str(error)
            except Exception as error:  # one job's fault is not the others'
                why = out_of_memory(error) or f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self.store.failed(job.name, why)
            return Outcome(job.name, FAILED, why)

    def _done(self, job: Job) -> Outcome:
        place, config = self.store.place(job.name), job.config
        if config is None:
            raise FedhaError(job.refused)
        if not self.store.finished(job.name):
            execute(config, place, Silent(), resume=runfolder.holds_run(place), stop=self.stop, load=self._domains)
        found = summary.read(place) or summary.write(place, config.recipe[0].resolve().weak_rounds)
        self.store.succeeded(job.name)
        return Outcome(job.name, DONE, found=found)

    def _domains(self, config: Config) -> DomainSet:
        key = f"{resolved(config)[0].model_dump_json()} {config.seed} {config.privacy.protect}"
        if key not in self._held:
            while len(self._held) >= _KEPT:
                self._held.popitem(last=False)
            self._held[key] = load_domains(config)
        self._held.move_to_end(key)
        return self._held[key]


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


def here(worker: Worker, jobs: Iterable[Job]) -> Iterator[Outcome | None]:
    """Do jobs in this process; ends early where the worker was asked to stop.

    Jobs that other workers have are looked at again until they are done, or their worker is gone.

    Yields:
        What became of each, and None where time went by.
    """
    waiting = list(jobs)
    failed = {job.name: worker.store.failure(job.name) for job in waiting}
    seconds = 0.0
    while waiting:
        busy: list[Job] = []
        for job in waiting:
            if worker.stop():
                return
            why = worker.store.failure(job.name)
            elsewhere = bool(why) and why != failed[job.name]  # another worker tried it meanwhile
            outcome = Outcome(job.name, FAILED, why) if elsewhere else worker.work(job, 0.0 if busy else seconds)
            if outcome.state == BUSY:
                busy.append(job)
                yield None
                continue
            yield outcome
            if outcome.state == STOPPED:
                return
        waiting, seconds = busy, PATIENCE
