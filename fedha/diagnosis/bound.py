"""Upper ends of ``risk_T - risk_S`` over a ball, with all constants, and what they are made of.

B1, by Taylor: the third derivative of the loss along U is a third central moment of the numbers (U z)_c under p, at
most ``range^3 / (6 sqrt 3)`` with ``range <= sqrt 2 |U| |z|``.
B2, without a third order: along a segment of the ball second derivatives change by a factor between exp(-R) and exp(R),
R = ``sqrt 2 radius max |z|``; integrated twice, ``psi_-`` and ``psi_+``.
B3, for large radii: the source is convex, the target's Hessian is at most ``lambda_max(mean z z^T) / 2``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha.diagnosis.hessians import Hessians
from fedha.diagnosis.lanczos import extremes, start_vectors
from fedha.diagnosis.party import Party, asked
from fedha.diagnosis.sample import curvature_of_loss, free_dimensions

_STEEPEST = 20.0  # R beyond which B2 says nothing
_THIRD, _SINGLE_THIRD = 2 * math.sqrt(2) / (6 * math.sqrt(3)), 1 / (6 * math.sqrt(3))


@dataclass(frozen=True)
class Bound:
    """The smallest of the three, and its parts, which add up to it.

    Attributes:
        radius: Of the ball.
        rule: B1, B2 or B3.
        total: No head of the ball has a larger difference of risks.
        risk_gap: The difference at the learned head.
        gradient: ``radius |g_T - g_S|``.
        curvature: Of the second derivatives.
        third_order: Of B1; 0 of the others.
        every: All three by rule; infinite where one says nothing.
        published: ``radius^2 |H_T - H_S| / 2`` alone, which bounds the excess at a minimum of both, up to third order.
    """

    radius: float
    rule: str
    total: float
    risk_gap: float
    gradient: float
    curvature: float
    third_order: float
    every: dict[str, float]
    published: float


@dataclass(frozen=True)
class Around:
    """Source and target at the learned head.

    Attributes:
        risk_gap: Target minus source.
        gradient: Length of the gradients' difference.
        high: An upper end of the largest eigenvalue of the Hessians' difference.
        norm: A lower end of its spectral norm.
    """

    risk_gap: float
    gradient: float
    high: float
    norm: float


def bounds(
    source: Party,
    target: Party,
    shape: tuple[int, int],
    around: Around,
    radii: Sequence[float],
    *,
    seed: int = 0,
    hessians: Hessians | None = None,
) -> list[Bound]:
    """The bounds for balls of some radii around the learned head.

    Args:
        source: S.
        target: T.
        shape: Of the head, [C, D].
        around: What is known at the learned head.
        radii: Each positive.
        seed: Of the random starts.
        hessians: What is known of the two; None: they are asked.
    """
    concave = _self_concordant(source, target, shape, radii, seed, hessians)
    return [_smallest(source, target, shape, around, radius, two) for radius, two in zip(radii, concave, strict=True)]


def _smallest(
    source: Party, target: Party, shape: tuple[int, int], around: Around, radius: float, eigenvalue: float
) -> Bound:
    slope, half = radius * around.gradient, radius**2 / 2
    third = (_SINGLE_THIRD if shape[0] == 1 else _THIRD) * (source.sizes.mean_cube + target.sizes.mean_cube) * radius**3
    flattest = curvature_of_loss(shape[0]) * target.sizes.top_moment
    parts = {
        "B1": (half * max(0.0, around.high), third),
        "B2": (half * max(0.0, eigenvalue), 0.0),
        "B3": (half * flattest, 0.0),
    }
    every = {name: around.risk_gap + slope + curved + rest for name, (curved, rest) in parts.items()}
    rule = min(every, key=every.__getitem__)
    return Bound(radius, rule, every[rule], around.risk_gap, slope, *parts[rule], every, half * around.norm)


def _self_concordant(
    source: Party, target: Party, shape: tuple[int, int], radii: Sequence[float], seed: int, hessians: Hessians | None
) -> list[float]:
    """Upper ends of the largest eigenvalue of ``psi_+ H_T - psi_- H_S`` for each radius, all side by side."""
    longest = max(source.sizes.largest, target.sizes.largest) * (1.0 if shape[0] == 1 else math.sqrt(2))
    reach = [radius * longest for radius in radii]
    near = [place for place, one in enumerate(reach) if one <= _STEEPEST]
    found = [math.inf] * len(radii)
    if not near:
        return found
    if hessians is not None:
        for place in near:
            found[place] = hessians.difference(source, target, *_factors(reach[place])).high_end
        return found
    factors = torch.tensor([_factors(reach[place]) for place in near], dtype=torch.float64)

    def products(along: Tensor) -> Tensor:
        up, down = (factors[:, side].view(-1, 1, 1) for side in (0, 1))
        theirs, ours = asked([(target, "directions", along), (source, "directions", along)])
        total: Tensor = up * theirs - down * ours
        return total

    starts = start_vectors(len(near), shape, seed, "concave")
    for place, one in zip(near, extremes(products, starts, free_dimensions(shape)), strict=True):
        found[place] = one.high_end
    return found


def _factors(reach: float) -> tuple[float, float]:
    """psi_+ and psi_-; both are 1 at 0."""
    if reach < 1e-4:
        return 1 + reach / 3 + reach**2 / 10, 1 - reach / 3
    return 2 * (math.expm1(reach) - reach) / reach**2, 2 * (math.expm1(-reach) + reach) / reach**2
