"""A list of images as a data set: a CSV file with a row for every image, and a header."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path

from fedha.data.images.tree import Folder, check_names, shown
from fedha.errors import FedhaError, brief, listed
from fedha.schema import nearest
from fedha.textfile import read_text

NEEDED, MORE = ("path", "domain", "label"), ("split", "group")
LAYOUT = "a header with the columns path, domain and label, and where they are known split and group"
SPLITS: Mapping[str, bool] = {  # and whether it is held out
    "train": False,
    "held_out": True,
    "val": True,
    "valid": True,
    "validation": True,
    "test": True,
}
_FEW = 3  # rows that are named


@dataclass(frozen=True)
class Row:
    """One image.

    Attributes:
        line: Where it stands, from 1.
        cells: What is told of it, by column.
    """

    line: int
    cells: Mapping[str, str]


def read_manifest(
    path: Path, root: Path | None, *, missing: bool = False, column: str | None = None
) -> tuple[dict[str, Folder], list[str]]:
    """The domains of a manifest, by name, in order.

    Args:
        path: The file.
        root: What the images' paths are relative to; None: the file's folder.
        missing: Whether an image may be missing: it is then found broken when it is decoded.
        column: One more that is read.

    Returns:
        The domains, their images in the file's order, and what is to be told, a sentence each.

    Raises:
        FedhaError: The file cannot be read or is no such list; names what is wrong with which lines.
    """
    columns, rows, others = _read(path)
    unread = [name for name in others if column is None or name != column.casefold()]
    folder = (path.parent if root is None else root).absolute()
    rows = [_portable(one, folder) for one in rows]
    _check(path, columns, rows)
    if not missing:
        gone = [one for one in rows if not (folder / one.cells["path"]).is_file()]
        _refuse(path, ((one, f"there is no file {shown(folder / one.cells['path'])}") for one in gone))
    check_names({f"domain {one!r}": one for one in dict.fromkeys(row.cells["domain"] for row in rows)}, "names of")
    check_names({f"label {one!r}": one for one in dict.fromkeys(row.cells["label"] for row in rows)}, "names of")
    by_domain: dict[str, list[Row]] = {}
    for one in rows:
        by_domain.setdefault(one.cells["domain"], []).append(one)
    found = {name: _folder(name, folder, by_domain[name], columns) for name in sorted(by_domain)}
    return found, [f"of {path.name} the columns {listed(unread)} are not read"] if unread else []


def _read(path: Path) -> tuple[list[str], list[Row], list[str]]:
    """The columns that are known, all rows, and the columns that nobody reads."""
    file = StringIO(read_text(path, "data.manifest", f"it is a CSV file: {LAYOUT}"), newline="")
    mark = max(",;\t", key=file.readline().count)
    file.seek(0)
    try:
        reader = csv.reader(file, delimiter=mark, strict=True)
        header = [name.strip().casefold() for name in next(reader, [])]
        _check_header(path, header)
        rows = list(_rows(path, reader, header))
    except csv.Error as error:
        raise FedhaError(
            f"cannot read data.manifest {shown(path)}: {brief(error)}; it is a CSV file: {LAYOUT}"
        ) from error
    if not rows:
        raise FedhaError(f"{shown(path)} names no image; give it a line for each, below {LAYOUT}")
    known = [name for name in header if name in NEEDED + MORE]
    return known, rows, [name for name in header if name not in known]


def _check_header(path: Path, header: Sequence[str]) -> None:
    for name in NEEDED:
        if name not in header:
            give = f"give it {LAYOUT}"
            told = f", only {listed(header)}{nearest(name, header, give)}" if any(header) else f"; {give}"
            raise FedhaError(f"{shown(path)} has no column {name!r}{told}")
    if twice := [name for name in header if header.count(name) > 1]:
        raise FedhaError(f"{shown(path)} has the column {twice[0]!r} twice; keep one of them")


def _rows(path: Path, reader: Iterator[list[str]], header: Sequence[str]) -> Iterator[Row]:
    line = 2
    for cells in reader:
        at, line = line, reader.line_num + 1  # type: ignore[attr-defined]
        if not any(one.strip() for one in cells):
            continue
        if len(cells) != len(header):
            raise FedhaError(
                f"line {at} of {shown(path)} has {len(cells)} cells but the header has {len(header)}; put a cell that "
                "holds a separator in quotes"
            )
        yield Row(at, {name: cell.strip() for name, cell in zip(header, cells, strict=True)})


def _portable(row: Row, folder: Path) -> Row:
    """A row whose path was written on Windows, with the separators of this system."""
    place = row.cells["path"]
    if "\\" not in place or "/" in place or (folder / place).exists():
        return row
    return Row(row.line, {**row.cells, "path": place.replace("\\", "/")})


def _check(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Refuse rows without a value, of a split that nobody knows, or of an image that another row has."""
    for name in columns:
        _refuse(path, ((one, f"its {name} is empty") for one in rows if not one.cells[name]))
    if "split" in columns:
        known = f"one of {', '.join(SPLITS)}"
        strange = [one for one in rows if one.cells["split"].casefold() not in SPLITS]
        _refuse(path, ((one, f"its split is {one.cells['split']!r}, not {known}") for one in strange))
    seen: dict[str, Row] = {}
    again = [
        (one, f"line {before.line} has the same path, {one.cells['path']!r}")
        for one in rows
        if (before := seen.setdefault(os.path.normpath(one.cells["path"]), one)) is not one
    ]
    _refuse(path, iter(again))


def _refuse(path: Path, faults: Iterator[tuple[Row, str]]) -> None:
    named = list(islice(faults, _FEW))
    if named:
        rest = sum(1 for _ in faults)
        more = f" and {rest:,} more lines alike" if rest else ""
        told = "; ".join(f"line {row.line}: {shown(why)}" for row, why in named)
        raise FedhaError(f"{shown(path)}, {told}{more}; mend the file")


def is_number(label: str) -> bool:
    """Whether a label is a class's number."""
    return label.isascii() and label.isdigit()


def _folder(name: str, folder: Path, rows: Sequence[Row], columns: Sequence[str]) -> Folder:
    labels = tuple(one.cells["label"] for one in rows)
    return Folder(
        name=name,
        path=folder,
        classes=tuple(sorted(set(labels))),
        files=tuple(os.path.normpath(one.cells["path"]) for one in rows),
        labels=labels,
        notes=(),
        held_out=tuple(SPLITS[one.cells["split"].casefold()] for one in rows) if "split" in columns else None,
        groups=tuple(one.cells["group"] for one in rows) if "group" in columns else None,
        columns={
            name: tuple(one.cells[name] for one in rows)
            for name in rows[0].cells
            if name == "group" or name not in NEEDED + MORE
        },
    )
