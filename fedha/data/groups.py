"""Groups of examples: a patient's, which stay together, or those that an evaluation tells apart."""

from typing import Any

import numpy
from numpy.typing import NDArray

from fedha.data.examples import GIVEN, Examples
from fedha.data.numbered import GROUP
from fedha.errors import FedhaError, listed


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
