"""Columns of a saved data set as inputs: images stay files' bytes until they are taken."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedha.data.examples import Draws
from fedha.data.hub.stored import Stored
from fedha.data.images.decode import BrokenImageError, Square, channels_of, pixels
from fedha.errors import FedhaError, brief, listed
from fedha.named import find

Rows = NDArray[numpy.int64]
_TEXTS = 1024  # that are made token ids at once


@dataclass(frozen=True)
class StoredImages:
    """Inputs [n, channels, size, size] of bytes, decoded when they are taken.

    Attributes:
        stored: Where.
        column: Of the images.
        places: Which rows, [n].
        square: What each becomes.
        costly: Whether nobody should take all of them for a look.
    """

    costly: ClassVar[bool] = True

    stored: Stored
    column: str
    places: Rows
    square: Square

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, channels, size, size]."""
        return (len(self.places), *self.square.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of what is taken."""
        return torch.uint8

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: Tensor, draws: Draws | None = None) -> Tensor:
        """These images.

        Raises:
            FedhaError: Names the row of one that is broken.
        """
        made = numpy.zeros((len(rows), *self.square.shape), dtype=numpy.uint8)
        places = self.places[rows.numpy()]
        for at, (place, content) in enumerate(
            zip(places.tolist(), _files(self.stored, self.column, places), strict=True)
        ):
            try:
                made[at] = pixels(content, self.square)
            except BrokenImageError as error:
                raise FedhaError(f"{self.stored}, row {place}: column {self.column!r}: {error}; mend it") from error
        return torch.from_numpy(made)


def _files(stored: Stored, column: str, places: Rows) -> list[io.BytesIO]:
    from datasets import Image

    rows = stored.rows.select_columns([column]).with_format(None).cast_column(column, Image(decode=False))
    return [io.BytesIO((one or {}).get("bytes") or b"") for one in rows[places][column]]


def square_of(size: int, channels: int | None, stored: Stored, rows: Rows, column: str) -> Square:
    """What every image becomes.

    Args:
        size: Pixels a side.
        channels: 1 or 3; None: as the first source's first image is.
        stored: The first source's.
        rows: Its rows.
        column: Of the images.

    Raises:
        FedhaError: That image is broken.
    """
    if channels is not None:
        return Square(size, channels)
    (content,) = _files(stored, column, rows[:1])
    try:
        return Square(size, channels_of(content))
    except BrokenImageError as error:
        raise FedhaError(f"{stored}, row {int(rows[0])}: column {column!r}: {error}; mend it") from error


def is_image(stored: Stored, column: str) -> bool:
    """Whether a column holds images."""
    return type(stored.rows.features[column]).__name__ == "Image"


def numbers(stored: Stored, columns: Sequence[str], places: Rows) -> Tensor:
    """Columns of numbers side by side, or one of arrays of one shape, [n, ...].

    Raises:
        FedhaError: A column holds something else, arrays differ in shape, or a value is missing.
    """
    found = [_array(stored, column, places) for column in columns]
    if len(found) == 1 and found[0].ndim > 1:
        return torch.from_numpy(found[0])
    if wide := [column for column, one in zip(columns, found, strict=True) if one.ndim > 1]:
        raise FedhaError(f"{stored}: column {wide[0]!r} holds arrays; name it alone in data.inputs")
    return torch.from_numpy(numpy.stack([one.astype(numpy.float32) for one in found], axis=1))


def _array(stored: Stored, column: str, places: Rows) -> NDArray[Any]:
    rows = stored.rows.select_columns([column]).with_format("arrow")[places].column(column).to_pylist()
    if None in rows:
        row = int(places[rows.index(None)])
        raise FedhaError(f"{stored}, row {row}: column {column!r} has no value; fill it in, or remove the row")
    if rows and isinstance(rows[0], str):
        raise FedhaError(f"{stored}: column {column!r} holds texts; name what makes token ids of them in data.tokens")
    try:
        made = numpy.asarray(rows)
    except ValueError as error:
        lengths = sorted({len(one) for one in rows})
        raise FedhaError(
            f"{stored}: column {column!r} holds arrays of {lengths[0]} to {lengths[-1]} numbers; cut or pad them to one"
        ) from error
    if made.dtype.kind not in "fiub":
        raise FedhaError(
            f"{stored}: column {column!r} holds {stored.rows.features[column]}, no numbers; name another in data.inputs"
        )
    return made.astype(numpy.float32 if made.dtype.kind == "f" else numpy.int64)


def token_ids(stored: Stored, column: str, places: Rows, tokens: str) -> Tensor:
    """Texts as token ids, [n, length], by a function of the user's.

    Args:
        stored: Where.
        column: Of the texts.
        places: Which rows.
        tokens: ``package.module:function``; it takes a list of texts and returns as many rows of whole numbers, all of
            one length.

    Raises:
        FedhaError: There is no such function, it fails, or returns something else.
    """
    function, parts = find("data.tokens", tokens), []
    texts = stored.rows.select_columns([column]).with_format("arrow")[places].column(column).to_pylist()
    for row, one in zip(places.tolist(), texts, strict=True):
        if not isinstance(one, str):
            kind = "no value" if one is None else f"a {type(one).__name__}, no text"
            raise FedhaError(f"{stored}, row {row}: column {column!r} has {kind}; mend it, or leave out data.tokens")
    for start in range(0, len(texts), _TEXTS):
        some = texts[start : start + _TEXTS]
        try:
            made = numpy.asarray(function(some))
        except Exception as error:
            raise FedhaError(
                f"data.tokens is {tokens!r}, which fails with {type(error).__name__}: {brief(error)}; mend it"
            ) from error
        if made.dtype.kind not in "iu" or made.ndim != 2 or len(made) != len(some):
            raise FedhaError(
                f"data.tokens is {tokens!r}, which makes {made.dtype} {list(made.shape)} of {len(some)} texts; let it "
                "return whole numbers [texts, length], padded to one length"
            )
        parts.append(made.astype(numpy.int64))
    if len(lengths := {one.shape[1] for one in parts}) > 1:
        told = listed(sorted(lengths))
        raise FedhaError(f"data.tokens is {tokens!r}, which makes rows of {told} ids; pad them to one length")
    return torch.from_numpy(numpy.concatenate(parts))
