"""The files of a folder as the rows of domains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from fedha.data.tables.roles import Roles, Rows, labelled
from fedha.data.tables.sheet import Sheet, files_in, read_sheet
from fedha.errors import FedhaError


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes:
        roles: Which column is what.
        missing: Cells that stand for no value.
        delimiter: Between the cells of a text file; None: as its ending says.
        skip: Whether rows without a label are left out.
    """

    roles: Roles
    missing: Sequence[str]
    delimiter: str | None
    skip: bool

    def parts(
        self, root: Path, choose: Callable[[Sequence[str]], Sequence[str]]
    ) -> tuple[dict[str, Rows], Sequence[str]]:
        """The rows of each domain that is wanted, by name, and what was passed over.

        Args:
            root: A folder, or a file.
            choose: The wanted ones among those that there are, in order.

        Raises:
            FedhaError: As `read_sheet`, or a domain's rows are in two files.
        """
        files, notes = files_in(root)
        if self.roles.domain is None:
            sheets = {name: self._read(files[name]) for name in choose(list(files))}
            whole = {name: numpy.arange(one.rows) for name, one in sheets.items()}
        else:
            sheets, whole = {}, {}
            for one in map(self._read, files.values()):
                for name, rows in _by_domain(one, self.roles.domain).items():
                    if name in sheets:
                        raise FedhaError(f"domain {name!r} has rows in {sheets[name].path} and {one.path}; join them")
                    sheets[name], whole[name] = one, numpy.array(rows, dtype=numpy.int64)
            whole = {name: whole[name] for name in choose(sorted(sheets))}
        label = self.roles.label
        return {name: labelled(name, sheets[name], rows, label, skip=self.skip) for name, rows in whole.items()}, notes

    def features(self, parts: Mapping[str, Rows], trained: Sequence[str], asked: Sequence[str] | None) -> list[str]:
        """The features, which every domain must have.

        Args:
            parts: All domains.
            trained: The names of the sources.
            asked: As the config names them; None: the columns of the first source.

        Raises:
            FedhaError: One has other columns than the first.
        """
        first = parts[trained[0]].sheet
        found = self.roles.features(first, asked)
        for one in (rows.sheet for rows in parts.values()):
            if absent := [name for name in found if name not in one.columns]:
                raise FedhaError(
                    f"{one.path} has no column {absent[0]!r}, as {first.path} has; name data.features that all have"
                )
            more = [name for name in one.columns if name not in first.columns and name not in self.roles.left_out]
            if asked is None and more:
                raise FedhaError(
                    f"{one.path} has a column {more[0]!r}, which {first.path} has not; name it in data.leave_out, or "
                    "name data.features"
                )
        return found

    def _read(self, path: Path) -> Sheet:
        sheet = read_sheet(path, self.roles.as_text, self.missing, self.delimiter)
        self.roles.check(sheet)
        return sheet


def _by_domain(sheet: Sheet, column: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row, name in enumerate(sheet.columns[column].texts or []):
        if name is None:
            raise FedhaError(f"{sheet.where(row)}: column {column!r} (data.domain) has no value; fill it in")
        found.setdefault(name, []).append(row)
    return found
