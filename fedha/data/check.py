"""What is wrong with one part of a domain: the sentences that every way to bring data shares."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fedha.data.examples import GIVEN, Examples
from fedha.data.taking import within
from fedha.errors import FedhaError
from fedha.inputs import several

_SHOWN = 5  # columns that are named
_PIECE = 2**20  # numbers that are looked at at once: the answers need a quarter of their memory


def check_kinds(domain: str, part: str, examples: Examples) -> None:
    """Refuse what cannot be examples, by types and shapes alone.

    Args:
        domain: Its name.
        part: Which part of it: train or held-out.
        examples: Inputs should be [n, ...], real numbers; labels [n], int64.

    Raises:
        FedhaError: It is something else.
    """
    labels = examples.labels
    for name, inputs in several(examples.inputs).items():
        what = f"inputs {name!r}" if name else "inputs"
        where = f"domain {domain!r} ({part})"
        if len(inputs.shape) < 2:
            raise FedhaError(
                f"{what} of {where} have shape {tuple(inputs.shape)}; they must be [n, ...], such as [n, features] or "
                "[n, channels, height, width]"
            )
        if inputs.dtype.is_complex:
            raise FedhaError(f"{what} of {where} are {inputs.dtype}; give real numbers, such as inputs.abs()")
    _check_label_kinds(domain, part, labels)
    for name, inputs in several(examples.inputs).items():
        if len(inputs) != len(labels):
            which = f" {name!r}" if name else ""
            raise FedhaError(f"domain {domain!r} has {len(inputs)} {part} inputs{which} but {len(labels)} labels")


def _check_label_kinds(domain: str, part: str, labels: Tensor) -> None:
    if labels.ndim != 1:
        hint = "labels.squeeze(1)" if labels.ndim == 2 and labels.shape[1] == 1 else "labels.argmax(1) where one-hot"
        raise FedhaError(
            f"labels of domain {domain!r} ({part}) have shape {tuple(labels.shape)}; they must be one class index an "
            f"input, [n] ({hint})"
        )
    if labels.dtype != torch.int64:
        raise FedhaError(f"domain {domain!r} has {labels.dtype} labels ({part}); convert them with labels.long()")


def check_labels(domain: str, labels: Tensor, classes: int) -> None:
    """Refuse labels that are no class.

    Args:
        domain: Its name.
        labels: [n], int64.
        classes: C.

    Raises:
        FedhaError: One is below 0 or above C - 1.
    """
    if not len(labels):
        return
    low, high = (int(one) for one in labels.aminmax())
    if low >= 0 and high < classes:
        return
    outside = labels[(labels < 0) | (labels >= classes)]
    one_based = low == 1 and high == classes and len(outside) < len(labels)
    hint = "; they seem to count from 1: subtract 1" if one_based else ""
    if low < 0 and high < classes:
        hint = f"; leave those examples out (data.unlabelled: {low} does in a folder of arrays)"
    raise FedhaError(
        f"labels of domain {domain!r} run from {low} to {high} but there are {classes} classes; labels must be 0 to "
        f"{classes - 1}, and {len(outside)} of {len(labels)} are not, such as {int(outside[0])}{hint}"
    )


def check_finite(domain: str, part: str, examples: Examples, given: Examples | None = None) -> None:
    """Refuse inputs that are not finite; they are looked at a block at a time.

    Args:
        domain: Its name.
        part: Which part of it.
        examples: As they are computed with.
        given: The same as the user gave them, if in another precision.

    Raises:
        FedhaError: Says how many numbers are not, in which columns, and where the first one is.
    """
    for name, kept in several(examples.inputs).items():
        if not kept.dtype.is_floating_point:
            continue
        with within(domain, part):
            bad = find_not_finite(examples, name)
        if len(bad):
            what = f"inputs {name!r}" if name else "inputs"
            raise FedhaError(f"{what} of domain {domain!r} ({part}) {_not_finite(bad, name, examples, given)}")


def _given(rows: Tensor, examples: Examples) -> Tensor:
    """Where in the user's own file or array rows are, as far as that is known."""
    column = examples.metadata.get(GIVEN)
    return rows if column is None else torch.from_numpy(column)[rows.cpu()]


def _place(rows: Tensor, examples: Examples) -> str:
    """What the first of some rows is called."""
    known = "row {} of its data as they were given" if GIVEN in examples.metadata else "example {}"
    return known.format(int(_given(rows, examples)[0]))


def _not_finite(bad: Tensor, name: str, examples: Examples, given: Examples | None) -> str:
    bad = bad[_given(bad[:, 0], examples).argsort(stable=True)]
    row, *place = bad[0].tolist()
    what, todo = "contain NaN or infinity", "clean or impute them first"
    if given is not None:
        value = float(given.numbers(slice(row, row + 1))[name][0][tuple(place)])
        if math.isfinite(value):
            kind = several(examples.take(slice(0, 1)))[name].dtype
            what, todo = (
                f"hold numbers such as {value:g}, beyond {str(kind).removeprefix('torch.')}",
                "scale them first",
            )
    count = "1 number" if len(bad) == 1 else f"{len(bad)} numbers"
    rows = len(bad[:, 0].unique())
    return (
        f"{what}: {count} in {rows} of {len(examples)} examples, {_columns(bad[:, 1:])}, first in "
        f"{_place(bad[:, 0], examples)}{_at(place)} (counted from 0); {todo}"
    )


def find_not_finite(examples: Examples, name: str = "") -> Tensor:
    """Where inputs are not finite: [k, number of axes].

    Args:
        examples: Any.
        name: Which of several inputs.
    """
    found = []
    for block in examples.blocks():
        inputs = several(examples.take(block))[name]
        found += [
            torch.nonzero(~piece.isfinite()) + _shift(block.start + start, piece) for start, piece in _pieces(inputs)
        ]
    axes = len(several(examples.inputs)[name].shape)
    return torch.cat(found) if found else torch.zeros(0, max(1, axes), dtype=torch.int64)


def _pieces(inputs: Tensor) -> Iterator[tuple[int, Tensor]]:
    """A few rows at a time of those that need a closer look: a sum shows what is not finite, and takes no memory."""
    rows = max(1, _PIECE // max(1, inputs[:1].numel()))
    for start in range(0, len(inputs), rows):
        piece = inputs[start : start + rows]
        if not bool(piece.sum().isfinite()):
            yield start, piece


def _shift(start: int, piece: Tensor) -> Tensor:
    return torch.tensor([start] + [0] * (piece.ndim - 1), device=piece.device)


def _columns(places: Tensor) -> str:
    if places.shape[1] != 1:
        return f"at {len(places.unique(dim=0))} places of an input"
    columns = places[:, 0].unique().tolist()
    more = len(columns) - _SHOWN
    named = ", ".join(map(str, columns[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
    return f"column {named}" if len(columns) == 1 else f"columns {named}"


def _at(place: list[int]) -> str:
    return f" at {place}" if len(place) > 1 else ""
