"""Groups of examples: a patient's, which stay together, or those that an evaluation tells apart."""

import hashlib
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedha.data.examples import GIVEN, Examples
from fedha.errors import FedhaError, listed

GROUP = "group"  # the column of metadata with the groups' own names


def numbered(groups: NDArray[Any]) -> Tensor:
    """Groups as numbers that depend on nothing but their own names: integers as they are, a digest of texts, [n]."""
    if groups.dtype.kind in "iub":
        return torch.from_numpy(groups.astype(numpy.int64))
    names, places = numpy.unique(groups, return_inverse=True)
    return torch.tensor([_number(str(one)) for one in names.tolist()], dtype=torch.int64)[torch.from_numpy(places)]


def groups_of(examples: Examples, column: str) -> NDArray[Any] | None:
    """The group of each example by a column of its metadata, [n]; ``group`` is that of its data's groups.

    Args:
        examples: Of one domain.
        column: "": they are not told apart.

    Raises:
        FedhaError: There is no such column; names those that there are.
    """
    if not column:
        return None
    if column in examples.metadata:
        return numpy.asarray(examples.metadata[column])
    if column == GROUP and examples.groups is not None:
        return examples.groups.cpu().numpy()
    known = [name for name in examples.metadata if name != GIVEN]
    known += [GROUP] if examples.groups is not None and GROUP not in known else []
    raise FedhaError(
        f"evaluation.groups is {column!r}, which the examples do not have; they have {listed(known) or 'no column'}"
    )


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "big", signed=True)
