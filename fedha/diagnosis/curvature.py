"""Differences of head Hessians: their spectral norms as intervals, and what their top directions are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from fedha.diagnosis.lanczos import Extremes, Operator, extremes, start_vectors
from fedha.diagnosis.party import Party
from fedha.diagnosis.sample import free_dimensions
from fedha.randomness import generator

DENSE = 600  # weights of a head up to which the whole difference is taken apart
BLOCK, ROUNDS = 8, 2  # vectors and passes of the block method
_PROBES, _FACTOR = 20, 2.0  # of its upper end: fails with a probability of 2 ** -20
_RANK = 1e-8


@dataclass(frozen=True)
class Curvature:
    """The difference of two Hessians, second minus first.

    Attributes:
        first: One domain.
        second: The other.
        lower: A lower end of its spectral norm.
        upper: An upper end.
        rule: What gave the upper end.
        spectrum: Its ends, signed.
        exchanges: Products that it took.
    """

    first: str
    second: str
    lower: float
    upper: float
    rule: str
    spectrum: Extremes
    exchanges: int

    @property
    def top(self) -> Tensor:
        """A unit direction, [C, D], along which the two differ most."""
        ends = self.spectrum
        return ends.top if ends.high >= -ends.low else ends.bottom


def norms(parties: Sequence[Party], shape: tuple[int, int], *, seed: int = 0) -> list[Curvature]:
    """Of all pairs, by Lanczos through products, the pairs side by side; small heads are taken apart whole.

    Args:
        parties: Two or more, in client order.
        shape: Of the head, [C, D].
        seed: Of the random starts.
    """
    pairs = list(combinations(range(len(parties)), 2))
    if shape[0] * shape[1] <= DENSE:
        return _dense(parties, shape, pairs)
    starts = start_vectors(len(pairs), shape, seed, "pairs")
    found = extremes(differences(parties, pairs), starts, free_dimensions(shape))
    return [_told(parties[a], parties[b], one, "Lanczos polynomial") for (a, b), one in zip(pairs, found, strict=True)]


def difference(first: Party, second: Party, shape: tuple[int, int], *, seed: int = 0) -> Curvature:
    """Of one pair: second minus first."""
    return norms((first, second), shape, seed=seed)[0]


def differences(parties: Sequence[Party], pairs: Sequence[tuple[int, int]]) -> Operator:
    """Products of pairs' differences, second minus first; a domain is asked once, for the pairs that it is in."""

    def products(along: Tensor) -> Tensor:
        total = torch.zeros_like(along)
        for place, party in enumerate(parties):
            own = [row for row, pair in enumerate(pairs) if place in pair]
            signs = along.new_tensor([1.0 if pairs[row][1] == place else -1.0 for row in own])
            total[own] += signs.view(-1, *[1] * (along.dim() - 1)) * party.directions(along[own])
        return total

    return products


def whole(party: Party, shape: tuple[int, int]) -> Tensor:
    """A domain's Hessian from its products, [P, P]; for heads of few weights."""
    size = shape[0] * shape[1]
    unit = torch.eye(size, dtype=torch.float64).view(size, *shape)
    found = party.directions(unit).reshape(size, size)
    return (found + found.T) / 2


def _dense(parties: Sequence[Party], shape: tuple[int, int], pairs: Sequence[tuple[int, int]]) -> list[Curvature]:
    known = [whole(one, shape) for one in parties]
    return [
        _told(parties[a], parties[b], taken_apart(known[b] - known[a], shape), "exact, to rounding") for a, b in pairs
    ]


def taken_apart(matrix: Tensor, shape: tuple[int, int]) -> Extremes:
    """The ends of a dense symmetric matrix, [P, P]."""
    values, vectors = torch.linalg.eigh(matrix)
    high, low = float(values[-1]), float(values[0])
    slack = 1e-12 * max(abs(high), abs(low))
    top, bottom = (vectors[:, place].reshape(shape) for place in (-1, 0))
    return Extremes(high, low, high + slack, low - slack, top, bottom, 1, 0.0)


