"""What `save_to_disk` wrote, opened again: every process maps the same files."""

import operator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedha.errors import FedhaError, brief, listed
from fedha.schema import nearest

if TYPE_CHECKING:
    from datasets import Dataset

SAVED = "save it with datasets' save_to_disk, or `fedha data fetch OWNER/NAME --root DIR`"


@dataclass(frozen=True)
class Stored:
    """A data set on disk; what travels to another process is where it is.

    Attributes:
        root: Its folder, absolute.
        part: Which of several it is, such as train; None: it is one.
    """

    root: Path
    part: str | None = None

    @property
    def rows(self) -> "Dataset":
        """Its rows, mapped."""
        return _opened(self)

    def check_there(self, key: str, column: str) -> None:
        """Refuse a column that there is not.

        Raises:
            FedhaError: With the nearest that there is.
        """
        if column not in self.rows.features:
            raise FedhaError(f"{self} has no column {column!r}, which {key} names{nearest(column, self.rows.features)}")

    def values(self, column: str) -> list[Any]:
        """A column's values, such as labels; those with names as their names."""
        kind = self.rows.features[column]
        found = self.rows.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()
        names = getattr(kind, "names", None)
        return found if names is None else [None if one is None or one < 0 else names[one] for one in found]

    def __str__(self) -> str:
        return str(self.root if self.part is None else self.root / self.part)


def parts_of(root: Path) -> list[Stored]:
    """The data sets that a folder holds: one, or several by name.

    Raises:
        FedhaError: ``datasets`` is not installed, or the folder is nothing that it saved.
    """
    place = root.absolute()
    found = _load(place)
    names = list(found) if hasattr(found, "keys") else [None]
    return [Stored(place, name) for name in names]


def _load(place: Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise FedhaError("data.name is 'hub', which needs the package datasets; install fedha[hub]") from error
    if not place.is_dir():
        raise FedhaError(f"data.root is {place}, which is no folder; {SAVED}")
    try:
        return datasets.load_from_disk(str(place))
    except Exception as error:  # whatever a damaged file raises
        raise FedhaError(f"cannot read {place} as a saved data set ({brief(error)}); {SAVED}") from error


@cache
def _opened(stored: Stored) -> Any:
    found = _load(stored.root)
    return found if stored.part is None else operator.getitem(found, stored.part)


def chosen(parts: list[Stored], part: str | None) -> Stored:
    """The one of several that a config means.

    Raises:
        FedhaError: It does not say, or there is no such one.
    """
    names = [one.part for one in parts if one.part is not None]
    if part is None and len(parts) == 1:
        return parts[0]
    if part is None:
        raise FedhaError(
            f"{parts[0].root} holds {listed(names)}; name one in data.part, or leave data.domain out, and each is a "
            "domain"
        )
    if part not in names:
        raise FedhaError(f"{parts[0].root} has no part {part!r}, which data.part names{nearest(part, names)}")
    return next(one for one in parts if one.part == part)
