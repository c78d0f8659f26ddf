"""The data set `table`: files and columns in, domains out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from fedha.data.about import about
from fedha.data.class_names import check_alone, classes_of
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.data.numbered import GROUP
from fedha.data.sides import Cut
from fedha.data.tables.encode import Encoding, Impute, strange_categories
from fedha.data.tables.prepared import prepared
from fedha.data.tables.reading import Reading
from fedha.data.tables.roles import Divided, Roles, Rows
from fedha.data.tables.statistics import ColumnStatistics, Needs
from fedha.data.wanted import wanted
from fedha.errors import FedhaError, listed

MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
Names = list[str]


@about(
    "your own rows: a CSV or Parquet file a domain, or a column that says which domain a row is of",
    needs="data.root with the files, data.label, data.target; fedha[table] for Parquet",
    domains="the files, or the values of the column data.domain",
)
def table(
    root: Path | None,
    cut: Cut,
    alone: bool,
    label: str,
    target: str | list[str] | None = None,
    sources: Names | None = None,
    classes: int | None = None,
    domain: str | None = None,
    features: Annotated[Names, Field(min_length=1)] | None = None,
    leave_out: Names | None = None,
    group: str | None = None,
    split_column: str | None = None,
    categories: Names | None = None,
    metadata: Names | None = None,
    class_names: Annotated[Names, Field(min_length=2)] | None = None,
    missing: Names | None = None,
    impute: Impute = "mean",
    indicator: bool = True,
    standardise: bool = True,
    on_unlabelled: Literal["error", "skip"] = "error",
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None,
    statistics: dict[str, ColumnStatistics] | None = None,
    partition_column: str | None = None,
) -> DomainSet:
    """Rows as examples: numbers standardised, an input a category, and an input for where a value is missing.

    Args:
        root: A folder of files, a domain each; or with `domain` files of rows of any domain; or one file.
        cut: Decides which rows of the sources are held out, where no column does.
        alone: Whether it is a site, or a server, that has some domains only: then `statistics` must be declared.
        label: The column of the class.
        target: The unseen domains; required.
        sources: The others; None: all that there are.
        classes: How many, where labels are 0, 1, 2, …; None: the labels of all domains used, sorted.
        domain: The column that says which domain a row is of; None: its file is.
        features: Columns; None: all that are nothing else.
        leave_out: Columns that are nothing.
        group: The column of what belongs together, such as a patient: never on both sides.
        split_column: The column that says train, or test or held_out.
        categories: Features with categories; None: those that have no number in any source.
        metadata: Columns that are kept beside the rows, for evaluation.groups; they may be features or not.
        class_names: The classes in the order of their labels.
        missing: Cells that stand for no value; None: those that people usually write.
        impute: What stands for a missing number: the mean, zero, or an error. A missing category is none.
        indicator: Whether an input says where a value is missing, of columns where a source lacks one.
        standardise: Whether numbers are taken less their mean, over their deviation.
        on_unlabelled: Whether a row without a label is an error, or left out and counted.
        delimiter: Between the cells of a text file; None: a comma, or a tab in .tsv.
        partition_column: The column that clients are made by; no feature.
        statistics: Mean and deviation, or categories, of each feature; None: from the sources' own sums: of training
            parts, never of a target.

    Returns:
        Inputs [n, inputs], float32.

    Raises:
        FedhaError: By file, line and column.
    """
    if root is None:
        raise FedhaError("data.root is not set; name the folder of the tables, or a single one")
    if alone:
        check_alone(class_names, classes)
    declared = _declared(statistics, categories)
    as_text = None if declared is None else [name for name, has_categories in declared.items() if has_categories]
    roles = Roles(label, domain, group, split_column, tuple(leave_out or ()), as_text, partition_column)
    reading = Reading(roles, tuple(MISSING if missing is None else missing), delimiter, on_unlabelled == "skip")
    unseen = [target] if isinstance(target, str) else list(target or [])
    asked = list(statistics) if statistics is not None and features is None else features
    needs = Needs(numbers=standardise or impute == "mean", gaps=indicator and impute != "error")

    def named(parts: Mapping[str, Rows]) -> list[str]:
        labels = {name: one.labels for name, one in parts.items()}
        return classes_of(labels, class_names, classes, lambda name, row: parts[name].where(row))

    parts, notes = reading.parts(root, lambda known: wanted(known, sources, unseen, alone=alone))
    ready = prepared(parts, reading, unseen, asked, declared, named, cut)
    encoding = Encoding(ready.statistics(statistics, needs, alone=alone), impute, indicator, standardise)
    beside = {**({GROUP: group} if group else {}), **{name: name for name in metadata or ()}}
    made = tuple(
        domain_of(one, ready.divided[name], encoding, roles, beside, is_source=name not in unseen, quiet=cut.protected)
        for name, one in ready.parts.items()
    )
    released = () if statistics is not None else needs.told(ready.kinds)
    gave = f", after each source gave {'; '.join(released)}" if released else ""
    told = f"{len(ready.kinds)} columns as {len(encoding.names)} inputs{gave}, {len(ready.classes)} classes"
    described = f"tables from {root}: {told}"
    return DomainSet(
        made,
        (),
        len(ready.classes),
        described,
        tuple(notes),
        released,
        encoding.columns,
        class_names=tuple(ready.classes),
    )


def _declared(
    statistics: Mapping[str, ColumnStatistics] | None, categories: Sequence[str] | None
) -> dict[str, bool] | None:
    """Whether a column has categories, as far as a config says; None: it does not."""
    if statistics is not None:
        return {name: one.categories is not None for name, one in statistics.items()}
    return None if categories is None else dict.fromkeys(categories, True)


def domain_of(
    rows: Rows,
    divided: Divided,
    encoding: Encoding,
    roles: Roles,
    beside: Mapping[str, str],
    *,
    is_source: bool,
    quiet: bool,
) -> Domain:
    """The rows of a domain as its two parts.

    Args:
        rows: Of the domain.
        divided: On which side each is.
        encoding: How they become inputs.
        roles: Which column clients are made by.
        beside: Columns that are kept as they are written, by what they are called there.
        is_source: Whether they are trained on.
        quiet: Whether nothing is told of them, as where each is protected.
    """
    inputs = torch.from_numpy(encoding.inputs(rows.sheet, rows.rows, trained=is_source))
    metadata = {name: rows.written(column) for name, column in beside.items()} | rows.metadata(roles.client)
    whole = Examples(inputs, divided.labels, divided.groups, metadata).counted()
    notes = (
        ()
        if quiet
        else (*rows.notes, *_gaps(rows, encoding), *strange_categories(rows.sheet, rows.rows, encoding.columns))
    )
    return Domain(rows.name, whole.select(divided.train), whole.select(divided.held_out), notes=notes)


def _gaps(rows: Rows, encoding: Encoding) -> list[str]:
    """How many values are missing, and where."""
    counts = {name: int(rows.sheet.columns[name].missing[rows.rows].sum()) for name in encoding.columns}
    lacking = [f"{name} {count}" for name, count in counts.items() if count]
    if not lacking:
        return []
    stands = "the mean" if encoding.impute == "mean" else "0"
    return [f"missing values ({listed(lacking, 5)}) stand as {stands}, a missing category as none"]
