"""What is known of several domains' Hessians after a few exchanges: differences of any of them cost none then.

Products are linear, so all domains are asked along the same vectors, and nothing is of a pair until the end. The upper
end of a difference A: with Π the projection on what was spanned,
``|A| <= max(|Π A Π|, |(I-Π) A (I-Π)|) + |(I-Π) A Π|``. The last is known; of the middle, ``|B w| >= |B| |g|`` for a
Gaussian w with g standard normal, so that the largest of r such lengths is at least ``|B| / (f sqrt(2/pi))`` but for a
probability of ``f ** -r``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha.diagnosis.lanczos import Extremes, start_vectors
from fedha.diagnosis.party import Party, asked
from fedha.randomness import generator

DENSE = 600  # weights of a head up to which the whole Hessian is asked for
BLOCK, ROUNDS = 8, 2  # vectors and passes of the block method
_PROBES, _FACTOR = 20, 2.0  # of its upper end: fails with a probability of 2 ** -20
_RANK = 1e-8


@dataclass(frozen=True)
class Hessians:
    """Images of one and the same vectors under each domain's Hessian.

    Attributes:
        shape: Of the head, [C, D].
        images: By domain, [P, m]; whole Hessians where nothing was spanned.
        spanned: An orthonormal basis, [P, r], the first of the vectors; the others are probes outside of it. None: the
            vectors are all unit vectors.
        exchanges: That it took.
    """

    shape: tuple[int, int]
    images: Mapping[str, Tensor]
    spanned: Tensor | None
    exchanges: int

    @property
    def rule(self) -> str:
        """What gives the upper ends."""
        return "exact, to rounding" if self.spanned is None else "block, probed"

    def of(self, party: Party) -> Tensor:
        """A domain's images, or those of a mean."""
        if party.name in self.images:
            return self.images[party.name]
        total = torch.zeros_like(self.images[party.parts[0].name])
        for one in party.parts:
            total = total + self.images[one.name]
        return total / len(party.parts)

    def difference(self, first: Party, second: Party, up: float = 1.0, down: float = 1.0) -> Extremes:
        """Both ends of ``up H_second - down H_first``."""
        images = up * self.of(second) - down * self.of(first)
        if self.spanned is None:
            return taken_apart(images, self.shape)
        return _ends(images, self.spanned, self.shape, self.exchanges)


def ask_whole(parties: Sequence[Party], shape: tuple[int, int]) -> Hessians:
    """Whole Hessians, in one exchange; for heads of few weights."""
    size = shape[0] * shape[1]
    unit = torch.eye(size, dtype=torch.float64).view(size, *shape)
    found = (one.reshape(size, size) for one in asked([(party, "directions", unit) for party in parties]))
    images = {party.name: (one + one.T) / 2 for party, one in zip(parties, found, strict=True)}
    return Hessians(shape, images, None, 1)


def ask_blocks(
    parties: Sequence[Party], shape: tuple[int, int], *, seed: int = 0, rounds: int = ROUNDS, block: int = BLOCK
) -> Hessians:
    """Images of a block of vectors, for where an exchange takes seconds.

    Args:
        parties: Two or more, in client order.
        shape: Of the head, [C, D].
        seed: Of the vectors.
        rounds: Times that the span is multiplied by the Hessians.
        block: Vectors that it begins with.
    """
    size, exchanges = shape[0] * shape[1], 1
    along, spanned = start_vectors(block, shape, seed, "block"), torch.zeros(size, 0, dtype=torch.float64)
    for _ in range(rounds):
        images = _images(parties, along)
        exchanges += 1
        mean = torch.stack(images).mean(0)
        spanned = _orthogonal(torch.cat([spanned, *(one - mean for one in images[:-1])], 1))
        if spanned.shape[1] == 0:
            break
        along = spanned.T.reshape(-1, *shape)
    drawn = torch.randn(size, _PROBES, dtype=torch.float64, generator=generator(seed, "diagnosis", "left"))
    last = torch.cat([spanned, _outside(spanned, drawn)], 1).T.reshape(-1, *shape)
    found = {party.name: one for party, one in zip(parties, _images(parties, last), strict=True)}
    return Hessians(shape, found, spanned, exchanges)


def taken_apart(matrix: Tensor, shape: tuple[int, int]) -> Extremes:
    """The ends of a dense symmetric matrix, [P, P]."""
    values, vectors = torch.linalg.eigh(matrix)
    high, low = float(values[-1]), float(values[0])
    slack = 1e-12 * max(abs(high), abs(low))
    top, bottom = (vectors[:, place].reshape(shape) for place in (-1, 0))
    return Extremes(high, low, high + slack, low - slack, top, bottom, 1, 0.0)


def _images(parties: Sequence[Party], along: Tensor) -> list[Tensor]:
    return [one.flatten(1).T for one in asked([(party, "directions", along) for party in parties])]


def _ends(images: Tensor, spanned: Tensor, shape: tuple[int, int], exchanges: int) -> Extremes:
    rank = spanned.shape[1]
    inside = spanned.T @ images[:, :rank]
    coupling = images[:, :rank] - spanned @ inside
    leftover = _FACTOR * (2 / torch.pi) ** 0.5 * float(_outside(spanned, images[:, rank:]).norm(dim=0).max())
    if rank == 0:
        nothing = torch.zeros(shape, dtype=torch.float64)
        return Extremes(0.0, 0.0, leftover, -leftover, nothing, nothing, exchanges, 0.0)
    values, vectors = torch.linalg.eigh((inside + inside.T) / 2)
    high, low = float(values[-1]), float(values[0])
    extra = float(torch.linalg.matrix_norm(coupling, 2))
    top, bottom = ((spanned @ vectors[:, place]).reshape(shape) for place in (-1, 0))
    ends = (max(high, leftover) + extra, min(low, -leftover) - extra)
    return Extremes(high, low, *ends, top, bottom, exchanges, extra / max(high, -low, 1e-300))


def _orthogonal(vectors: Tensor) -> Tensor:
    left, values, _ = torch.linalg.svd(vectors, full_matrices=False)
    kept: Tensor = left[:, values > _RANK * values.max().clamp_min(1e-300)]
    return kept


def _outside(spanned: Tensor, vectors: Tensor) -> Tensor:
    return vectors - spanned @ (spanned.T @ vectors)
