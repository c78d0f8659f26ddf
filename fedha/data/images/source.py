"""Images of a domain as a source of inputs: decoded, from the cache, or changed by chance where they are trained on."""

import hashlib
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fedha.data.examples import Draws
from fedha.data.images.augment import Augmentation, augmented, failure
from fedha.data.images.decode import BrokenImageError, picture
from fedha.data.images.files import ImageFiles, begun, broken_image, note
from fedha.data.images.pool import Ahead, Begun, Faults, begin, submit, threads
from fedha.data.images.tree import shown
from fedha.data.mapped import Mapped
from fedha.errors import FedhaError

_PART = 2**16  # bytes at a file's start, and at its end, that tell whether it is what it was

_known: dict[bytes, bytes] = {}  # digests of files, by what the file system says of them: they are read once a process


@dataclass(frozen=True)
class Images:
    """Inputs [n, channels, size, size] of bytes.

    Attributes:
        files: Where they come from.
        kept: Their bytes, where a cache has them: what is evaluated is taken from there.
        augmentation: What chance does to those that are trained on; None: nothing.
        ahead: What is being made ready.
    """

    files: ImageFiles
    kept: Mapped | None = None
    augmentation: Augmentation | None = None
    ahead: Ahead = field(default_factory=Ahead, compare=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, channels, size, size]."""
        return self.files.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of what is taken."""
        return torch.uint8

    def __len__(self) -> int:
        return len(self.files)

    def expect(self, rows: Tensor, draws: Draws | None) -> None:
        """Begin with what will be taken soon; arguments as in `take`."""
        draws = draws if self.augmentation is not None else None
        if self._kept(draws) is None and self._by_threads(draws):
            self.ahead.expect(_key(rows, draws), lambda: self._begun(rows.tolist(), draws))

    def take(self, rows: Tensor, draws: Draws | None = None) -> Tensor:
        """These images.

        Raises:
            FedhaError: Names one that is broken, or on which the augmentation fails.
        """
        draws = draws if self.augmentation is not None else None
        if (kept := self._kept(draws)) is not None:
            return kept.take(rows)
        places = rows.tolist()
        if draws is not None and self.augmentation is not None and not self.augmentation.parallel:
            return torch.from_numpy(_one_by_one(self.files, self.augmentation, draws, places))
        made, faults = (self.ahead.take(_key(rows, draws)) or self._begun(places, draws)).done()
        note(self.files, places, faults)
        return torch.from_numpy(made)

    def digest(self, rows: Tensor, step: int) -> bytes:
        """Whether they are what they were: of all files the size, and of some their first and last bytes.

        Args:
            rows: Which.
            step: Of how many the content of one is looked at.

        Raises:
            FedhaError: One cannot be read.
        """
        state = _state(self.files, rows.tolist(), step)
        if state is None or state not in _known:
            told = hashlib.blake2b(repr(self.files.square).encode(), digest_size=32)
            for place, row in enumerate(rows.tolist()):
                told.update(_told(self.files.place(row), whole=place % step == 0))
            if state is None:
                return told.digest()
            _known[state] = told.digest()
        return _known[state]

    def _kept(self, draws: Draws | None) -> Mapped | None:
        return self.kept if self.augmentation is None or draws is None else None

    def _by_threads(self, draws: Draws | None) -> bool:
        return draws is None or self.augmentation is None or self.augmentation.parallel

    def _begun(self, rows: Sequence[int], draws: Draws | None) -> Begun:
        files, wanted = self.files, self.augmentation
        if draws is None or wanted is None:
            return begun(files, rows)
        made = numpy.zeros((len(rows), *files.square.shape), dtype=numpy.uint8)

        def fill(some: range) -> Faults:
            for at in some:
                made[at] = _changed(files, _picture(files, rows[at]), wanted, draws, rows[at])
            return {}

        return begin(made, fill, threads(files.workers))


def _key(rows: Tensor, draws: Draws | None) -> tuple[Draws | None, bytes]:
    return draws, rows.numpy().tobytes()


def _picture(files: ImageFiles, row: int) -> Image.Image:
    try:
        return picture(files.path(row), files.square)
    except BrokenImageError as error:
        raise broken_image(files.path(row), str(error)) from error


def _changed(
    files: ImageFiles, image: Image.Image, wanted: Augmentation, draws: Draws, row: int
) -> NDArray[numpy.uint8]:
    try:
        return augmented(image, wanted, draws, row)
    except MemoryError:
        raise
    except Exception as error:
        raise FedhaError(failure(wanted, files.path(row), error)) from error


def _one_by_one(files: ImageFiles, wanted: Augmentation, draws: Draws, rows: Sequence[int]) -> NDArray[numpy.uint8]:
    """Changed images where the transform draws from global generators: threads decode, a few images ahead."""
    made = numpy.zeros((len(rows), *files.square.shape), dtype=numpy.uint8)
    workers = threads(files.workers)
    coming, left = deque[Future[Image.Image]](), iter(rows)
    for at, row in enumerate(rows):
        coming.extend(submit(partial(_picture, files, one), workers) for one in islice(left, 2 * workers - len(coming)))
        made[at] = _changed(files, coming.popleft().result(), wanted, draws, row)
    return made


def _state(files: ImageFiles, rows: Sequence[int], step: int) -> bytes | None:
    """Sizes, times of change and numbers of some files, as one digest; None where one cannot be looked at."""
    told = hashlib.blake2b(f"{files.square!r} {step};".encode(), digest_size=32)
    try:
        for row in rows:
            place = files.place(row)
            found = os.stat(place)
            told.update(f"{place} {found.st_size} {found.st_mtime_ns} {found.st_ino};".encode(errors="surrogateescape"))
    except OSError:
        return None
    return told.digest()


def _told(place: str, *, whole: bool) -> bytes:
    """A file's size and, where more is wanted, its first and last bytes."""
    try:
        if not whole:
            return b"%d;" % os.stat(place).st_size
        file = os.open(place, os.O_RDONLY)
        try:
            size, head = os.fstat(file).st_size, os.pread(file, _PART, 0)
            rest = os.pread(file, _PART, max(len(head), size - _PART)) if size > len(head) else b""
        finally:
            os.close(file)
        return b"%d;%b%b" % (size, head, rest)
    except OSError as error:
        if os.path.lexists(place) and not os.path.exists(place):
            return b"-;"  # a dead link: broken, and told of as such
        raise FedhaError(f"cannot read {shown(place)}: {error.strerror}; leave a run's files where they are") from error
