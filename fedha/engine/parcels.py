"""What travels between the Ray engine's driver and its workers: plain values around arrays, nothing sent twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedha.flower.tensor_array import array_record

Numbers = Mapping[str, dict[str, Any]]


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
        piece: Clients that answer at once.
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


@dataclass(frozen=True)
class Answer:
    """One client's answer.

    Attributes:
        node: Whose it is.
        records: The reply's content; None if the client failed.
        error: The client's traceback, or "".
        state: What the client must remember from now on; None if that did not change.
    """

    node: int
    records: Records | None
    error: str = ""
    state: Records | None = None


def to_records(content: RecordDict) -> Records:
    """A RecordDict's content."""
    return Records(
        {name: dict(record) for name, record in content.array_records.items()},
        {name: dict(record) for name, record in content.metric_records.items()},
        {name: dict(record) for name, record in content.config_records.items()},
    )


def to_record_dict(records: Records) -> RecordDict:
    """The RecordDict that `to_records` saw."""
    content: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {}
    content |= {name: array_record(arrays) for name, arrays in records.arrays.items()}
    content |= {name: MetricRecord(values) for name, values in records.metrics.items()}
    content |= {name: ConfigRecord(values) for name, values in records.configs.items()}
    return RecordDict(content)
