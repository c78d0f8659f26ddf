"""Predictions as rows of a file, written as they come and at once: a CSV or a Parquet file."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedha.atomic import write_parts
from fedha.errors import FedhaError

Block = Mapping[str, Sequence[Any]]  # columns of so many rows

ENDINGS = (".csv", ".parquet", ".pq")


def check_ending(path: Path) -> None:
    """Refuse what no file of predictions ends with.

    Raises:
        FedhaError: Says what one does; or Parquet cannot be written here.
    """
    if path.suffix.lower() not in ENDINGS:
        raise FedhaError(f"--output is {path}; let it end with {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    if path.suffix.lower() != ".csv":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise FedhaError(f"--output is {path}, and Parquet needs pyarrow: pip install 'fedha[table]'") from error


def write(path: Path, blocks: Iterable[Block]) -> None:
    """Write blocks of rows; the file is there when all of them are.

    Args:
        path: Its ending says in which form.
        blocks: With the same columns.
    """
    write_parts(path, (_csv if path.suffix.lower() == ".csv" else _parquet)(blocks))


def _csv(blocks: Iterable[Block]) -> Iterator[bytes]:
    head = True
    for block in blocks:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        if head:
            writer.writerow(block)
        head = False
        writer.writerows(zip(*block.values(), strict=True))
        yield out.getvalue().encode()


def _parquet(blocks: Iterable[Block]) -> Iterator[bytes]:
    import pyarrow
    from pyarrow import parquet

    sink, writer = _Sink(), None
    for block in blocks:
        table = pyarrow.table({name: list(values) for name, values in block.items()})
        if writer is None:
            writer = parquet.ParquetWriter(pyarrow.PythonFile(sink, mode="w"), table.schema)
        writer.write_table(table.cast(writer.schema))
        yield sink.taken()
    if writer is not None:
        writer.close()
    yield sink.taken()


class _Sink(io.RawIOBase):
    """What was written since it was last looked at; it only grows, so that it can go into a file that does."""

    def __init__(self) -> None:
        self._parts, self._place = list[bytes](), 0

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, content: Any) -> int:
        """Keep these bytes."""
        self._parts.append(bytes(content))
        self._place += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        """How many there were in all."""
        return self._place

    def taken(self) -> bytes:
        """Those that nobody has taken yet."""
        found = b"".join(self._parts)
        self._parts.clear()
        return found
