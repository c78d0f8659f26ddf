"""Array records in Ray's object store: put there once, however many clients and exchanges they go to."""

from collections.abc import Iterable
from typing import Any

import ray
from flwr.app import ArrayRecord


class Broadcast:
    """Numbers for array records; a record that is sent again, as the model is within a round, keeps its number."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[ArrayRecord, int, Any]] = {}  # by identity, which holding the record keeps unique
        self._refs: dict[int, Any] = {}
        self._count = 0
        self.puts = 0

    def number(self, record: ArrayRecord) -> int:
        """The record's number; puts it into the object store if it is new."""
        known = self._known.get(id(record))
        if known is None:
            self._count += 1
            known = self._known[id(record)] = (record, self._count, ray.put(dict(record)))
            self._refs[self._count] = known[2]
            self.puts += 1
        return known[1]

    def ref(self, number: int) -> Any:
        """Where a record is in the object store."""
        return self._refs[number]

    def keep(self, numbers: Iterable[int]) -> None:
        """Forget all other records."""
        wanted = set(numbers)
        self._known = {key: known for key, known in self._known.items() if known[1] in wanted}
        self._refs = {known[1]: known[2] for known in self._known.values()}
