"""Image files of a domain: what is decoded of them, by a few threads."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedha.data.examples import Draws
from fedha.data.images.decode import BrokenImageError, Square, pixels
from fedha.data.images.pool import Begun, Faults, begin, threads
from fedha.data.images.tree import shown
from fedha.errors import FedhaError

BLOCK = 64  # images a thread that are decoded between two looks at what is broken

Broken = dict[int, str]  # why an image cannot be used, by its row


@dataclass(frozen=True)
class ImageFiles:
    """Inputs [n, channels, size, size] of bytes; what travels to another process is where they are.

    Attributes:
        folder: What the files' names are relative to, absolute.
        names: The files.
        square: What each becomes.
        workers: Threads that decode; None: one a core. No bit depends on it.
    """

    folder: Path
    names: tuple[str, ...]
    square: Square
    workers: int | None = field(default=None, compare=False)

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

    def path(self, row: int) -> Path:
        """Where an image is."""
        return Path(self.place(row))

    def place(self, row: int) -> str:
        """The same as a text, which is made in a tenth of the time."""
        return os.path.join(self.folder, self.names[row])

    def take(self, rows: Tensor, draws: Draws | None = None) -> Tensor:
        """These images.

        Raises:
            FedhaError: Names one that is broken.
        """
        return torch.from_numpy(decoded(self, rows.tolist()))


def begun(files: ImageFiles, rows: Sequence[int]) -> Begun:
    """Images that are being decoded, in the order of their rows."""
    made = numpy.zeros((len(rows), *files.square.shape), dtype=numpy.uint8)

    def fill(some: range) -> Faults:
        return {at: why for at in some if (why := _decode(files, rows[at], made[at]))}

    return begin(made, fill, threads(files.workers))


def decoded(files: ImageFiles, rows: Sequence[int], broken: Broken | None = None) -> NDArray[numpy.uint8]:
    """Images in the order of their rows, whoever decodes which.

    Args:
        files: All of them.
        rows: Which.
        broken: Where it is noted which are broken, whose bytes are 0; None: one is an error.

    Raises:
        FedhaError: Names the first that is broken.
    """
    made, found = begun(files, rows).done()
    note(files, rows, found, broken)
    return made


def note(files: ImageFiles, rows: Sequence[int], found: Faults, broken: Broken | None = None) -> None:
    """Note which images are broken, or raise for the first; arguments and errors as in `decoded`."""
    if broken is not None:
        broken.update({rows[at]: why for at, why in found.items()})
    elif found:
        at = min(found)
        raise broken_image(files.path(rows[at]), found[at])


def broken_image(path: Path, why: str) -> FedhaError:
    """What is said of an image that cannot be used."""
    return FedhaError(f"cannot use the image {shown(path)}: {why}; mend or remove it, or set data.on_broken: skip")


def blocks(files: ImageFiles, broken: Broken | None, start: int = 0) -> Iterator[NDArray[numpy.uint8]]:
    """All images from a row on, a block at a time, the next of which is decoded meanwhile; otherwise as `decoded`."""
    step = BLOCK * threads(files.workers)
    stretches = [range(at, min(at + step, len(files))) for at in range(start, len(files), step)]
    coming = [begun(files, stretches[0])] if stretches else []
    for place, rows in enumerate(stretches):
        if place + 1 < len(stretches):
            coming.append(begun(files, stretches[place + 1]))
        made, found = coming.pop(0).done()
        note(files, rows, found, broken)
        yield made


def _decode(files: ImageFiles, row: int, into: NDArray[numpy.uint8]) -> str | None:
    try:
        into[:] = pixels(files.path(row), files.square)
    except BrokenImageError as error:
        return str(error)
    return None
