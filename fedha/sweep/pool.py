"""A sweep's workers on Ray: a process a core, or a share of a GPU, on this machine or a cluster."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from fedha.engine import ray_session
from fedha.errors import ClusterError, FedhaError
from fedha.sweep.jobs import Job
from fedha.sweep.store import Store
from fedha.sweep.work import BUSY, FAILED, PATIENCE, Outcome, Worker

_LOOK_SECONDS = 0.5
_STOP_SECONDS = 60.0


class _RayWorker:
    """An actor: one job at a time, and a second call that tells it to stop."""

    def __init__(self, folder: str) -> None:
        self._stop = threading.Event()
        self._worker = Worker(Store(Path(folder)), self._stop.is_set)

    def work(self, job: Job, seconds: float) -> Outcome:
        return self._worker.work(job, seconds)

    def halt(self) -> None:
        self._stop.set()


def on_ray(
    store: Store,
    jobs: Sequence[Job],
    workers: int,
    *,
    threads: int = 1,
    gpu_share: float = 0.0,
    address: str | None = None,
    stop: Callable[[], bool],
    ready: Callable[[int], None] | None = None,
) -> Iterator[Outcome | None]:
    """Do jobs on Ray; yields what became of each, and None where nothing has for a while.

    A worker that dies costs its job, which is then counted as failed, and is replaced.

    Args:
        store: The sweep's; on a cluster its folder is one that all machines share.
        jobs: In the order in which they are begun.
        workers: How many.
        threads: Cores of each.
        gpu_share: Of a GPU, for each; 0: none.
        address: A cluster's; None: a Ray of this machine.
        stop: Asked now and then, whether to stop; jobs that have begun are saved.
        ready: Told how many workers there are, once Ray has started.

    Raises:
        FedhaError: Ray does not start, or nothing can be written.
    """
    gpus = -(-workers * gpu_share // 1)
    session = ray_session.start(*((0, 0) if address else (workers * threads, int(gpus))), address)
    if ready is not None:
        ready(workers)
    del session
    options: dict[str, Any] = {"num_cpus": threads, "num_gpus": gpu_share, "max_concurrency": 2}
    actor: Any = ray.remote(_RayWorker).options(**options)
    folder = str(store.folder.absolute())  # a worker may be somewhere else
    idle: deque[Any] = deque(actor.remote(folder) for _ in range(min(workers, len(jobs))))
    waiting: deque[Job] = deque(jobs)
    under_way: dict[Any, tuple[Any, Job]] = {}
    met: set[str] = set()  # jobs that other workers had when they were asked for
    try:
        while under_way or (waiting and not stop()):
            while idle and waiting and not stop():
                worker, job = idle.popleft(), waiting.popleft()
                under_way[worker.work.remote(job, PATIENCE if job.name in met else 0.0)] = worker, job
            done, _ = ray.wait(list(under_way), num_returns=1, timeout=_LOOK_SECONDS)
            if stop():
                break
            if not done:
                yield None
            for one in done:
                worker, job = under_way.pop(one)
                try:
                    outcome = ray.get(one)
                    idle.append(worker)
                except ray.exceptions.RayActorError:
                    outcome = Outcome(job.name, FAILED, "its worker's process ended; was there too little memory?")
                    store.failed(job.name, outcome.why)
                    idle.append(actor.remote(folder))
                except ray.exceptions.RayTaskError as error:
                    raise _as_ours(error) from error
                if outcome.state == BUSY:
                    met.add(job.name)
                    waiting.append(job)
                    yield None
                else:
                    yield outcome
        yield from _halted(under_way)
    finally:
        for worker in (*idle, *(one for one, _ in under_way.values())):
            ray.kill(worker)


def _halted(under_way: dict[Any, tuple[Any, Job]]) -> Iterator[Outcome]:
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