def _told(first: Party, second: Party, found: Extremes, rule: str) -> Curvature:
    upper, limit = found.norm_end, max(first.sizes.top_hessian, second.sizes.top_hessian)
    if limit < upper:  # both are positive semidefinite
        upper, rule = max(limit, found.norm), "the larger of the two"
    return Curvature(first.name, second.name, found.norm, upper, rule, found, found.steps)


def block_norms(
    parties: Sequence[Party], shape: tuple[int, int], *, seed: int = 0, rounds: int = ROUNDS, block: int = BLOCK
) -> list[Curvature]:
    """Of all pairs in a few exchanges, whatever their number: for where an exchange takes seconds.

    Products are linear, so all clients are asked along the same vectors, and nothing is of a pair until the end. The
    upper end: with Π the projection on what was spanned, ``|A| <= max(|Π A Π|, |(I-Π) A (I-Π)|) + |(I-Π) A Π|``. The
    last is known; of the middle, ``|B w| >= |B| |g|`` for a Gaussian w with g standard normal, so that the largest of r
    such lengths is at least ``|B| / (f sqrt(2/pi))`` but for a probability of ``f ** -r``.

    Args:
        parties: Two or more, in client order.
        shape: Of the head, [C, D].
        seed: Of the vectors.
        rounds: Times that the span is multiplied by the Hessians.
        block: Vectors that it begins with.
    """
    size = shape[0] * shape[1]
    asked, spanned = start_vectors(block, shape, seed, "block"), torch.zeros(size, 0, dtype=torch.float64)
    for _ in range(rounds):
        images = [one.directions(asked).flatten(1).T for one in parties]
        mean = torch.stack(images).mean(0)
        spanned = _orthogonal(torch.cat([spanned, *(one - mean for one in images[:-1])], 1))
        if spanned.shape[1] == 0:
            break
        asked = spanned.T.reshape(-1, *shape)
    probes = _outside(spanned, _gaussian(_PROBES, shape, seed))
    last = torch.cat([spanned, probes], 1).T.reshape(-1, *shape)
    final = [one.directions(last).flatten(1).T for one in parties]
    pairs = combinations(range(len(parties)), 2)
    return [
        _told(parties[a], parties[b], _block_ends(final[b] - final[a], spanned, shape, rounds + 1), "block, probed")
        for a, b in pairs
    ]


def _block_ends(images: Tensor, spanned: Tensor, shape: tuple[int, int], exchanges: int) -> Extremes:
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


def _gaussian(count: int, shape: tuple[int, int], seed: int) -> Tensor:
    return torch.randn(shape[0] * shape[1], count, dtype=torch.float64, generator=generator(seed, "diagnosis", "left"))


def _outside(spanned: Tensor, vectors: Tensor) -> Tensor:
    return vectors - spanned @ (spanned.T @ vectors)


@dataclass(frozen=True)
class Makeup:
    """What a direction in head space is made of.

    Attributes:
        classes: Of its squared length, the share of each row.
        features: The largest shares of columns, with the column's place; the last column is the bias.
    """

    classes: tuple[float, ...]
    features: tuple[tuple[int, float], ...]


def makeup(direction: Tensor, most: int = 5) -> Makeup:
    """Which classes and features a direction, [C, D], is made of."""
    squares = direction**2 / (direction**2).sum().clamp_min(1e-300)
    columns = squares.sum(0)
    order = torch.argsort(columns, descending=True, stable=True)[:most].tolist()
    return Makeup(tuple(squares.sum(1).tolist()), tuple((place, float(columns[place])) for place in order))


def curvature_ratio(source: Tensor, target: Tensor, ridge: float = 1e-3) -> float:
    """The largest value of the pencil (H_T, H_S + tau I), tau = ridge * largest eigenvalue of H_S; dense, [P, P].

    To second order what the target can lose where the source loses one nat: no radius and no units.
    """
    values, vectors = torch.linalg.eigh(source)
    largest = float(values[-1])
    if largest <= 0:
        return float("inf")
    root = vectors / (values.clamp_min(0) + ridge * largest).sqrt()
    return float(torch.linalg.eigvalsh(root.T @ target @ root)[-1])
