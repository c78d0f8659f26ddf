"""Which examples of which clients one step takes."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from fedha.config import LocalConfig
from fedha.exchange import Request
from fedha.minibatches import minibatch_sizes, minibatches, shuffled_rows


@dataclass(frozen=True)
class Batch:
    """The same number of rows of each of k neighbouring clients of a chunk.

    Attributes:
        clients: Their places in the chunk.
        rows: b, rows a client.
        flat: Places of the rows among the chunk's ``clients x examples``, [k * b]; None: all of them, in order.
        weights: What each row counts in its client's mean, [k, b], 0 for padding; None: 1 / b each.
    """

    clients: slice
    rows: int
    flat: Tensor | None = None
    weights: Tensor | None = None

    def take(self, stacked: Tensor) -> Tensor:
        """These rows of a tensor [chunk, examples, ...]: [k, b, ...]."""
        if self.flat is None:
            return stacked[self.clients]
        rows = stacked.flatten(0, 1).index_select(0, self.flat)
        return rows.view(-1, self.rows, *stacked.shape[2:])

    def mean(self, values: Tensor) -> Tensor:
        """Each client's mean over its rows: [k, b] to [k]."""
        if self.weights is None:
            return values.mean(1)
        return (values * self.weights.to(values.dtype)).sum(1)


def runs(keys: Sequence[Hashable]) -> Iterator[tuple[slice, Hashable]]:
    """Neighbours with equal keys, as slices, in order."""
    place = 0
    for key, members in groupby(keys):
        length = len(list(members))
        yield slice(place, place + length), key
        place += length


def whole(sizes: Sequence[int], pad: bool, device: torch.device) -> list[Batch]:
    """All examples of every client, as few batches as possible.

    Args:
        sizes: Examples of each client, largest first.
        pad: Take clients of different sizes together, with weights; otherwise one batch for each size.
        device: Where the data are.
    """
    return _batches([torch.arange(size) for size in sizes], max(sizes), pad, device)


def steps(
    sizes: Sequence[int], client_ids: Sequence[int], request: Request, pad: bool, device: torch.device
) -> Iterator[tuple[list[Batch], list[slice]]]:
    """Each local step: its batches, and the clients for whom it is the last.

    Args:
        sizes: Examples of each client, largest first.
        client_ids: The clients' places in client order, which decide what is drawn.
        request: Of the round.
        pad: As in `whole`.
        device: Where the data are.
    """
    local = request.task.training.local
    if sizes[0] == sizes[-1]:
        yield from _even_steps(local, sizes[0], client_ids, request, device)
        return
    everything = torch.arange(sizes[0])
    drawn = [
        [everything[:size] if rows is None else rows for rows in minibatches(request, size, index)]
        for size, index in zip(sizes, client_ids, strict=True)
    ]
    lengths = [len(one) for one in drawn]
    for number in range(max(lengths)):
        rows = [one[number] if number < len(one) else everything[:0] for one in drawn]
        ending = [clients for clients, length in runs(lengths) if length == number + 1]
        yield _batches(rows, max(sizes), pad, device), ending


def _even_steps(
    local: LocalConfig, size: int, client_ids: Sequence[int], request: Request, device: torch.device
) -> Iterator[tuple[list[Batch], list[slice]]]:
    """The steps of clients with as many examples each: what all of them draw is cut at once."""
    everybody = slice(0, len(client_ids))
    widths = minibatch_sizes(local, size, request.task.recipe.least_examples)
    flats: list[Tensor | None] = [None] * len(widths)
    if widths[0] < size:
        orders = torch.stack([shuffled_rows(widths, size, request, index) for index in client_ids])
        starts = torch.arange(len(client_ids))[:, None] * size
        flats = [rows.flatten().to(device) for rows in (starts + orders).split(widths, 1)]
    for number, (width, flat) in enumerate(zip(widths, flats, strict=True), 1):
        yield [Batch(everybody, width, flat)], [everybody] if number == len(widths) else []


def _batches(rows: Sequence[Tensor], examples: int, pad: bool, device: torch.device) -> list[Batch]:
    counts = [len(one) for one in rows]
    keys = [bool(count) for count in counts] if pad else counts
    return [_batch(clients, rows[clients], counts[clients], examples, device) for clients, key in runs(keys) if key]


def _batch(clients: slice, rows: Sequence[Tensor], counts: Sequence[int], examples: int, device: torch.device) -> Batch:
    longest = max(counts)
    starts = torch.arange(clients.start, clients.stop)[:, None] * examples
    if min(counts) == longest:
        index = torch.stack(list(rows))
        if longest == examples and bool((index == torch.arange(examples)).all()):
            return Batch(clients, longest)
        return Batch(clients, longest, (starts + index).flatten().to(device))
    index = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)  # padding is row 0 again, with no weight
    own = torch.tensor(counts)[:, None]
    weights = (torch.arange(longest) < own) / own.double()
    return Batch(clients, longest, (starts + index).flatten().to(device), weights.to(device))
