"""Images of a folder as a source of inputs: a few threads decode those that are asked for."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedha.data.examples import Draws
from fedha.data.images.decode import BrokenImageError, Square, pixels
from fedha.data.images.tree import shown
from fedha.errors import FedhaError

_MOST_THREADS = 8
_BLOCK = 64  # images that are decoded between two looks at what is broken

Broken = dict[int, str]  # why an image cannot be used, by its row


@dataclass(frozen=True)
class ImageFiles:
    """Inputs [n, channels, size, size] of bytes; what travels to another process is where they are.

    Attributes:
        folder: A domain's, absolute.
        names: The files, relative to it.
        square: What each becomes.
    """

    folder: Path
    names: tuple[str, ...]
    square: Square

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, channels, size, size]."""
        return (len(self.names), *self.square.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of what is taken."""
        return torch.uint8

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Tensor, draws: Draws | None = None) -> Tensor:
        """These images.

        Raises:
            FedhaError: Names one that is broken.
        """
        return torch.from_numpy(decoded(self, rows.tolist()))


def decoded(files: ImageFiles, rows: Sequence[int], broken: Broken | None = None) -> NDArray[numpy.uint8]:
    """Images in the order of their rows, whoever decodes which.

    Args:
        files: All of them.
        rows: Which.
        broken: Where it is noted which are broken, whose bytes are 0; None: one is an error.

    Raises:
        FedhaError: Names the first that is broken.
    """
    made = numpy.zeros((len(rows), *files.square.shape), dtype=numpy.uint8)

    def fill(some: range) -> Broken:
        return {rows[at]: why for at in some if (why := _decode(files, rows[at], made[at]))}

    found = {row: why for part in _shared(fill, len(rows)) for row, why in part.items()}
    if broken is None and found:
        row, why = next(iter(found.items()))
        raise FedhaError(
            f"cannot use the image {shown(files.folder / files.names[row])}: {why}; mend or remove it, or set "
            "data.on_broken: skip"
        )
    if broken is not None:
        broken.update(found)
    return made


def blocks(files: ImageFiles, broken: Broken | None) -> Iterator[NDArray[numpy.uint8]]:
    """All images, a block at a time; arguments and errors as in `decoded`."""
    step = _BLOCK * threads()
    for start in range(0, len(files), step):
        yield decoded(files, range(start, min(start + step, len(files))), broken)


def threads() -> int:
    """How many decode: one a core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_THREADS, cores)


def _decode(files: ImageFiles, row: int, into: NDArray[numpy.uint8]) -> str | None:
    try:
        into[:] = pixels(files.folder / files.names[row], files.square)
    except BrokenImageError as error:
        return str(error)
    return None


def _shared(fill: Callable[[range], Broken], count: int) -> list[Broken]:
    """The same work by a few threads, in stretches that follow each other."""
    workers = threads()
    if workers == 1 or count < 2 * workers:
        return [fill(range(count))]
    step = max(1, -(-count // (4 * workers)))  # several a thread: files differ in size
    parts = [range(start, min(start + step, count)) for start in range(0, count, step)]
    return list(_pool(os.getpid(), workers).map(fill, parts))


@lru_cache(maxsize=1)
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """A process has its own: threads do not outlive a fork."""
    return ThreadPoolExecutor(workers, thread_name_prefix="fedha-images")
