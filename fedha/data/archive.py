"""One NumPy archive of a domain, read straight to where its examples stay: no second copy, nothing unpickled."""

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from fedha.data.mapped import Mapped, open_array, torch_kind
from fedha.errors import FedhaError, brief

RECIPE = "write it with numpy.savez(path, inputs=inputs, labels=labels)"

_PIECE_BYTES = 2**22
_FLOATS: numpy.dtype[Any] = numpy.dtype(numpy.float32)
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Member:
    """An array of an archive, as its header says.

    Attributes:
        name: The array's.
        dtype: Of its values.
        shape: Its axes.
        fortran: Whether the first axis runs fastest in the file.
    """

    name: str
    dtype: numpy.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool


def members(path: Path) -> dict[str, Member]:
    """The arrays of an archive, or of a folder of ``.npy`` files, by name; their values are not read.

    Raises:
        FedhaError: The file is missing, is no archive, holds objects, or less than its headers say.
    """
    if path.is_dir():
        return {one.stem: member_of(one.stem, open_array(one)) for one in sorted(path.glob("*.npy"))}
    with _readable(path), path.open("rb") as file:
        if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            raise FedhaError(f"{path} holds a single array; {RECIPE}")
        with zipfile.ZipFile(file) as archive:
            found = {}
            for name in (one.removesuffix(".npy") for one in archive.namelist() if one.endswith(".npy")):
                with _opened(archive, name) as (member, _):
                    found[name] = member
            return found


def member_of(name: str, mapped: Mapped) -> Member:
    """A file's array, as a header says of an archive's."""
    return Member(name, numpy.dtype(mapped.kind), mapped.file_shape, mapped.fortran)


def read_values(path: Path, member: Member) -> NDArray[Any]:
    """A small array as it is, such as labels.

    Raises:
        FedhaError: It cannot be read.
    """
    if path.is_dir():
        with _readable(path):
            values: NDArray[Any] = numpy.load(path / f"{member.name}.npy", allow_pickle=False)
            return values
    with _readable(path), zipfile.ZipFile(path) as archive, _opened(archive, member.name) as (_, stream):
        count = int(numpy.prod(member.shape, dtype=numpy.int64))
        values = numpy.frombuffer(_exactly(stream, count * member.dtype.itemsize), member.dtype)
        return values.reshape(member.shape, order="F" if member.fortran else "C")


def read_inputs(
    path: Path, member: Member, layout: tuple[int, ...], divisor: float, kind: numpy.dtype[Any] = _FLOATS
) -> Tensor:
    """Inputs, a piece of the file at a time: what is in memory is the result and one piece.

    Args:
        path: The archive.
        member: Its inputs, [n, ...], real numbers.
        layout: Which axis of the file comes first, second, …, in the result; the first stays the first.
        divisor: What they are divided by; 1 leaves them as they are.
        kind: In which they are kept; whole numbers are not divided.

    Returns:
        Contiguous; beyond float32 is infinity.

    Raises:
        FedhaError: The file cannot be read or ends too early.
    """
    made = torch.empty([member.shape[axis] for axis in layout], dtype=torch_kind(kind))
    as_in_file = made.numpy().transpose(numpy.argsort(layout))
    with (
        _readable(path),
        zipfile.ZipFile(path) as archive,
        _opened(archive, member.name) as (_, stream),
        numpy.errstate(over="ignore"),
    ):
        for piece, values in _pieces(stream, member, as_in_file):
            piece[...] = values
            if divisor != 1:
                piece /= numpy.float32(divisor)
    return made


def reorder(values: Tensor, order: Tensor) -> Tensor:
    """Put rows into another order where they are: beside them only a sixteenth of their memory is used.

    Args:
        values: [n, ...], contiguous; they are changed.
        order: A permutation of 0 to n - 1.

    Returns:
        `values`, whose row i is now the one that was at ``order[i]``.
    """
    if len(values) == 0 or values[0].numel() == 0 or bool((order == torch.arange(len(order))).all()):
        return values
    columns = values.view(len(values), -1)
    for block in columns.split(max(1, columns.shape[1] // 16), dim=1):
        block.copy_(block[order])
    return values


def _pieces(stream: IO[bytes], member: Member, target: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Parts of the target with the file's values for them: some rows, or a column where the first axis runs fastest."""
    if member.fortran:
        turned = target.T
        parts = (turned[place] for place in numpy.ndindex(turned.shape[:-1]))
    else:
        each = int(numpy.prod(target.shape[1:], dtype=numpy.int64)) * member.dtype.itemsize
        step = max(1, _PIECE_BYTES // max(1, each))
        parts = (target[start : start + step] for start in range(0, len(target), step))
    for piece in parts:
        content = _exactly(stream, piece.size * member.dtype.itemsize)
        yield piece, numpy.frombuffer(content, member.dtype).reshape(piece.shape)


@contextmanager
def _opened(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[Member, IO[bytes]]]:
    """An array's header, and its values as a stream."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"array {name} has version {version} of NumPy's format")
        shape, fortran, dtype = _HEADERS[version](stream)
        if dtype.hasobject:
            raise ValueError(f"array {name} holds Python objects, which are not read")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > _largest(info):
            raise ValueError(f"array {name} has shape {shape}, for which the file is too short")
        yield Member(name, dtype, tuple(shape), fortran and len(shape) > 1), stream


def _largest(info: zipfile.ZipInfo) -> int:
    """Bytes that a member can hold, whatever the archive says of it: deflate makes 1,032 of one at most."""
    most = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}.get(info.compress_type)
    return info.file_size if most is None else min(info.file_size, most * info.compress_size)


def _exactly(stream: IO[bytes], count: int) -> bytearray:
    content = bytearray(count)
    view, done = memoryview(content), 0
    while done < count:
        got = stream.readinto(view[done:])  # type: ignore[attr-defined]  # typeshed's IO lacks it, ZipExtFile has it
        if not got:
            raise EOFError(f"the file ends after {done:,} of {count:,} bytes")
        done += got
    return content


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise FedhaError(f"cannot read {path} as arrays: {brief(error)}; {RECIPE}") from error
