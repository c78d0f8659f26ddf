"""Which column of a table is what, and what its rows' labels, groups and sides are."""

import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedha.data.class_names import plain
from fedha.data.sides import Cut
from fedha.data.tables.sheet import Column, Sheet
from fedha.errors import FedhaError, listed
from fedha.schema import nearest

_SIDES = {
    **dict.fromkeys(("train", "training"), False),
    **dict.fromkeys(("held_out", "held-out", "test", "val", "valid", "validation"), True),
}


@dataclass(frozen=True)
class Roles:
    """The columns that are no features.

    Attributes:
        label: Of the class.
        domain: Which domain a row is of; None: its file's.
        group: Rows that belong together; None: none do.
        side: Which part of its domain a row is in; None: fedha's split decides.
        left_out: Not read.
        categories: Features with categories; None: those without a single number.
        client: That clients are made by, which may be one of the others; None: they are not.
    """

    label: str
    domain: str | None = None
    group: str | None = None
    side: str | None = None
    left_out: Sequence[str] = ()
    categories: Sequence[str] | None = None
    client: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """The columns that must be there, by the key that names each."""
        given = {"label": self.label, "domain": self.domain, "group": self.group, "split_column": self.side}
        return {key: name for key, name in given.items() if name is not None}

    @property
    def as_text(self) -> set[str]:
        """Columns whose cells are taken as they are written."""
        return {*self.named.values(), *(self.categories or []), *([] if self.client is None else [self.client])}

    def check(self, sheet: Sheet) -> None:
        """Refuse a file without the columns that must be there, or where one is named as two things.

        Raises:
            FedhaError: Names it.
        """
        for key, name in self.named.items():
            _check_there(sheet, f"data.{key}", name)
        given = list(self.named.values())
        if twice := [one for one in given if given.count(one) > 1]:
            raise FedhaError(f"column {twice[0]!r} is named as two things in data; name each column once")

    def features(self, sheet: Sheet, wanted: Sequence[str] | None) -> list[str]:
        """The features of a file, in order.

        Args:
            sheet: The file.
            wanted: As the config names them; None: all columns that are nothing else.

        Raises:
            FedhaError: A column is named that is not there, is named as two things, or no feature is left.
        """
        for name in self.left_out:
            _check_there(sheet, "data.leave_out", name)
        none = {*self.named.values(), *self.left_out, self.client}
        rest = [one for one in sheet.columns if one not in none]
        for name in [*(wanted or []), *(self.categories or [])]:
            _check_there(sheet, "data.features" if name in (wanted or []) else "data.categories", name)
            if name not in rest:
                raise FedhaError(f"column {name!r} is named as a feature and as something else in data; choose one")
        found = rest if wanted is None else list(wanted)
        if len(set(found)) < len(found):
            raise FedhaError(f"data.features is {listed(found)}; name each column once")
        if not found:
            raise FedhaError(f"{sheet.path} has no column left that could be a feature")
        return found


def _check_there(sheet: Sheet, key: str, name: str) -> None:
    if name not in sheet.columns:
        raise FedhaError(f"{sheet.path} has no column {name!r}, which {key} names{nearest(name, sheet.columns)}")


@dataclass(frozen=True)
class Rows:
    """The rows of one domain.

    Attributes:
        name: The domain's.
        sheet: Their file.
        rows: Which of it, [n].
        labels: As they are written, [n].
        notes: What was left out, a sentence each.
    """

    name: str
    sheet: Sheet
    rows: NDArray[numpy.int64]
    labels: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def where(self, place: int) -> str:
        """One of them as errors call it."""
        return self.sheet.where(int(self.rows[place]))

    def groups(self, column: str | None) -> Tensor | None:
        """A number for each row's group, that depends on nothing but the group's name.

        Raises:
            FedhaError: A row has none.
        """
        if column is None:
            return None
        digests = [hashlib.blake2b(one.encode(), digest_size=8).digest() for one in self._cells("group", column)]
        return torch.tensor([int.from_bytes(one, "big", signed=True) for one in digests], dtype=torch.int64)

    def metadata(self, column: str | None) -> dict[str, NDArray[Any]]:
        """The column that clients are made by, as it is written.

        Raises:
            FedhaError: It is not there, or a row has no value.
        """
        if column is None:
            return {}
        _check_there(self.sheet, "data.partition.column", column)
        return {column: numpy.array(self._cells("partition.column", column))}

    def held_out(self, column: str) -> Tensor:
        """Whether each row is held out, as its own cell says, [n].

        Raises:
            FedhaError: A cell says neither.
        """
        cells = self._cells("split_column", column)
        for row, cell in zip(self.rows.tolist(), cells, strict=True):
            if cell.lower() not in _SIDES:
                raise FedhaError(
                    f"{self.sheet.where(row)}: column {column!r} is {cell[:40]!r}; write train, or test or held_out"
                )
        return torch.tensor([_SIDES[one.lower()] for one in cells], dtype=torch.bool)

    def contents(self, features: Sequence[str]) -> Iterator[Tensor]:
        """What each row holds, as bytes."""
        columns = [self.sheet.columns[name] for name in features]
        for row in self.rows.tolist():
            cells = [one.texts[row] if one.texts is not None else one.numbers[row] for one in columns]  # type: ignore[index]
            yield torch.frombuffer(bytearray(repr(cells).encode()), dtype=torch.uint8)

    def written(self, column: str) -> NDArray[Any]:
        """A column's cells as texts, [n]; "" where one has no value.

        Raises:
            FedhaError: There is no such column.
        """
        _check_there(self.sheet, "data.metadata", column)
        found = self.sheet.columns[column]
        if found.texts is not None:
            return numpy.array([found.texts[row] or "" for row in self.rows.tolist()], dtype=str)
        numbers = numpy.asarray(found.numbers)[self.rows]
        return numpy.array(["" if numpy.isnan(one) else f"{one:g}" for one in numbers.tolist()], dtype=str)

    def _cells(self, key: str, column: str) -> list[str]:
        texts = self.sheet.columns[column].texts or []
        for row in self.rows.tolist():
            if texts[row] is None:
                raise FedhaError(f"{self.sheet.where(row)}: column {column!r} (data.{key}) has no value; fill it in")
        return [str(texts[row]) for row in self.rows.tolist()]


