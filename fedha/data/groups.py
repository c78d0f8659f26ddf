"""Groups of examples, such as a patient's, as numbers."""

import hashlib
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor


def numbered(groups: NDArray[Any]) -> Tensor:
    """Groups as numbers that depend on nothing but their own names: integers as they are, a digest of texts, [n]."""
    if groups.dtype.kind in "iub":
        return torch.from_numpy(groups.astype(numpy.int64))
    names, places = numpy.unique(groups, return_inverse=True)
    return torch.tensor([_number(str(one)) for one in names.tolist()], dtype=torch.int64)[torch.from_numpy(places)]


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "big", signed=True)
