"""Where clients' updates go: a row for each of them, or one weighted sum of all.

Both take what was computed client by client: differences, gradients, and products of coefficients with inputs. Clients
are places in a chunk; `finite` has a number for each of them that is not finite if an entry of its update was not.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Updates(Protocol):
    """The updates of a chunk's clients, by parameter name."""

    finite: Tensor

    def difference(self, name: str, start: Tensor, now: Tensor, clients: slice) -> None:
        """Take ``start - now`` of some clients: [...] and [j, ...]."""

    def values(self, name: str, values: Tensor, clients: slice) -> None:
        """Take some clients' values, [j, ...]."""

    def product(self, name: str, left: Tensor, right: Tensor, rest: Tensor | None, clients: slice) -> None:
        """Take ``left^T right + rest`` of some clients: [j, n, H], [j, n, F] and, the same for all, [H, F]."""


class Rows:
    """A row for each client.

    Args:
        rows: Where to write, by parameter name, [k, ...] each.
    """

    def __init__(self, rows: Mapping[str, Tensor]) -> None:
        self._rows = rows
        some = next(iter(rows.values()))
        self.finite = some.new_zeros(len(some))

    def difference(self, name: str, start: Tensor, now: Tensor, clients: slice) -> None:
        """As `Updates`."""
        self._note(torch.sub(start, now, out=self._rows[name][clients]), clients)

    def values(self, name: str, values: Tensor, clients: slice) -> None:
        """As `Updates`."""
        self._note(self._rows[name][clients].copy_(values), clients)

    def product(self, name: str, left: Tensor, right: Tensor, rest: Tensor | None, clients: slice) -> None:
        """As `Updates`; whoever multiplies has noted before whether the product is finite."""
        target = self._rows[name][clients]
        torch.bmm(left.transpose(1, 2), right, out=target)
        if rest is not None:
            target.add_(rest)

    def _note(self, values: Tensor, clients: slice) -> None:
        self.finite[clients] += values.flatten(1).sum(1)


class WeightedSum:
    """The clients' sum, each times its weight; no client's own update is ever held.

    Args:
        total: What to add to, by parameter name.
        weights: Of the chunk's clients, [k].
    """

    def __init__(self, total: Mapping[str, Tensor], weights: Tensor) -> None:
        self._total, self._weights = total, weights
        self.finite = torch.zeros_like(weights)

    def difference(self, name: str, start: Tensor, now: Tensor, clients: slice) -> None:
        """As `Updates`."""
        self.values(name, start - now, clients)

    def values(self, name: str, values: Tensor, clients: slice) -> None:
        """As `Updates`."""
        flat = values.flatten(1)
        self.finite[clients] += flat.sum(1)
        self._total[name].view(-1).addmv_(flat.T, self._weights[clients])

    def product(self, name: str, left: Tensor, right: Tensor, rest: Tensor | None, clients: slice) -> None:
        """As `Updates`: one product for all clients, their examples one after the other."""
        weights = self._weights[clients]
        weighed = (left * weights[:, None, None]).flatten(0, 1)
        self._total[name].addmm_(weighed.T, right.flatten(0, 1))
        if rest is not None:
            self._total[name].add_(rest * weights.sum())