def labelled(name: str, sheet: Sheet, rows: NDArray[numpy.int64], label: str, *, skip: bool) -> Rows:
    """The rows of a domain that have a label.

    Args:
        name: The domain's.
        sheet: Their file.
        rows: Which of it.
        label: The label's column.
        skip: Whether rows without one are left out and counted.

    Raises:
        FedhaError: A row has none, and that is an error; or no row is left.
    """
    texts = sheet.columns[label].texts or []
    kept = numpy.array([row for row in rows.tolist() if texts[row] is not None], dtype=numpy.int64)
    gone = [row for row in rows.tolist() if texts[row] is None]
    if gone and not skip:
        raise FedhaError(
            f"{sheet.where(gone[0])}: column {label!r} (data.label) has no value; fill it in, remove the row, or set "
            "data.on_unlabelled: skip"
        )
    if not len(kept):
        raise FedhaError(f"domain {name!r} has no row with a label in {sheet.path}; fill it, or remove the file")
    notes = (f"{len(gone)} of {len(rows)} rows have no label and are left out",) if gone else ()
    return Rows(name, sheet, kept, [plain(texts[row]) for row in kept.tolist()], notes)


@dataclass(frozen=True)
class Divided:
    """The rows of a domain on their sides.

    Attributes:
        labels: [n], int64.
        groups: [n]; None: there are none.
        train: Places of those that are trained on; of a target none.
        held_out: Of the others.
    """

    labels: Tensor
    groups: Tensor | None
    train: Tensor
    held_out: Tensor


def sides_of(rows: Rows, roles: Roles, names: Sequence[str], features: Sequence[str], cut: Cut | None) -> Divided:
    """Labels, groups and sides.

    Args:
        rows: Of a domain.
        roles: Which columns say so.
        names: Of the classes.
        features: What a row's content is made of, where that decides its side.
        cut: Decides the sides where no column does; None: it is a target, all held out.

    Raises:
        FedhaError: A cell that says nothing, or a source without a row to train on.
    """
    places = {name: place for place, name in enumerate(names)}
    labels = torch.tensor([places[one] for one in rows.labels], dtype=torch.int64)
    groups = None if roles.group is None or (cut and not cut.heeds_groups) else rows.groups(roles.group)
    if cut is None:
        return Divided(labels, groups, torch.arange(0), torch.arange(len(labels)))
    if roles.side is None:
        return Divided(labels, groups, *cut.sides(rows.name, rows.contents(features), labels, groups))
    held_out = rows.held_out(roles.side)
    if bool(held_out.all()):
        raise FedhaError(f"domain {rows.name!r} has no row to train on by its column {roles.side!r}; mark some train")
    return Divided(labels, groups, (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0])


def kinds_of(sources: Sequence[Sheet], features: Sequence[str], given: Mapping[str, bool] | None) -> dict[str, bool]:
    """Whether each feature has categories.

    Args:
        sources: Files of sources.
        features: Which columns.
        given: As it is declared; None: a column without a single number in any source has.
    """
    if given is not None:
        return {name: given.get(name, False) for name in features}
    return {name: _has_texts([one.columns[name] for one in sources]) for name in features}


def _has_texts(columns: Sequence[Column]) -> bool:
    """Whether they hold texts, and no number."""
    empty = [one.numbers is not None and one.fault is None and bool(numpy.isnan(one.numbers).all()) for one in columns]
    texts = [one.texts is not None for one in columns]
    return any(texts) and all(map(operator.or_, texts, empty))


def check_cells(sheet: Sheet, kinds: Mapping[str, bool]) -> Sheet:
    """The file with each feature as the kind that it is.

    Raises:
        FedhaError: A cell, or a whole column, is not of its kind; names the line and the column.
    """
    changed = dict(sheet.columns)
    for name, has_categories in kinds.items():
        column = sheet.columns[name]
        if column.fault is not None:
            row, why = column.fault
            raise FedhaError(
                f"{sheet.where(row)}: column {name!r}: {why}; mend it, or name the column in data.leave_out, or in "
                "data.categories where it holds categories"
            )
        if not has_categories and column.first_text is not None:
            row, cell = column.first_text
            raise FedhaError(
                f"{sheet.where(row)}: column {name!r}: {cell[:40]!r} is no number, as the column holds elsewhere; mend "
                "the cell, or name the column in data.categories"
            )
        if has_categories and column.texts is None:
            if not numpy.isnan(column.numbers).all():  # type: ignore[arg-type]
                row = int(numpy.flatnonzero(~numpy.isnan(column.numbers))[0])  # type: ignore[arg-type]
                raise FedhaError(
                    f"{sheet.where(row)}: column {name!r} holds numbers here and texts elsewhere; name it in "
                    "data.categories"
                )
            changed[name] = Column(texts=[None] * sheet.rows)
    return Sheet(sheet.path, changed, sheet.rows, sheet.lines)
