"""An Array that holds its tensor: in one process, or over shared memory, nothing is written as bytes and read again."""

import functools
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

_NUMPY = "numpy.ndarray"  # Flower's name for the NPY format


class TensorArray(Array):
    """A Flower Array around a tensor, which becomes NPY bytes only where somebody reads them: over a network.

    The tensor is shared with whoever made it, and with all who read `tensor`, so none of them may change it afterwards.
    What Flower's own methods give (`numpy`, `data`, a record's ``to_torch_state_dict``) is the reader's: a copy.

    Args:
        tensor: Contiguous and on the CPU; or on a card, where whoever reads `tensor` is in this process.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.__dict__.update(
            tensor=tensor, dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape), stype=_NUMPY
        )

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
        return len(_header(self.dtype, self.shape)) + self.tensor.nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        """As a numpy array, whose memory Ray puts beside the pickle and maps where it is read."""
        return _from_numpy, (self._memory(),)


# Receivers look up a class by this name; what they get over a network is a plain Array.
TensorArray.__qualname__ = Array.__qualname__


def array_record(arrays: Mapping[str, Array]) -> ArrayRecord:
    """A record of these very arrays; Flower's own constructor makes plain ones from their bytes."""
    record = ArrayRecord()
    record.update(arrays)
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
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """What numpy writes before the values of such an array."""
    file = BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()
