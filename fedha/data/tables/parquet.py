"""Parquet files by pyarrow, an extra: columns of numbers and of texts."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from fedha.errors import FedhaError, brief

LARGEST = 3.4028234e38  # networks compute in float32, and squares are summed in float64

Parts = tuple[
    NDArray[numpy.float64] | None, list[str | None] | None, tuple[int, str] | None, tuple[int | None, str] | None
]


def read_parquet_columns(path: Path, as_text: Collection[str], missing: frozenset[str]) -> dict[str, Parts]:
    """The columns of a file, as `Column` has them: numbers, texts, the first text, and what is wrong with it.

    Args:
        path: The file.
        as_text: Columns that are taken as texts, whatever they are.
        missing: Texts that stand for nothing; nulls do too.

    Raises:
        FedhaError: pyarrow is not installed, or the file cannot be read, or has a name twice.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise FedhaError(f"{path} needs pyarrow; install fedha[table], or save the table as CSV") from error
    try:
        found = parquet.read_table(path)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise FedhaError(f"cannot read {path} as Parquet: {brief(error)}; replace it by a whole copy") from error
    names = found.column_names
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise FedhaError(f"{path}: there are two columns {twice[0]!r}; give each its own name")
    return {name: _parts(found.column(name), name in as_text, missing) for name in names}


def _parts(column: Any, as_text: bool, missing: frozenset[str]) -> Parts:
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
    if not (is_number or types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)):
        return None, None, None, (None, f"it has the type {column.type}, neither numbers nor texts")
    values = column.cast(kind).to_pylist()
    if is_number and not as_text:
        numbers = numpy.array([numpy.nan if one is None else float(one) for one in values])
        beyond = numpy.flatnonzero(numpy.abs(numbers) > LARGEST)
        return numbers, None, None, (int(beyond[0]), "it is infinite, or beyond float32") if len(beyond) else None
    if types.is_null(kind) and not as_text:
        return numpy.full(len(values), numpy.nan), None, None, None
    texts = [_text(one, missing) for one in values]
    first = next(((row, one) for row, one in enumerate(texts) if one is not None), None)
    if first is None and not as_text:
        return numpy.full(len(values), numpy.nan), None, None, None
    return None, texts, None if as_text else first, None


def _text(value: Any, missing: frozenset[str]) -> str | None:
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # whole numbers with a gap among them, as pandas keeps them
    text = str(value).strip()
    return None if text in missing else text
