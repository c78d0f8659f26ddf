"""Differences of head Hessians: their spectral norms as intervals, and what their top directions are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from fedha.diagnosis.hessians import BLOCK, ROUNDS, Hessians, ask_blocks, ask_whole
from fedha.diagnosis.lanczos import Extremes, Operator, extremes, start_vectors
from fedha.diagnosis.party import Party, asked
from fedha.diagnosis.sample import free_dimensions
from fedha.diagnosis.settings import Products

RIDGE = 1e-3  # of the source's largest curvature, below which a direction is taken for flat
_HELD = 2**24  # numbers of directions that are held at once
_LEAST_STEPS, _CLOSE, _GONE = 5, 1e-3, 1e-12  # residuals of a pencil, relative: close to an end, and rounding alone
DENSE = 600  # weights of a head up to which the whole difference is taken apart


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


def known(parties: Sequence[Party], shape: tuple[int, int], products: Products, *, seed: int = 0) -> Hessians | None:
    """What is asked of Hessians once, before any difference is; None where each difference asks for itself.

    Args:
        parties: Two or more domains, no means.
        shape: Of the head, [C, D].
        products: How larger heads are asked.
        seed: Of the vectors.
    """
    if shape[0] * shape[1] <= DENSE:
        return ask_whole(parties, shape)
    return ask_blocks(parties, shape, seed=seed) if products == "block" else None


def norms(
    parties: Sequence[Party], shape: tuple[int, int], *, seed: int = 0, hessians: Hessians | None = None
) -> list[Curvature]:
    """Of all pairs, by Lanczos through products, the pairs side by side; small heads are taken apart whole.

    Args:
        parties: Two or more, in client order.
        shape: Of the head, [C, D].
        seed: Of the random starts.
        hessians: What is known of these domains; None: they are asked.
    """
    pairs = list(combinations(range(len(parties)), 2))
    if hessians is None and shape[0] * shape[1] <= DENSE:
        hessians = ask_whole(parties, shape)
    if hessians is not None:
        return [_known_pair(hessians, parties[a], parties[b]) for a, b in pairs]
    starts = start_vectors(len(pairs), shape, seed, "pairs")
    found = extremes(differences(parties, pairs), starts, free_dimensions(shape))
    return [_told(parties[a], parties[b], one, "Lanczos polynomial") for (a, b), one in zip(pairs, found, strict=True)]


def difference(
    first: Party, second: Party, shape: tuple[int, int], *, seed: int = 0, hessians: Hessians | None = None
) -> Curvature:
    """Of one pair: second minus first."""
    return norms((first, second), shape, seed=seed, hessians=hessians)[0]


def differences(parties: Sequence[Party], pairs: Sequence[tuple[int, int]]) -> Operator:
    """Products of pairs' differences, second minus first; a domain is asked once, for the pairs that it is in."""

    def products(along: Tensor) -> Tensor:
        total = torch.zeros_like(along)
        rows = [[row for row, pair in enumerate(pairs) if place in pair] for place in range(len(parties))]
        answers = asked([(party, "directions", along[own]) for party, own in zip(parties, rows, strict=True)])
        for place, (own, images) in enumerate(zip(rows, answers, strict=True)):
            signs = along.new_tensor([1.0 if pairs[row][1] == place else -1.0 for row in own])
            total[own] += signs.view(-1, *[1] * (along.dim() - 1)) * images
        return total

    return products


def whole(party: Party, shape: tuple[int, int]) -> Tensor:
    """A domain's Hessian from its products, [P, P]; for heads of few weights."""
    return ask_whole([party], shape).images[party.name]


def _known_pair(hessians: Hessians, first: Party, second: Party) -> Curvature:
    return _told(first, second, hessians.difference(first, second), hessians.rule)


def _told(first: Party, second: Party, found: Extremes, rule: str) -> Curvature:
    upper, limit = found.norm_end, max(first.sizes.top_hessian, second.sizes.top_hessian)
    if limit < upper:  # both are positive semidefinite
        upper, rule = max(limit, found.norm), "the larger of the two"
    return Curvature(first.name, second.name, found.norm, upper, rule, found, found.steps)


def block_norms(
    parties: Sequence[Party], shape: tuple[int, int], *, seed: int = 0, rounds: int = ROUNDS, block: int = BLOCK
) -> list[Curvature]:
    """Of all pairs in a few exchanges, whatever their number; arguments as `fedha.diagnosis.hessians.ask_blocks`."""
    found = ask_blocks(parties, shape, seed=seed, rounds=rounds, block=block)
    return norms(parties, shape, hessians=found)


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


def curvature_ratio(source: Tensor, target: Tensor, ridge: float = RIDGE) -> float:
    """The largest value of the pencil (H_T, H_S + tau I), tau = ridge * largest eigenvalue of H_S; dense, [P, P].

    To second order what the target can lose where the source loses one nat: no radius and no units.
    """
    values, vectors = torch.linalg.eigh(source)
    largest = float(values[-1])
    if largest <= 0:
        return float("inf")
    root = vectors / (values.clamp_min(0) + ridge * largest).sqrt()
    return float(torch.linalg.eigvalsh(root.T @ target @ root)[-1])


def curvature_ratio_at_least(
    source: Party, target: Party, shape: tuple[int, int], *, seed: int = 0, ridge: float = RIDGE, steps: int = 150
) -> float:
    """The same from products alone, for heads of any size: a lower end, close where the last residual is small.

    Generalised Davidson steps without a preconditioner: directions are added along the residual of the best one so far,
    and the pencil is solved in their span, so no system with H_S + tau I is.

    Args:
        source: S.
        target: T.
        shape: Of the head, [C, D].
        seed: Of the random starts.
        ridge: As in `curvature_ratio`.
        steps: Products at most.
    """
    free = free_dimensions(shape)
    largest = extremes(source.directions, start_vectors(1, shape, seed, "top"), free)[0].high
    if largest <= 0:
        return float("inf")
    added, best = start_vectors(1, shape, seed, "pencil"), 0.0
    basis, theirs, ours = (added.new_zeros(0, added.numel()) for _ in range(3))
    for _ in range(min(steps, free, max(8, _HELD // added.numel()))):
        added = added / added.norm()
        basis = torch.cat([basis, added.flatten(1)])
        theirs = torch.cat([theirs, target.directions(added).flatten(1)])
        ours = torch.cat([ours, (source.directions(added) + ridge * largest * added).flatten(1)])
        root = torch.linalg.cholesky(_even(basis @ ours.T))
        inner = torch.linalg.solve_triangular(root, _even(basis @ theirs.T), upper=False)
        values, vectors = torch.linalg.eigh(_even(torch.linalg.solve_triangular(root, inner.T, upper=False)))
        best = float(values[-1])
        mix = torch.linalg.solve_triangular(root.T, vectors[:, -1:], upper=True)[:, 0]
        scale, residual = best * (mix @ ours), mix @ theirs
        residual = residual - scale
        close = _CLOSE if len(basis) > _LEAST_STEPS else _GONE
        if float(residual.norm()) <= close * float(scale.norm()):
            break
        for _ in range(2):
            residual = residual - (basis @ residual) @ basis
        added = residual.view(1, *shape)
    return best


def _even(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
