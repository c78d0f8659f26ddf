"""Rows that are read, with all that is known of them before any becomes an input."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fedha.data.sides import Cut
from fedha.data.tables.reading import Reading
from fedha.data.tables.roles import Divided, Rows, check_cells, kinds_of, sides_of
from fedha.data.tables.statistics import (
    ColumnStatistics,
    Needs,
    UndeclaredError,
    check_declared,
    from_sources,
    sums_by_column,
)


@dataclass(frozen=True)
class Prepared:
    """The rows of a run's domains.

    Attributes:
        parts: Of each domain, each cell of its column's kind.
        kinds: Each feature, and whether it has categories.
        classes: Their names, in the order of their labels.
        divided: On which side each row of a domain is.
        trained: The names of the sources.
    """

    parts: Mapping[str, Rows]
    kinds: Mapping[str, bool]
    classes: Sequence[str]
    divided: Mapping[str, Divided]
    trained: Sequence[str]

    def statistics(
        self, declared: Mapping[str, ColumnStatistics] | None, needs: Needs, *, alone: bool
    ) -> dict[str, ColumnStatistics]:
        """Each feature's statistics, as they are declared, or from the sources' sums.

        Args:
            declared: By the config; None: they are not.
            needs: What of them is needed.
            alone: Whether it is a site, which cannot know the others' sums.

        Raises:
            FedhaError: Other columns are declared; or nothing is, at a site that needs it; or no source has a value.
        """
        if declared is not None:
            check_declared(declared, list(self.kinds))
            return {name: declared[name] for name in self.kinds}
        sources = [(self.parts[name], self.divided[name]) for name in self.trained]
        if alone and needs.anything(self.kinds):
            raise UndeclaredError(sums_by_column(sources, list(self.kinds)))
        return from_sources(sources, list(self.kinds), needs)


def prepared(
    parts: Mapping[str, Rows],
    reading: Reading,
    unseen: Sequence[str],
    asked: Sequence[str] | None,
    declared: Mapping[str, bool] | None,
    classes: Callable[[Mapping[str, Rows]], Sequence[str]],
    cut: Cut,
) -> Prepared:
    """Check rows, and divide them.

    Args:
        parts: Of each domain, as they were read.
        reading: How.
        unseen: The targets.
        asked: The features that the config names; None: all columns that are nothing else.
        declared: Whether a feature has categories, as far as the config says; None: it does not.
        classes: The classes' names, from all rows.
        cut: Decides the sides of the sources' rows, where no column does.

    Raises:
        FedhaError: By file, line and column.
    """
    trained = [name for name in parts if name not in unseen] or list(parts)
    columns = reading.features(parts, trained, asked)
    kinds = kinds_of([parts[name].sheet for name in trained], columns, declared)
    whole = {name: replace(one, sheet=check_cells(one.sheet, kinds)) for name, one in parts.items()}
    names = classes(whole)
    cuts = {name: None if name in unseen else cut for name in whole}
    divided = {name: sides_of(one, reading.roles, names, columns, cuts[name]) for name, one in whole.items()}
    return Prepared(whole, kinds, names, divided, trained)
