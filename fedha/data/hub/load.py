"""The data set `hub`: columns of a saved data set in, domains out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy
import torch
from pydantic import Field
from torch import Tensor

from fedha.data.about import about
from fedha.data.class_names import check_alone, classes_of, plain
from fedha.data.domain import Domain, DomainSet, Examples, split
from fedha.data.hub.inputs import Rows, StoredImages, is_image, numbers, square_of, token_ids
from fedha.data.hub.stored import Stored, chosen, parts_of
from fedha.data.sides import Cut
from fedha.data.wanted import wanted
from fedha.errors import FedhaError


@about(
    "a data set of Hugging Face's Hub, saved on disk: images, texts, or numbers",
    needs="data.root (`fedha data fetch OWNER/NAME`), data.inputs, data.label, data.target; fedha[hub]",
    domains="the values of the column data.domain, or the saved parts",
)
def hub(
    root: Path | None,
    cut: Cut,
    alone: bool,
    inputs: str | Annotated[list[str], Field(min_length=1)],
    label: str = "label",
    target: str | list[str] | None = None,
    sources: list[str] | None = None,
    classes: int | None = None,
    domain: str | None = None,
    part: str | None = None,
    class_names: Annotated[list[str], Field(min_length=2)] | None = None,
    size: Annotated[int, Field(ge=1, le=4096)] = 32,
    channels: Literal[1, 3] | None = None,
    tokens: str | None = None,
) -> DomainSet:
    """Rows of a data set that ``datasets`` saved with `save_to_disk`; nothing is downloaded.

    Args:
        root: Its folder.
        cut: Decides which rows of the sources are held out.
        alone: Whether it is a site, that has its own domain only: then classes, and channels of images, must be given.
        inputs: The column of images, texts or arrays, or several columns of numbers.
        label: The column of the class.
        target: The unseen domains; required.
        sources: The others; None: all that there are.
        classes: How many, where labels are 0, 1, 2, … or there are names for all; None: as there are.
        domain: The column that says which domain a row is of; None: each saved part is one.
        part: Which saved part is meant, where a column says the domain.
        class_names: The classes in the order of their labels; None: as the data set names them, or sorted.
        size: Pixels a side of every image.
        channels: Of every image, 1 or 3; None: as the first source's first one.
        tokens: What makes token ids of texts, ``package.module:function``.

    Returns:
        Images [n, channels, size, size] of bytes, decoded when they are taken; token ids [n, length], int64; numbers
        [n, columns].

    Raises:
        FedhaError: By row and column.
    """
    if root is None:
        raise FedhaError("data.root is not set; name the folder of the saved data set")
    unseen = [target] if isinstance(target, str) else list(target or [])
    places = domain_rows(root, domain, part)
    names = wanted(list(places), sources, unseen, alone=alone)
    columns = [inputs] if isinstance(inputs, str) else inputs
    for stored, key, column in ((places[name][0], *one) for name in names for one in _needed(label, columns)):
        stored.check_there(key, column)
    labels = {name: labels_of(*places[name], label) for name in names}
    declared = class_names or names_of(places[names[0]][0], label)
    if alone:
        check_alone(declared, classes)
    known = classes_of(labels, declared, classes, lambda name, row: _where(*places[name], row))
    trained = [name for name in names if name not in unseen] or names
    reading = Reading(columns, size, channels, tokens, alone)
    made = reading.inputs({name: places[name] for name in names}, trained[0])
    order = {name: place for place, name in enumerate(known)}
    domains = []
    for name in names:
        whole = Examples(made[name], torch.tensor([order[one] for one in labels[name]], dtype=torch.int64))
        nothing = whole.select(slice(0, 0))
        domains.append(Domain(name, nothing, whole) if name in unseen else split(name, whole, cut))
    described = f"{root.name} ({', '.join(columns)}), {len(known)} classes"
    return DomainSet(tuple(domains), (), len(known), described, class_names=tuple(known))


def domain_rows(root: Path, domain: str | None, part: str | None) -> dict[str, tuple[Stored, Rows]]:
    """The rows of each domain, by name; arguments as in `hub`.

    Raises:
        FedhaError: There is no such column, or a row has no domain.
    """
    parts = parts_of(root)
    if domain is None:
        some = parts if part is None else [chosen(parts, part)]
        return {one.part or root.name: (one, numpy.arange(len(one.rows))) for one in some}
    stored = chosen(parts, part)
    stored.check_there("data.domain", domain)
    found: dict[str, list[int]] = {}
    for row, name in enumerate(stored.values(domain)):
        if name is None:
            raise FedhaError(f"{stored}, row {row}: column {domain!r} (data.domain) has no value; fill it in")
        found.setdefault(plain(name), []).append(row)
    return {name: (stored, numpy.array(rows)) for name, rows in sorted(found.items())}


def labels_of(stored: Stored, rows: Rows, label: str) -> list[str]:
    """The labels of some rows, as they are written.

    Raises:
        FedhaError: One has none.
    """
    values = stored.values(label)
    for row in rows.tolist():
        if values[row] is None:
            raise FedhaError(f"{stored}, row {row}: column {label!r} (data.label) has no value; remove the row")
    return [plain(values[row]) for row in rows.tolist()]


def names_of(stored: Stored, label: str) -> list[str] | None:
    """The classes as a data set names them itself; None: it does not."""
    names = getattr(stored.rows.features[label], "names", None)
    return None if names is None else list(names)


@dataclass(frozen=True)
class Reading:
    """How columns become inputs; attributes as `hub` has them."""

    columns: Sequence[str]
    size: int
    channels: int | None
    tokens: str | None
    alone: bool

    def inputs(self, places: Mapping[str, tuple[Stored, Rows]], first: str) -> dict[str, Any]:
        """The inputs of each domain.

        Args:
            places: Each domain's rows.
            first: The first source's name.

        Raises:
            FedhaError: As in `fedha.data.hub.inputs`; or it is a site, and what images become is left open.
        """
        column = self.columns[0]
        if not is_image(places[first][0], column):
            return {name: self._other(*one) for name, one in places.items()}
        if len(self.columns) > 1 or self.tokens is not None:
            what = "several columns" if len(self.columns) > 1 else "data.tokens"
            raise FedhaError(f"column {column!r} holds images, with which {what} cannot go; name it alone")
        if self.alone and self.channels is None:
            raise FedhaError(
                "data.channels is not set; a site sees its own images alone, so the config must say 1 or 3"
            )
        square = square_of(self.size, self.channels, *places[first], column)
        return {name: StoredImages(stored, column, rows, square) for name, (stored, rows) in places.items()}

    def _other(self, stored: Stored, rows: Rows) -> Tensor:
        if self.tokens is None:
            return numbers(stored, self.columns, rows)
        if len(self.columns) > 1:
            raise FedhaError(f"data.inputs is {', '.join(self.columns)}; name one column of texts for data.tokens")
        return token_ids(stored, self.columns[0], rows, self.tokens)


def _needed(label: str, columns: Sequence[str]) -> list[tuple[str, str]]:
    return [("data.label", label), *(("data.inputs", one) for one in columns)]


def _where(stored: Stored, rows: Rows, place: int) -> str:
    return f"{stored}, row {int(rows[place])}"
