"""Inputs in a file that stays where it is: mapped into memory, a few rows of it read when they are asked for."""

import math
import mmap
import os
import threading
import weakref
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from fedha.data.examples import Draws, blank
from fedha.errors import FedhaError

_HELD_BYTES = 2**26  # of a file's pages that stay mapped: the system keeps its own copy as long as it has room
_LARGE_ROW = 2**10  # bytes of a row from which on rows that are apart are read one by one
_AROUND = 2**16  # what the system maps around a row that is read
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
REMEDY = "write it with numpy.save(path, inputs)"


@dataclass(frozen=True)
class Mapped:
    """An array in a file; what travels to another process is where it is.

    Attributes:
        path: Of the file, absolute.
        offset: Where its numbers begin.
        kind: Their type, as NumPy writes it.
        file_shape: Their axes in the file; the first is the examples'.
        fortran: Whether the first axis runs fastest.
        axes: Which axis of the file comes first, second, …, in what is taken; the first stays the first.
        bytes: The file's size when it was first looked at.
    """

    path: Path
    offset: int
    kind: str
    file_shape: tuple[int, ...]
    fortran: bool
    axes: tuple[int, ...]
    bytes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, ...], as it is taken."""
        return tuple(self.file_shape[axis] for axis in self.axes)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of what is taken."""
        return torch_kind(kept_as(numpy.dtype(self.kind)))

    def __len__(self) -> int:
        return self.file_shape[0]

    def _apart(self, rows: Any) -> bool:
        """Whether rows are read one by one: a map would hold around each all pages that the system reads at once."""
        kind = numpy.dtype(self.kind)
        large = kind.itemsize * math.prod(self.file_shape[1:]) >= _LARGE_ROW
        plain = not self.fortran and kind.isnative and torch_kind(kept_as(kind)) == torch_kind(kind)
        return hasattr(os, "preadv") and not isinstance(rows, slice) and large and plain

    def take(self, rows: Tensor, draws: Draws | None = None) -> Tensor:
        """These rows, read from the file.

        Raises:
            FedhaError: It is gone, cannot be read, or has another size than before.
        """
        window = _window(self.path, self.bytes)
        if self._apart(some := _stretch(rows)):
            made = blank((len(rows), *self.file_shape[1:]), self.dtype)
            try:
                window.fill(made.numpy(), some, self.offset)
            except (OSError, ValueError) as error:
                raise _unreadable(self.path, error) from error
            return made.permute(self.axes).contiguous()
        array = numpy.ndarray(
            self.file_shape, numpy.dtype(self.kind), window.map, self.offset, order="F" if self.fortran else "C"
        )
        made = blank((len(rows), *self.file_shape[1:]), self.dtype)
        each, into = array.itemsize * array[:1].size + _AROUND, made.numpy()
        step = max(1, _HELD_BYTES // each)
        with numpy.errstate(over="ignore"):
            for start in range(0, len(rows), step):
                some = rows[start : start + step]
                into[start : start + step] = array[_stretch(some)]
                window.read(len(some) * each)
        return made.permute(self.axes).contiguous()


def open_array(path: Path) -> Mapped:
    """An ``.npy`` file, mapped; its numbers are not read.

    Args:
        path: The file; nothing in it is unpickled.

    Raises:
        FedhaError: It is missing, is no such file, holds objects, or less than its header says.
    """
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"it has version {version} of NumPy's format")
            shape, fortran, kind = _HEADERS[version](file)
            offset, size = file.tell(), os.fstat(file.fileno()).st_size
    except (OSError, EOFError, ValueError) as error:
        raise FedhaError(f"cannot read {path} as an array: {error}; {REMEDY}") from error
    if kind.hasobject or not shape:
        what = "Python objects, which are not read" if kind.hasobject else "a single number"
        raise FedhaError(f"{path} holds {what}; {REMEDY}")
    wanted = offset + int(numpy.prod(shape, dtype=object)) * kind.itemsize
    if size < wanted:
        raise FedhaError(f"{path} has {size:,} bytes of the {wanted:,} that its header tells of; write it again")
    return Mapped(
        path.absolute(), offset, kind.str, tuple(shape), fortran and len(shape) > 1, tuple(range(len(shape))), size
    )


