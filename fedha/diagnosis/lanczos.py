"""Both ends of a symmetric operator's spectrum from its products, as intervals.

Lanczos from a random start v: ``A V = V T + beta v_next e^T``. The ends of T lie inside A's spectrum. Outside, the
Lanczos polynomial bounds: v_next = p(A) v has length 1, so its part along the top eigenvector, p(lambda) (u v), is at
most 1. A random v has ``|u v| >= t`` but for a probability of ``t sqrt(2 n / pi)``; p grows without end above T's
largest value, so lambda is no larger than the x with p(x) = 1 / t. Nothing is asked of A's definiteness. With full
reorthogonalisation this holds up to rounding.

Source: van Dorsselaer, Hochstenbach and van der Vorst, "Computing probabilistic bounds for extreme eigenvalues of
symmetric matrices with the Lanczos method", SIAM J. Matrix Anal. 2001; derived above.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha.randomness import generator

Operator = Callable[[Tensor], Tensor]  # [m, ...] to [m, ...]; each row may be of an operator of its own

LEAST = 5  # steps
FAILURE = 1e-6  # probability with which an end lies outside its interval
_GONE = 1e-12  # a remainder that is rounding: what was found is an invariant subspace


@dataclass(frozen=True)
class Extremes:
    """The ends of a spectrum.

    Attributes:
        high: A lower end of the largest eigenvalue.
        low: An upper end of the smallest one.
        high_end: An upper end of the largest.
        low_end: A lower end of the smallest.
        top: A unit vector whose quotient is `high`.
        bottom: A unit vector whose quotient is `low`.
        steps: Products that it took.
        residual: Of the end that is larger in size, relative to it.
    """

    high: float
    low: float
    high_end: float
    low_end: float
    top: Tensor
    bottom: Tensor
    steps: int
    residual: float

    @property
    def norm(self) -> float:
        """A lower end of the spectral norm."""
        return max(self.high, -self.low, 0.0)

    @property
    def norm_end(self) -> float:
        """An upper end of the spectral norm."""
        return max(self.high_end, -self.low_end, 0.0)


def start_vectors(count: int, shape: tuple[int, ...], seed: int, *key: int | str) -> Tensor:
    """Random unit vectors, [count, ...]; of a head with several rows, with sums of zero over the rows."""
    drawn = torch.randn(count, *shape, dtype=torch.float64, generator=generator(seed, "diagnosis", *key))
    if len(shape) == 2 and shape[0] > 1:
        drawn = drawn - drawn.mean(1, keepdim=True)
    units: Tensor = drawn / drawn.flatten(1).norm(dim=1).view(-1, *[1] * len(shape))
    return units


def extremes(
    products: Operator,
    starts: Tensor,
    dimensions: int,
    *,
    steps: int = 40,
    tolerance: float = 1e-3,
    width: float = 0.05,
) -> list[Extremes]:
    """The ends of several operators' spectra, all of them with each exchange.

    Args:
        products: Of the i-th operator with the i-th vector; rows that have converged are still asked for, as zeros.
        starts: Random unit vectors of the space, [m, ...].
        dimensions: Of the space that the starts are drawn from.
        steps: At most.
        tolerance: An operator is done where the residual of its dominant end is so small beside it.
        width: And where the interval of that end is so wide beside it.

    Returns:
        Of each operator, in the order of the starts.
    """
    shape, count = starts.shape[1:], len(starts)
    basis = [starts.flatten(1)]
    alphas: list[list[float]] = [[] for _ in range(count)]
    betas: list[list[float]] = [[] for _ in range(count)]
    open_ones = torch.ones(count, dtype=torch.bool)
    for number in range(1, min(steps, dimensions) + 1):
        image = products(basis[-1].view(count, *shape)).flatten(1)
        stacked = torch.stack(basis, 1)
        own = (image * basis[-1]).sum(1)
        for _ in range(2):
            image = image - ((stacked @ image[:, :, None])[:, :, 0][:, None] @ stacked)[:, 0]
        left = image.norm(dim=1)
        for place in torch.nonzero(open_ones)[:, 0].tolist():
            alphas[place].append(float(own[place]))
            betas[place].append(float(left[place]))
            size, residual = _dominant(alphas[place], betas[place])
            ended = betas[place][-1] <= _GONE * max(size, 1e-300)
            open_ones[place] = not (
                ended
                or (
                    number >= LEAST
                    and residual <= tolerance
                    and _width(alphas[place], betas[place], dimensions) <= width
                )
            )
        if not bool(open_ones.any()):
            break
        basis.append(torch.where(open_ones[:, None], image / left.clamp_min(1e-300)[:, None], 0.0))
    return [
        _read(alphas[place], betas[place], [one[place] for one in basis], shape, dimensions) for place in range(count)
    ]


def tridiagonal(alphas: list[float], betas: list[float]) -> Tensor:
    """Lanczos's matrix, [k, k]; the last remainder is not part of it."""
    inside = torch.tensor(betas[: len(alphas) - 1], dtype=torch.float64)
    return torch.diag(torch.tensor(alphas, dtype=torch.float64)) + torch.diag(inside, 1) + torch.diag(inside, -1)


