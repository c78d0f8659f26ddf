"""A sweep's workers on Ray: a process a core, or a share of a GPU, on this machine or a cluster."""

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from fedha.engine import ray_session
from fedha.errors import ClusterError, FedhaError
from fedha.sweep.jobs import Task
from fedha.sweep.store import Store
from fedha.sweep.work import BUSY, FAILED, PATIENCE, Outcome, Worker

_LOOK_SECONDS = 0.5
_STOP_SECONDS = 60.0


class _RayWorker:
    """An actor: one job at a time, and a second call that tells it to stop."""

    def __init__(self, folder: str, log: Sequence[str], where: str) -> None:
        if Path(where).is_dir():  # where the command started: trackers may write there
            os.chdir(where)
        self._stop = threading.Event()
        self._worker = Worker(Store(Path(folder)), self._stop.is_set, log)

    def work(self, task: Task, seconds: float) -> Outcome:
        return self._worker.work(task, seconds)

    def halt(self) -> None:
        self._stop.set()


def on_ray(
    store: Store,
    batches: Iterable[Sequence[Task]],
    workers: int | None,
    *,
    threads: int = 1,
    gpu_share: float = 0.0,
    address: str | None = None,
    stop: Callable[[], bool],
    ready: Callable[[int], None] | None = None,
    log: Sequence[str] = (),
) -> Iterator[Outcome | None]:
    """Do tasks on Ray; yields what became of each, and None where nothing has for a while.

    A worker that dies costs its job, which is then counted as failed, and is replaced.

    Args:
        store: The sweep's; on a cluster its folder is one that all machines share.
        batches: In the order in which they are begun; each when the one before is done.
        workers: How many; None: as many as the cluster has cores for.
        threads: Cores of each.
        gpu_share: Of a GPU, for each; 0: none.
        address: A cluster's; None: a Ray of this machine.
        stop: Asked now and then, whether to stop; jobs that have begun are saved.
        ready: Told how many workers there are, once Ray has started.
        log: As in `Worker`.

    Raises:
        FedhaError: Ray does not start, or nothing can be written.
    """
    wanted = workers or 1
    session = ray_session.start(*((0, 0) if address else (wanted * threads, math.ceil(wanted * gpu_share))), address)
    workers = workers or max(1, session.cpus // threads)
    if ready is not None:
        ready(workers)
    del session
    options: dict[str, Any] = {"num_cpus": threads, "num_gpus": gpu_share, "max_concurrency": 2}
    actor: Any = ray.remote(_RayWorker).options(**options)
    made = (str(store.folder.absolute()), tuple(log), os.getcwd())  # a worker may be somewhere else
    idle: deque[Any] = deque(actor.remote(*made) for _ in range(workers))
    coming = iter(batches)
    waiting: deque[Task] = deque()
    under_way: dict[Any, tuple[Any, Task]] = {}
    held: dict[Any, tuple[str, int]] = {}  # whose data a worker has from its last job
    met: set[str] = set()  # jobs that other workers had when they were asked for
    try:
        while True:
            while not waiting and not under_way and (more := next(coming, None)) is not None:
                met.clear()
                waiting.extend(more)
            if not under_way and (not waiting or stop()):
                break
            while idle and waiting and not stop():
                worker = idle.popleft()
                task = nearest(waiting, held.get(worker), [held.get(one) for one, _ in under_way.values()])
                waiting.remove(task)
                held[worker] = _data_of(task)
                seconds = PATIENCE if task.job.name in met else 0.0
                under_way[worker.work.remote(task, seconds)] = worker, task
            done, _ = ray.wait(list(under_way), num_returns=1, timeout=_LOOK_SECONDS)
            if stop():
                break
            if not done:
                yield None
            for one in done:
                worker, task = under_way.pop(one)
                name = task.job.name
                try:
                    outcome = ray.get(one)
                    idle.append(worker)
                except ray.exceptions.RayActorError:
                    outcome = Outcome(name, FAILED, "its worker's process ended; was there too little memory?")
                    store.failed(name, outcome.why)
                    idle.append(actor.remote(*made))
                except ray.exceptions.RayTaskError as error:
                    raise _as_ours(error) from error
                if outcome.state == BUSY:
                    met.add(name)
                    waiting.append(task)
                    yield None
                else:
                    yield outcome
        yield from _halted(under_way)
    finally:
        for worker in (*idle, *(one for one, _ in under_way.values())):
            ray.kill(worker)


def nearest(waiting: Sequence[Task], own: tuple[str, int] | None, others: Sequence[tuple[str, int] | None]) -> Task:
    """The next task of a worker: of data that it has, else that no other is busy with, else the first.

    Args:
        waiting: In the order in which they are begun.
        own: Target and seed of its last one.
        others: Of those under way.
    """
    mine = next((one for one in waiting if _data_of(one) == own), None)
    return mine or next((one for one in waiting if _data_of(one) not in others), waiting[0])


def _data_of(task: Task) -> tuple[str, int]:
    return task.job.target, task.job.seed


def _halted(under_way: dict[Any, tuple[Any, Task]]) -> Iterator[Outcome]:
    """Let jobs that have begun save what they have."""
    for worker, _ in under_way.values():
        worker.halt.remote()
    done, _ = ray.wait(list(under_way), num_returns=len(under_way), timeout=_STOP_SECONDS) if under_way else ([], [])
    for one in done:
        try:
            yield ray.get(one)
        except ray.exceptions.RayError:
            continue  # it has begun again from its checkpoint when the sweep goes on


def _as_ours(error: ray.exceptions.RayTaskError) -> FedhaError:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, FedhaError) else ClusterError(f"a worker failed: {error}")
