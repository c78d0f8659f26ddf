"""One file of rows: a column is numbers, or texts, or neither, which is an error only for whoever asks for it."""

import csv
import io
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy
from numpy.typing import NDArray

from fedha.data.tables.parquet import LARGEST, read_parquet_columns
from fedha.errors import FedhaError, brief, listed
from fedha.textfile import read_text

ENDINGS = {".csv": ",", ".tsv": "\t", ".parquet": "", ".pq": ""}  # and what separates cells
_ROWS = 4096  # that are looked at at once
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_OTHERS = {";": "';'", "\t": "a tab", "|": "'|'"}


@dataclass(frozen=True)
class Column:
    """One column's cells.

    Attributes:
        numbers: [n], float64, NaN where one is missing; None: they are none.
        texts: As many, None where one is missing; None: they are none.
        first_text: The first cell that is a text where it was not asked for, and its row; None: there is none.
        fault: What is wrong with the column, or with a cell, whose row comes first; None: nothing.
    """

    numbers: NDArray[numpy.float64] | None = None
    texts: list[str | None] | None = None
    first_text: tuple[int, str] | None = None
    fault: tuple[int | None, str] | None = None

    @property
    def missing(self) -> NDArray[numpy.bool_]:
        """Where there is no value, [n]."""
        if self.numbers is not None:
            return numpy.isnan(self.numbers)
        return numpy.array([one is None for one in self.texts or []], dtype=bool)


@dataclass(frozen=True)
class Sheet:
    """A file's columns by name.

    Attributes:
        path: The file.
        columns: In the file's order.
        rows: How many.
        lines: The line of each row in a text file, [n]; None: rows have none.
    """

    path: Path
    columns: dict[str, Column]
    rows: int
    lines: NDArray[numpy.int64] | None = None

    def where(self, row: int | None) -> str:
        """A row as errors call it."""
        if row is None:
            return str(self.path)
        return f"{self.path}, row {row} (from 0)" if self.lines is None else f"{self.path}, line {self.lines[row]}"


def read_sheet(path: Path, as_text: Collection[str], missing: Collection[str], delimiter: str | None) -> Sheet:
    """Read a file.

    Args:
        path: Its ending says what it is.
        as_text: Columns whose cells are taken as they are written.
        missing: Cells that stand for nothing.
        delimiter: Between the cells of a text file; None: as its ending says.

    Raises:
        FedhaError: It cannot be read, has no header, a name twice, or a row with more or fewer cells than the header.
    """
    usual = ENDINGS[path.suffix.lower()]
    if usual:
        return _read_csv(path, as_text, frozenset(missing), delimiter or usual)
    found = read_parquet_columns(path, as_text, frozenset(missing))
    columns = {name: Column(*parts) for name, parts in found.items()}
    return Sheet(path, columns, max((_length(one) for one in columns.values()), default=0))


def _length(column: Column) -> int:
    return len(column.numbers if column.numbers is not None else column.texts or [])


def _read_csv(path: Path, as_text: Collection[str], missing: frozenset[str], delimiter: str) -> Sheet:
    text = read_text(path, "the table", "correct data.root")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        header = _header(path, next((row for row in reader if row), []), delimiter)
        builders = [_Builder(name in as_text, missing) for name in header]
        lines: list[int] = []
        for block in _blocks(path, reader, len(header), lines):
            for builder, cells in zip(builders, zip(*block, strict=True), strict=True):
                builder.add(cells)
    except csv.Error as error:
        raise FedhaError(f"{path}, line {reader.line_num}: {brief(error)}; mend the line") from error
    columns = {name: builder.made() for name, builder in zip(header, builders, strict=True)}
    return Sheet(path, columns, len(lines), numpy.array(lines, dtype=numpy.int64))


def _header(path: Path, cells: Sequence[str], delimiter: str) -> list[str]:
    names = [one.strip() for one in cells]
    if not names:
        raise FedhaError(f"{path} is empty; its first line must have the columns' names")
    if len(names) == 1 and (other := next((one for one in _OTHERS if one in names[0] and one != delimiter), None)):
        raise FedhaError(f"{path} seems to have {_OTHERS[other]} between its cells; set data.delimiter to it")
    if "" in names:
        raise FedhaError(f"{path}, line 1: column {names.index('') + 1} has no name; give it one")
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise FedhaError(f"{path}, line 1: there are two columns {twice[0]!r}; give each its own name")
    return names


