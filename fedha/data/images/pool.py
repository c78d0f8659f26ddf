"""A process's threads that make images ready, and what they have begun ahead of who will take it."""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy
from numpy.typing import NDArray

_MOST_THREADS = 8
_AHEAD = 3  # batches of a source that are begun and not yet taken: a step's, an evaluation's, the next round's

Made = TypeVar("Made")
Faults = dict[int, str]  # what is wrong with an image, by its place in the batch


def threads(wanted: int | None = None) -> int:
    """How many make images ready: as many as were asked for, else one a core that this process may use."""
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_THREADS, cores)


@dataclass(frozen=True)
class Begun:
    """A batch that threads are filling.

    Attributes:
        rows: [n, channels, size, size]; whole once all parts are done.
        parts: Stretches of it, each with the faults that were found there.
    """

    rows: NDArray[numpy.uint8]
    parts: tuple[Future[Faults], ...]

    def done(self) -> tuple[NDArray[numpy.uint8], Faults]:
        """The batch, once it is whole."""
        return self.rows, {at: why for part in self.parts for at, why in part.result().items()}

    def drop(self) -> None:
        """Nobody will take it: what has not begun does not."""
        for part in self.parts:
            part.cancel()


def begin(rows: NDArray[numpy.uint8], fill: Callable[[range], Faults], workers: int) -> Begun:
    """Let threads fill a batch; whoever fills which, a row's bytes are its own.

    Args:
        rows: Where they go.
        fill: Fills a stretch, and says what is wrong with which row.
        workers: Threads.
    """
    count = len(rows)
    step = max(1, -(-count // (4 * workers)))  # several a thread: files differ in size
    some = [range(start, min(start + step, count)) for start in range(0, count, step)]
    return Begun(rows, tuple(submit(partial(fill, part), workers) for part in some))


def submit(work: Callable[[], Made], workers: int) -> Future[Made]:
    """Let a thread do something."""
    return _pool(os.getpid(), workers).submit(work)


@lru_cache(maxsize=1)
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """A process has its own: threads do not outlive a fork."""
    return ThreadPoolExecutor(workers, thread_name_prefix="fedha-images")


@dataclass
class Ahead:
    """Batches that were begun before anybody took them, a few at most; a process has its own."""

    _begun: OrderedDict[Hashable, Begun] = field(default_factory=OrderedDict)

    def expect(self, key: Hashable, make: Callable[[], Begun]) -> None:
        """Begin a batch that will be taken soon; the oldest that nobody took makes room for it."""
        if key in self._begun:
            return
        while len(self._begun) >= _AHEAD:
            self._begun.popitem(last=False)[1].drop()
        self._begun[key] = make()

    def take(self, key: Hashable) -> Begun | None:
        """A batch that was begun, once; None: it was not."""
        return self._begun.pop(key, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return Ahead, ()