def _dominant(alphas: list[float], betas: list[float]) -> tuple[float, float]:
    """The size of the dominant end, and the worse residual of the ends beside it."""
    values, vectors = torch.linalg.eigh(tridiagonal(alphas, betas))
    size = float(values.abs().max())
    worst = betas[-1] * float(vectors[-1, [0, -1]].abs().max())
    return size, worst / size if size > 0 else 0.0


def _width(alphas: list[float], betas: list[float], dimensions: int) -> float:
    """How much wider the interval of the spectral norm is than the norm."""
    values = torch.linalg.eigvalsh(tridiagonal(alphas, betas))
    high, low = float(values[-1]), float(values[0])
    norm = max(high, -low, 1e-300)
    above = _outer(alphas, betas, high, dimensions)
    below = _outer([-one for one in alphas], betas, -low, dimensions)
    return max(above, below) / norm - 1


def _read(alphas: list[float], betas: list[float], basis: list[Tensor], shape: torch.Size, dimensions: int) -> Extremes:
    values, vectors = torch.linalg.eigh(tridiagonal(alphas, betas))
    size, residual = _dominant(alphas, betas)
    known = torch.stack(basis[: len(alphas)])
    high, low = float(values[-1]), float(values[0])
    if len(alphas) >= dimensions or betas[-1] <= _GONE * max(size, 1e-300):
        slack = 1e-12 * size
        high_end, low_end = high + slack, low - slack
    else:
        high_end = _outer(alphas, betas, high, dimensions)
        low_end = -_outer([-one for one in alphas], betas, -low, dimensions)
    top, bottom = (known.T @ vectors[:, place] for place in (-1, 0))
    return Extremes(high, low, high_end, low_end, top.view(shape), bottom.view(shape), len(alphas), residual)


def _outer(alphas: list[float], betas: list[float], ritz: float, dimensions: int) -> float:
    """Where the Lanczos polynomial reaches what a random start allows, above its largest root."""
    wanted = -math.log(FAILURE / 2 * math.sqrt(math.pi / (2 * dimensions)))  # each end with half of the probability
    scale = max(abs(ritz), max(betas), 1e-300)
    step = 1e-12 * scale
    while _log_polynomial(alphas, betas, ritz + step) < wanted:
        step *= 2
    inside, outside = step / 2, step
    for _ in range(40):
        middle = (inside + outside) / 2
        inside, outside = (
            (middle, outside) if _log_polynomial(alphas, betas, ritz + middle) < wanted else (inside, middle)
        )
    return ritz + outside


def _log_polynomial(alphas: list[float], betas: list[float], at: float) -> float:
    """The logarithm of p_k at a point above its roots, by the ratios of neighbouring polynomials."""
    total, ratio = 0.0, math.inf
    for place, (alpha, beta) in enumerate(zip(alphas, betas, strict=True)):
        ratio = (at - alpha - (betas[place - 1] / ratio if place else 0.0)) / beta
        if ratio <= 0:  # below a root: rounding at the root itself
            return -math.inf
        total += math.log(ratio)
    return total
