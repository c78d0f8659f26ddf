"""Groups by number: what belongs together, such as a patient's rows, as people name it."""

import hashlib
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedha.errors import FedhaError

GROUP = "group"  # the column of metadata with the groups' own names


def numbered(groups: NDArray[Any]) -> Tensor:
    """Groups as numbers that depend on nothing but their own names: integers as they are, a digest of texts, [n]."""
    if groups.dtype.kind in "iub":
        return torch.from_numpy(groups.astype(numpy.int64))
    names, places = numpy.unique(groups, return_inverse=True)
    return torch.tensor([_number(str(one)) for one in names.tolist()], dtype=torch.int64)[torch.from_numpy(places)]


def as_given(groups: object) -> NDArray[Any]:
    """Groups of a program, [n]: whole numbers, or texts.

    Raises:
        FedhaError: They are neither.
    """
    found = numpy.asarray(groups)
    if found.dtype.kind == "O" and all(isinstance(one, str) for one in found.flat):
        found = found.astype(str)
    if found.dtype.kind not in "iubU" and found.size:
        raise FedhaError(
            f"groups are {found.dtype}, such as {next(iter(found.flat))}; give one whole number or text an example"
        )
    return found


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "big", signed=True)
