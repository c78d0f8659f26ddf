"""The numbers of a chunk's clients, summed over their batches."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedha.batching.rows import Batch


class Sums:
    """Sums and counts of each client's numbers."""

    def __init__(self, clients: int) -> None:
        self._totals: dict[str, Tensor] = {}
        self._batches = [0] * clients

    def add(self, batch: Batch, parts: Mapping[str, Tensor]) -> None:
        """Add the numbers of one batch, [k] each."""
        for place in range(len(self._batches))[batch.clients]:
            self._batches[place] += 1
        for name, value in parts.items():
            if name not in self._totals:
                self._totals[name] = torch.zeros(len(self._batches), dtype=torch.float64, device=value.device)
            self._totals[name][batch.clients] += value.detach()

    def means(self, given: Mapping[str, Tensor]) -> list[dict[str, float]]:
        """Each client's means over its batches; `given` numbers, [clients] each, take the place of theirs."""
        totals = {name: total.tolist() for name, total in self._totals.items()}
        fixed = {name: value.tolist() for name, value in given.items()}
        return [
            {name: values[place] / count for name, values in totals.items()}
            | {name: values[place] for name, values in fixed.items()}
            for place, count in enumerate(self._batches)
        ]
