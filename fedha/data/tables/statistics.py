"""What is known of a table's columns before a row is used: as a config declares it, or from the sources' own sums."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedha.data.tables.roles import Divided, Rows
from fedha.data.tables.sheet import Column
from fedha.errors import FedhaError, listed


class ColumnStatistics(BaseModel):
    """One feature: numbers, or one of several categories.

    Attributes:
        mean: Of its values; missing ones become it.
        deviation: What values less the mean are divided by.
        categories: Its values, an input each.
        missing: Whether an input says where there is none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    mean: float = 0.0
    deviation: Annotated[float, Field(gt=0)] = 1.0
    categories: Annotated[list[str], Field(min_length=1)] | None = None
    missing: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> "ColumnStatistics":
        if self.categories is not None and {"mean", "deviation"} & self.model_fields_set:
            raise ValueError("it has categories, and so neither a mean nor a deviation")
        if self.categories is not None and len(set(self.categories)) < len(self.categories):
            raise ValueError("a category is named twice; name each once")
        return self


@dataclass(frozen=True)
class Sums:
    """What one source gives of one column, from which all of them together are known.

    Attributes:
        count: Values of its training part.
        mean: Theirs: their sum over their number.
        squares: The sum of their squared distances to it.
        categories: All its values, where it has categories.
        missing: Whether it lacks a value anywhere.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    categories: frozenset[str] | None = None
    missing: bool = False

    def plus(self, other: "Sums") -> "Sums":
        """Both together; sums of squares are not subtracted from each other, so that large means lose nothing."""
        count, apart = self.count + other.count, other.mean - self.mean
        share = other.count / count if count else 0.0
        categories = None if self.categories is None or other.categories is None else self.categories | other.categories
        return Sums(
            count,
            self.mean + apart * share,
            self.squares + other.squares + apart * apart * self.count * share,
            categories,
            self.missing or other.missing,
        )


def sums_of(column: Column, rows: NDArray[numpy.int64], trained: NDArray[numpy.int64]) -> Sums:
    """What a source gives of a column.

    Args:
        column: Of its file.
        rows: The source's.
        trained: Those of its training part: held-out values have no part in a mean.
    """
    missing = bool(column.missing[rows].any())
    if column.texts is not None:
        cells = (column.texts[row] for row in rows.tolist())
        return Sums(categories=frozenset(one for one in cells if one is not None), missing=missing)
    assert column.numbers is not None
    values = column.numbers[trained]
    values = values[~numpy.isnan(values)]
    if not len(values):
        return Sums(missing=missing)
    mean = float(values.mean())
    return Sums(len(values), mean, float(((values - mean) ** 2).sum()), missing=missing)


def pooled(name: str, sums: Sequence[Sums], needs: "Needs") -> ColumnStatistics:
    """A column's statistics from what all sources give of it.

    Raises:
        FedhaError: No source has a value of it.
    """
    whole = sums[0]
    for one in sums[1:]:
        whole = whole.plus(one)
    if whole.categories:
        return ColumnStatistics(categories=sorted(whole.categories), missing=whole.missing and needs.gaps)
    missing = whole.missing and needs.gaps
    if whole.categories is None and not needs.numbers:
        return ColumnStatistics(missing=missing)
    if whole.categories is not None or not whole.count:
        raise FedhaError(f"no source has a value of column {name!r} to train on; name it in data.leave_out")
    deviation = math.sqrt(whole.squares / whole.count)
    smallest = 1e-12 * max(1.0, abs(whole.mean))  # of a column that is one number up to rounding
    return ColumnStatistics(mean=whole.mean, deviation=deviation if deviation > smallest else 1.0, missing=missing)


def check_declared(declared: Mapping[str, ColumnStatistics], features: Sequence[str]) -> None:
    """Refuse statistics of other columns than are used.

    Raises:
        FedhaError: Names the first.
    """
    if strange := [name for name in declared if name not in features]:
        raise FedhaError(
            f"data.statistics names {strange[0]!r}, which is no feature; the features are {listed(features)}"
        )
    if absent := [name for name in features if name not in declared]:
        raise FedhaError(f"data.statistics says nothing of {absent[0]!r}; name each feature, or leave statistics out")


@dataclass(frozen=True)
class Needs:
    """What of the sources' rows must be known before any becomes an input.

    Attributes:
        numbers: Whether means and deviations are.
        gaps: Whether it is where values are missing.
    """

    numbers: bool
    gaps: bool

    def anything(self, kinds: Mapping[str, bool]) -> bool:
        """Whether a site cannot know all of it alone; arguments as for `told`."""
        return self.gaps or any(kinds.values()) or self.numbers

    def told(self, kinds: Mapping[str, bool]) -> tuple[str, ...]:
        """What each source gives for it, in words.

        Args:
            kinds: Whether each column has categories.
        """
        categories = sum(kinds.values())
        given = {
            "number, mean and sum of squares of {}": len(kinds) - categories if self.numbers else 0,
            "the categories of {}": categories,
            "whether a value is missing of {}": len(kinds) if self.gaps else 0,
        }
        counted = {words: f"{count} columns" if count > 1 else "a column" for words, count in given.items() if count}
        return tuple(words.format(count) for words, count in counted.items())


def from_sources(
    sources: Sequence[tuple[Rows, Divided]], features: Sequence[str], needs: Needs
) -> dict[str, ColumnStatistics]:
    """Each column's statistics, from the sums of every source.

    Args:
        sources: Their rows, and which of them are trained on.
        features: The columns.
        needs: What of them is known.

    Raises:
        FedhaError: As `pooled`.
    """
    return {name: pooled(name, some, needs) for name, some in sums_by_column(sources, features).items()}


def sums_by_column(sources: Sequence[tuple[Rows, Divided]], features: Sequence[str]) -> dict[str, list[Sums]]:
    """What each source gives of each column; arguments as in `from_sources`."""
    trained = [rows.rows[divided.train.numpy()] for rows, divided in sources]
    return {
        name: [
            sums_of(rows.sheet.columns[name], rows.rows, some) for (rows, _), some in zip(sources, trained, strict=True)
        ]
        for name in features
    }


class UndeclaredError(FedhaError):
    """A site's table needs statistics that the config does not declare.

    Attributes:
        sums: What the site itself would give, for `fedha data statistics --own`.
    """

    def __init__(self, sums: Mapping[str, Sequence[Sums]]) -> None:
        super().__init__(
            "data.statistics is not set; a site sees its own rows alone, so the config must declare each column's mean "
            "and deviation, or categories (`fedha data statistics` makes them)"
        )
        self.sums = sums
