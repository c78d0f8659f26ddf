"""An Array that holds its tensor: in one process, or over shared memory, nothing is written as bytes and read again."""

import functools
from collections.abc import Mapping
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

_R = TypeVar("_R")
_NUMPY = "numpy.ndarray"  # Flower's name for the NPY format


class TensorArray(Array):
    """A Flower Array around a tensor, which becomes NPY bytes only where somebody reads them: over a network.

    The tensor is shared with whoever made it, and with all who read `tensor`, so none of them may change it afterwards.
    What Flower's own methods give (`numpy`, `data`, a record's ``to_torch_state_dict``) is the reader's: a copy.

    Args:
        tensor: Contiguous and on the CPU; or on a card, where whoever reads `tensor` is in this process.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.__dict__["tensor"] = tensor

    stype = _NUMPY

    @property
    def dtype(self) -> str:  # type: ignore[override]  # fields in Flower's class, read only here
        """The numbers' type, as numpy calls it."""
        return str(self.tensor.dtype).removeprefix("torch.")

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The tensor's shape."""
        return tuple(self.tensor.shape)

    @property
    def data(self) -> bytes:  # type: ignore[override]  # a field in Flower's class, read only here
        """The tensor as numpy would save it."""
        kept = self.__dict__.get("_data")
        if kept is None:
            kept = self.__dict__["_data"] = _header(self.dtype, self.shape) + self._memory().tobytes()
        return bytes(kept)

    def numpy(self) -> np.ndarray[Any, Any]:
        """The tensor's values, in memory of the reader's own."""
        return self._memory().copy()

    def _memory(self) -> np.ndarray[Any, Any]:
        values: np.ndarray[Any, Any] = self.__dict__["tensor"].cpu().numpy()
        return values

    @property
    def tensor(self) -> Tensor:
        """The tensor."""
        value: Tensor = self.__dict__["tensor"]
        return value

    def count_bytes(self) -> int:
        """Length of `data`, without making it."""
        return _header_bytes(self.tensor.dtype, self.tensor.shape) + self.tensor.nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        """As a numpy array, whose memory Ray puts beside the pickle and maps where it is read."""
        return _from_numpy, (self._memory(),)


# Receivers look up a class by this name; what they get over a network is a plain Array.
TensorArray.__qualname__ = Array.__qualname__


def array_record(arrays: Mapping[str, Array]) -> ArrayRecord:
    """A record of these very arrays; Flower's own constructor makes plain ones from their bytes."""
    return filled(ArrayRecord(), arrays)


def filled(record: _R, values: Mapping[str, Any]) -> _R:
    """A record with these values in it as they are: Flower's way checks each, which took longer than all else in a
    reply.
    """
    record.__dict__["_data"].update(values)
    return record


class _Readable:
    """Memory that somebody else owns, presented as writable: torch warns of every array that is not."""

    def __init__(self, owner: np.ndarray[Any, Any]) -> None:
        self.owner = owner
        self.__array_interface__ = {**owner.__array_interface__, "data": (owner.ctypes.data, False)}


def as_tensor(values: np.ndarray[Any, Any]) -> Tensor:
    """A tensor over an array's memory, which nobody may write to."""
    if values.flags.writeable or values.size == 0:
        return torch.from_numpy(values if values.flags.writeable else values.copy())
    return torch.from_numpy(np.asarray(_Readable(values)))


def _from_numpy(values: np.ndarray[Any, Any]) -> TensorArray:
    return TensorArray(as_tensor(values))


@functools.lru_cache(maxsize=1024)
def _header_bytes(dtype: torch.dtype, shape: torch.Size) -> int:
    return len(_header(str(dtype).removeprefix("torch."), tuple(shape)))


@functools.lru_cache(maxsize=1024)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """What numpy writes before the values of such an array."""
    file = BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()
