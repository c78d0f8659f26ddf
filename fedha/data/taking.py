"""Taking rows of inputs that are not in memory: what somebody's own source raises, or gives, is told by its name."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from fedha.errors import FedhaError, brief, failing_line, listed
from fedha.exhausted import out_of_memory


def taken(source: Any, rows: Tensor, draws: tuple[int, ...] | None) -> Tensor:
    """The inputs of some rows of a source, as it gives them.

    Args:
        source: See `fedha.data.examples.Source`.
        rows: Indices, [m].
        draws: As there.

    Raises:
        FedhaError: It fails, or gives something else than a tensor of the shape that it says; names it and the rows.
    """
    try:
        found: object = source.take(rows, draws)
    except FedhaError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise FedhaError(
            f"take of {type(source).__name__} fails for {_named(rows)} of its {len(source):,}: "
            f"{type(error).__name__}: {brief(error)} ({failing_line(error)}); mend it, or leave these rows out"
        ) from error
    if not isinstance(found, Tensor):
        raise FedhaError(
            f"take of {type(source).__name__} gives a {type(found).__name__}; let it return a tensor, one input a row"
        )
    wanted = tuple(source.shape[1:])
    if tuple(found.shape[1:]) != wanted:
        raise FedhaError(
            f"take of {type(source).__name__} gives inputs of shape {tuple(found.shape[1:])}, but its shape says "
            f"{wanted} each; let the two agree"
        )
    if len(found) != len(rows):
        raise FedhaError(
            f"take of {type(source).__name__} gives {len(found):,} inputs for {len(rows):,} rows; let it return one a "
            "row, in their order"
        )
    return found


@contextmanager
def within(domain: str, part: str) -> Iterator[None]:
    """Say whose inputs could not be taken, before there are clients that would say it."""
    try:
        yield
    except FedhaError as error:
        raise FedhaError(f"domain {domain!r} ({part}): {error}") from error


def _named(rows: Tensor) -> str:
    """Rows in a sentence."""
    return f"row {int(rows)}" if len(rows) == 1 else f"rows {listed(rows.tolist())}"