def _blocks(path: Path, reader: Iterator[list[str]], width: int, lines: list[int]) -> Iterator[list[list[str]]]:
    """Rows, some thousand at a time; the line of each is noted."""
    block: list[list[str]] = []
    for row in reader:
        if not row:
            continue
        line = reader.line_num  # type: ignore[attr-defined]
        if len(row) != width:
            raise FedhaError(f"{path}, line {line}: {len(row)} cells, but there are {width} columns; mend the line")
        lines.append(line)
        block.append(row)
        if len(block) == _ROWS:
            yield block
            block = []
    if block:
        yield block


@dataclass
class _Builder:
    """A column that grows: numbers as long as nothing else was met, texts as long as no number was."""

    as_text: bool
    missing: frozenset[str]
    _rows: int = 0
    _numbers: list[NDArray[numpy.float64]] = field(default_factory=list)
    _texts: list[str | None] = field(default_factory=list)
    _first_number: int | None = None
    _first_text: tuple[int, str] | None = None
    _known: dict[str, str] = field(default_factory=dict)

    def add(self, cells: Sequence[str]) -> None:
        """The next cells."""
        plain = [None if (one := cell.strip()) in self.missing else one for cell in cells]
        if not self.as_text:
            values = [math.nan if one is None else number(one) for one in plain]
            for row, (cell, value) in enumerate(zip(plain, values, strict=True), self._rows):
                if cell is not None and value is None:
                    self._first_text = self._first_text or (row, cell)
                elif cell is not None and self._first_number is None:
                    self._first_number = row
            self._numbers.append(numpy.array([math.nan if one is None else one for one in values]))
        if self.as_text or self._first_number is None:
            self._texts += [None if one is None else self._known.setdefault(one, one) for one in plain]
        self._rows += len(plain)

    def made(self) -> Column:
        """All of it."""
        if self.as_text:
            return Column(texts=self._texts)
        if self._first_text is not None and self._first_number is None:
            if _DECIMAL_COMMA.fullmatch(self._first_text[1]):  # numbers, as they are written in half of Europe
                return Column(fault=_no_number(self._first_text))
            return Column(texts=self._texts, first_text=self._first_text)
        numbers = numpy.concatenate(self._numbers) if self._numbers else numpy.zeros(0)
        if self._first_text is None:
            return Column(numbers=numbers)
        return Column(numbers=numbers, fault=_no_number(self._first_text))


def _no_number(found: tuple[int, str]) -> tuple[int, str]:
    row, cell = found
    why = ""
    if _DECIMAL_COMMA.fullmatch(cell):
        why = ", for decimals stand after a point"
    elif (value := _float(cell)) is not None and math.isfinite(value) and abs(value) > LARGEST:
        why = f" that float32 holds, up to {LARGEST:.1e}"
    return row, f"{cell[:40]!r} is no number{why}"


def number(cell: str) -> float | None:
    """A cell as a number; None where it is none, or none that can be computed with."""
    value = _float(cell)
    return value if value is not None and abs(value) <= LARGEST and "_" not in cell else None


def _float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def files_in(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The tables in a folder by name, or the single one that a path names; and what was passed over, a sentence each.

    Raises:
        FedhaError: There is none, the folder cannot be read, or two files have one name.
    """
    if root.is_file():
        if root.suffix.lower() not in ENDINGS:
            raise FedhaError(f"data.root is {root}, which is no table by its ending; known are {listed(ENDINGS)}")
        return {root.stem: root}, []
    try:
        entries = sorted(one for one in root.iterdir() if not one.name.startswith("."))
    except OSError as error:
        raise FedhaError(f"cannot read the folder {root}: {error.strerror}; correct data.root") from error
    found: dict[str, Path] = {}
    passed = []
    for path in entries:
        if path.suffix.lower() not in ENDINGS or not path.is_file():
            passed.append(path.name)
        elif path.stem in found:
            raise FedhaError(f"{root} holds both {found[path.stem].name} and {path.name}; keep one of them")
        else:
            found[path.stem] = path
    if not found:
        there = f", only {listed(passed, 3)}" if passed else ""
        raise FedhaError(f"{root} holds no table ({', '.join(ENDINGS)}){there}; put one there for every domain")
    return found, [f"{listed(passed, 3)}: no table by name, and passed over"] if passed else []
