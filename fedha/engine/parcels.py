"""What travels between the Ray engine's driver and its workers: plain values around arrays, nothing sent twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedha.flower.tensor_array import filled

Numbers = Mapping[str, dict[str, Any]]

TOGETHER = 256  # clients are trained together up to here: more gain nothing, and a hung one is found later


@dataclass(frozen=True)
class Records:
    """A RecordDict's content, cheap to pickle.

    Attributes:
        arrays: By record and name.
        metrics: By record.
        configs: By record.
    """

    arrays: Mapping[str, dict[str, Array]]
    metrics: Numbers
    configs: Numbers


@dataclass(frozen=True)
class Content:
    """A message's content whose arrays are known to the worker by a number.

    Attributes:
        arrays: Number of each record of arrays.
        metrics: By record.
        configs: By record.
    """

    arrays: Mapping[str, int]
    metrics: Numbers
    configs: Numbers


@dataclass(frozen=True)
class Call:
    """One exchange with all clients of a worker.

    Attributes:
        kind: The message type.
        group_id, created_at, ttl: What the messages' metadata have in common.
        contents: The distinct contents; most exchanges have one.
        nodes: Each node, its message's id, and which content is its.
        fresh: The numbers of the array records that come along; the worker has the others since its last call.
        together: Whether the worker may train clients together.
        piece: Clients that may be trained together; their answers travel at once.
        parcel: Of those that are answered one by one, how many answers travel at once.
    """

    kind: str
    group_id: str
    created_at: float
    ttl: float
    contents: Sequence[Content]
    nodes: Sequence[tuple[int, str, int]]
    fresh: Sequence[int]
    together: bool
    piece: int
    parcel: int


@dataclass(frozen=True)
class Answer:
    """One client's answer.

    Attributes:
        node: Whose it is.
        records: The reply's content.
        state: What the client must remember from now on; None if that did not change.
        note: Why the worker could not put clients together, where it should have; mostly "".
    """

    node: int
    records: Records
    state: Records | None = None
    note: str = ""


def even(count: int, most: int) -> int:
    """The size of equal pieces of at most so many; a small last one would cost nearly as much as a large one."""
    return -(-count // -(-count // most))


def to_records(content: RecordDict) -> Records:
    """A RecordDict's content."""
    return Records(*(of_kind(content, kind) for kind in (ArrayRecord, MetricRecord, ConfigRecord)))


def of_kind(content: RecordDict, kind: type[Any]) -> dict[str, dict[str, Any]]:
    """The records of a kind as plain dictionaries."""
    return {name: dict(record) for name, record in content.items() if isinstance(record, kind)}


def to_record_dict(records: Records) -> RecordDict:
    """The RecordDict that `to_records` saw."""
    content: dict[str, Any] = {}
    content |= {name: filled(ArrayRecord(), arrays) for name, arrays in records.arrays.items()}
    content |= {name: filled(MetricRecord(), values) for name, values in records.metrics.items()}
    content |= {name: filled(ConfigRecord(), values) for name, values in records.configs.items()}
    return filled(RecordDict(), content)