def mapped_from(array: NDArray[Any]) -> Mapped | None:
    """The same for an array of ``numpy.load(path, mmap_mode="r")``, or a stretch of its rows; None for any other.

    Args:
        array: Somebody's.
    """
    if not isinstance(array, numpy.memmap) or array._mmap is None or array.filename is None or array.ndim < 1:  # type: ignore[attr-defined]
        return None
    whole = array
    while isinstance(whole.base, numpy.memmap):
        whole = whole.base
    fortran = array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous
    if not (array.flags.c_contiguous or fortran) or whole.mode not in ("r", "r+"):  # "c" may have changed in memory
        return None
    begun = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    path = Path(array.filename).absolute()
    return Mapped(
        path, whole.offset + begun, array.dtype.str, array.shape, fortran, (*range(array.ndim),), path.stat().st_size
    )


def torch_kind(kind: numpy.dtype[Any]) -> torch.dtype:
    """The same type of torch's."""
    return torch.from_numpy(numpy.empty(0, kind)).dtype


def kept_as(kind: numpy.dtype[Any]) -> numpy.dtype[Any]:
    """The type in which numbers of a file are kept: floating ones as float32, whole ones as they are or the next wider.

    Raises:
        FedhaError: They are no real numbers.
    """
    if kind.kind == "f" or kind == numpy.uint64:  # no whole number of torch's holds all of them
        return numpy.dtype(numpy.float32)
    if kind.kind == "b":
        return numpy.dtype(numpy.uint8)
    if kind.kind in "iu":
        wider = {"uint16": numpy.int32, "uint32": numpy.int64}
        return numpy.dtype(wider.get(kind.name, kind.newbyteorder("=")))
    raise FedhaError(f"inputs of type {kind} are no real numbers; give integers or floating numbers")


class _Window:
    """A file's map in this process; a few pages of it are held at once."""

    def __init__(self, path: Path, size: int) -> None:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                raise ValueError("its size is another than when the run began")
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._file = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._file)
        self._read, self._lock = 0, threading.Lock()

    def fill(self, made: NDArray[Any], rows: NDArray[Any], offset: int) -> None:
        """Read rows from the file itself.

        Args:
            made: Where they go, [m, ...].
            rows: Which, [m].
            offset: Of the first row.

        Raises:
            OSError: The file cannot be read.
        """
        size = made[:1].nbytes
        for place, row in zip(made, rows.tolist(), strict=True):
            into, at = memoryview(place).cast("B"), offset + row * size
            while into:
                got = os.preadv(self._file, [into], at)
                if not got:
                    raise ValueError("it is shorter than when the run began")
                into, at = into[got:], at + got

    def read(self, count: int) -> None:
        """Note how much was touched; now and then the pages go, or a pass would look like a file in memory."""
        with self._lock:
            self._read += count
            if self._read > _HELD_BYTES and len(self.map) > _HELD_BYTES and hasattr(mmap, "MADV_DONTNEED"):
                self.map.madvise(mmap.MADV_DONTNEED)
                self._read = 0


@lru_cache(maxsize=64)
def _opened(path: Path, size: int) -> _Window:
    return _Window(path, size)


def _window(path: Path, size: int) -> _Window:
    try:
        if path.stat().st_size != size:  # to read behind a file's end would end the process
            raise ValueError("its size is another than when the run began")
        return _opened(path, size)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | ValueError) -> FedhaError:
    told = error.strerror if isinstance(error, OSError) else str(error)
    return FedhaError(f"cannot read {path}: {told}; leave a run's files where they are, as they are")


def _stretch(rows: Tensor) -> Any:
    """A slice where rows follow each other, which is read at once; else their indices."""
    found = rows.numpy()
    follows = len(found) > 0 and found[-1] - found[0] == len(found) - 1 and bool((numpy.diff(found) == 1).all())
    return slice(int(found[0]), int(found[-1]) + 1) if follows else found
