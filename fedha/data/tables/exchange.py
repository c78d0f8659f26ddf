"""A site's sums as a file that a person looks at, sends and puts together with others'."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fedha.data.tables.statistics import ColumnStatistics, Needs, Sums, pooled
from fedha.errors import FedhaError
from fedha.jsonfile import parse_json
from fedha.schema import explained

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Column(BaseModel):
    model_config = _STRICT

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    categories: list[str] | None = None
    missing: bool = False


class _File(BaseModel):
    model_config = _STRICT

    columns: dict[str, _Column]


def to_text(sums: Mapping[str, Sequence[Sums]]) -> str:
    """A site's sums as JSON.

    Args:
        sums: Of each column, one of each source.
    """
    columns = {}
    for name, some in sums.items():
        whole = some[0]
        for one in some[1:]:
            whole = whole.plus(one)
        numbers = {"count": whole.count, "mean": whole.mean, "squares": whole.squares}
        kind: dict[str, Any] = numbers if whole.categories is None else {"categories": sorted(whole.categories)}
        columns[name] = {**kind, "missing": whole.missing}
    return json.dumps({"columns": columns}, indent=1, ensure_ascii=False) + "\n"


def merged(files: Sequence[Path], needs: Needs) -> dict[str, ColumnStatistics]:
    """The statistics that several sites' files make together.

    Args:
        files: As `to_text` wrote them.
        needs: What of the sums is known.

    Raises:
        FedhaError: A file cannot be read or is none, or sites have other columns, or another kind of one.
    """
    read = [_read(path) for path in files]
    for path, one in zip(files[1:], read[1:], strict=True):
        if list(one) != list(read[0]):
            raise FedhaError(f"{path} has the columns {', '.join(one)}, but {files[0]} has {', '.join(read[0])}")
        for name, column in one.items():
            if (column.categories is None) != (read[0][name].categories is None):
                raise FedhaError(
                    f"column {name!r} has categories in one of {files[0]} and {path}, numbers in the other"
                )
    return {name: pooled(name, [one[name] for one in read], needs) for name in read[0]}


def _read(path: Path) -> dict[str, Sums]:
    try:
        found = _File.model_validate(parse_json(path.read_bytes()))
    except OSError as error:
        raise FedhaError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise explained(error, _File, str(path)) from error
    except ValueError as error:
        raise FedhaError(f"{path} is no JSON: {error}; make it again with `fedha data statistics --own`") from error
    return {
        name: Sums(
            one.count,
            one.mean,
            one.squares,
            None if one.categories is None else frozenset(one.categories),
            one.missing,
        )
        for name, one in found.columns.items()
    }


def declared(statistics: Mapping[str, ColumnStatistics]) -> dict[str, Any]:
    """Statistics as a config declares them."""
    return {
        name: one.model_dump(exclude_defaults=True) or {"mean": one.mean, "deviation": one.deviation}
        for name, one in statistics.items()
    }
