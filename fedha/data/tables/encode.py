"""Rows of a table as inputs: numbers less their mean over their deviation, an input a category, an input for gaps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
from numpy.typing import NDArray

from fedha.data.tables.sheet import Column, Sheet
from fedha.data.tables.statistics import ColumnStatistics
from fedha.errors import FedhaError

Impute = Literal["mean", "zero", "error"]


@dataclass(frozen=True)
class Encoding:
    """How columns become inputs.

    Attributes:
        columns: Statistics of each feature, in order.
        impute: What stands for a missing number, or that it is an error.
        indicator: Whether an input says where a value is missing, of columns whose statistics say that some are.
        standardise: Whether numbers are.
    """

    columns: Mapping[str, ColumnStatistics]
    impute: Impute = "mean"
    indicator: bool = True
    standardise: bool = True

    @property
    def names(self) -> list[str]:
        """Of the inputs."""
        values = [
            name if one.categories is None else f"{name}={category}"
            for name, one in self.columns.items()
            for category in one.categories or [""]
        ]
        return [*values, *(f"{name} missing" for name, one in self.columns.items() if self._indicates(one))]

    def inputs(self, sheet: Sheet, rows: NDArray[numpy.int64], *, trained: bool) -> NDArray[numpy.float32]:
        """Rows of a file as inputs, [n, inputs].

        Args:
            sheet: The file.
            rows: Which.
            trained: Whether they are a source's, whose categories are all known; those of a target need not be.

        Raises:
            FedhaError: A value is missing where that is an error, or is no category.
        """
        parts = [self._values(sheet, name, rows, trained) for name in self.columns]
        gaps = [sheet.columns[name].missing[rows, None] for name, one in self.columns.items() if self._indicates(one)]
        return numpy.concatenate([*parts, *gaps], axis=1, dtype=numpy.float32, casting="unsafe")

    def _indicates(self, one: ColumnStatistics) -> bool:
        return self.indicator and one.missing and self.impute != "error"

    def _values(self, sheet: Sheet, name: str, rows: NDArray[numpy.int64], trained: bool) -> NDArray[numpy.float64]:
        column, one = sheet.columns[name], self.columns[name]
        missing = column.missing[rows]
        if self.impute == "error" and missing.any():
            where = sheet.where(int(rows[int(missing.argmax())]))
            raise FedhaError(f"{where}: column {name!r} has no value; fill it in, or set data.impute: mean")
        if one.categories is not None:
            return _one_hot(sheet, name, column, rows, one.categories, trained)
        assert column.numbers is not None
        shift, scale = (one.mean, one.deviation) if self.standardise else (0.0, 1.0)
        stands = one.mean if self.impute == "mean" else 0.0
        values = numpy.where(missing, stands, column.numbers[rows])
        return ((values - shift) / scale)[:, None]


def _one_hot(
    sheet: Sheet, name: str, column: Column, rows: NDArray[numpy.int64], categories: Sequence[str], trained: bool
) -> NDArray[numpy.float64]:
    places = {category: place for place, category in enumerate(categories)}
    made = numpy.zeros((len(rows), len(categories)))
    for at, row in enumerate(rows.tolist()):
        cell = (column.texts or [])[row]
        if cell in places:
            made[at, places[cell]] = 1.0
        elif cell is not None and trained:
            raise FedhaError(
                f"{sheet.where(row)}: column {name!r} is {cell[:40]!r}, which is none of its categories "
                f"({', '.join(categories[:8])}); mend the cell, or declare it in data.statistics"
            )
    return made


def strange_categories(sheet: Sheet, rows: NDArray[numpy.int64], columns: Mapping[str, ColumnStatistics]) -> list[str]:
    """Where a target's rows have categories that no source has, a sentence a column: all of its inputs are 0."""
    told = []
    for name, one in columns.items():
        if one.categories is None:
            continue
        texts = sheet.columns[name].texts or []
        cells = [cell for row in rows.tolist() if (cell := texts[row]) is not None and cell not in one.categories]
        if cells:
            told.append(
                f"{len(cells)} rows have a {name!r} that no source has, such as {cells[0][:40]!r}: its inputs are 0"
            )
    return told
