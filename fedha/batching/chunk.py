"""As many clients at once as stay in the cache, or fit the GPU's memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fedha.exchange import Request
from fedha.targets import softening
from fedha.training import Holder

_LEAST_FILLED = 0.75  # the smallest client of a chunk has at least this share of the largest one's examples
_CACHE_UNKNOWN = 8 * 2**20


@dataclass(frozen=True)
class Chunk:
    """Clients that are computed at once, larger ones first.

    Attributes:
        places: Their places in what the caller gave.
        clients: k of them.
        averaging_weights: Each one's weight in the averages.
        inputs: Training inputs, [k, n, ...], n of the largest; zeros beyond a client's own.
        labels: [k, n], likewise, or soft targets, [k, n, C].
    """

    places: tuple[int, ...]
    clients: tuple[Holder, ...]
    averaging_weights: tuple[float, ...]
    inputs: Tensor
    labels: Tensor

    @property
    def kept(self) -> list[Tensor]:
        """Each client's inputs as they are held: what is made of them is known by them."""
        return [client.domain.train.inputs for client in self.clients]

    @property
    def sizes(self) -> list[int]:
        """Training examples of each client."""
        return [len(client.domain.train) for client in self.clients]


def group(sizes: Sequence[int], bytes_each: Callable[[int], int], budget: int, ordered: bool = True) -> list[list[int]]:
    """Split clients into chunks of like size that fit a budget; at least one client each.

    Args:
        sizes: Examples of each client.
        bytes_each: Memory of one client of so many examples.
        budget: Bytes of a chunk.
        ordered: Sort larger clients first; otherwise keep the order and let sizes differ.

    Returns:
        Places in `sizes`, chunk by chunk.
    """
    places = sorted(range(len(sizes)), key=lambda place: -sizes[place]) if ordered else range(len(sizes))
    chunks: list[list[int]] = []
    held = 0
    for place in places:
        size = bytes_each(sizes[place])
        first = sizes[chunks[-1][0]] if chunks else 0
        if not chunks or held + size > budget or (ordered and sizes[place] < _LEAST_FILLED * first):
            chunks.append([])
            held = 0
        chunks[-1].append(place)
        held += size
    return chunks


def stack(clients: Sequence[Holder], requests: Sequence[Request], places: Sequence[int]) -> Chunk:
    """The training data of the clients in these places, side by side."""
    members = [clients[place] for place in places]
    parts = [client.domain.train for client in members]
    averaging_weights = tuple(requests[place].averaging_weight for place in places)
    training, model = requests[0].task.training, clients[0].model
    inputs = _side_by_side([part.take() for part in parts])
    labels = _side_by_side([softening(training, model, part)(part.labels) for part in parts])
    return Chunk(tuple(places), tuple(members), averaging_weights, inputs, labels)


def budget(device: torch.device) -> int:
    """Bytes that a chunk may work on: the last cache, shared by the cores that share it, or a GPU's free memory."""
    return _gpu_budget(device) if device.type == "cuda" else cache_bytes()


@cache
def cache_bytes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """This core's part of its largest cache, but not less than the largest cache that is its own."""
    parts = [_part(folder) for folder in root.glob("index*")]
    return max((part for part in parts if part), default=_CACHE_UNKNOWN)


def _part(folder: Path) -> int:
    try:
        if (folder / "type").read_text().strip() == "Instruction":
            return 0
        size, cores = (folder / "size").read_text().strip(), (folder / "shared_cpu_list").read_text().strip()
        unit = {"K": 2**10, "M": 2**20, "G": 2**30}[size[-1]]
        return int(size[:-1]) * unit // sum(_count(piece) for piece in cores.split(","))
    except (OSError, ValueError, KeyError, IndexError):
        return 0  # no such file, or a kernel that writes it otherwise


def _count(piece: str) -> int:
    first, _, last = piece.partition("-")
    return int(last or first) - int(first) + 1


def _gpu_budget(device: torch.device) -> int:
    """A quarter of what this process may still take: graphs and updates come beside the chunk."""
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device.index)  # which refuses a device without a number
    allowed = share * total - torch.cuda.memory_allocated(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(min(free + held, allowed) / 4)


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    if len({len(part) for part in parts}) == 1:
        return torch.stack(list(parts))
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
