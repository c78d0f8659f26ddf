"""A discriminator that adds up steps along the coordinates, few of them, trained with sums of gradients alone.

An edge of a domain's support, or of an interval of some pixel's, is one step; what is smooth in the coordinates cannot
be as steep. A penalty on the steps' heights leaves all but a few at zero, so that coordinates which tell nothing add no
noise: log-loss plus the heights' absolute sum, by proximal gradient steps with momentum that starts afresh where it
overshoots (Beck and Teboulle, SIAM J. Imaging Sci. 2009; O'Donoghue and Candes, Found. Comput. Math. 2015).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EDGES = 64  # of each coordinate, at its quantiles
PENALTIES = (0.03, 0.02, 0.014, 0.01, 0.007, 0.005, 0.0035, 0.0025)
_ITERATIONS, _STILL = 60, 1e-4
_LOOKED_AT = 20_000  # examples that edges are taken from
_SAFETY = 1.05

Answer = Callable[[Tensor, float], tuple[Tensor, Tensor]]  # heights [d, B] and a constant to gradients of both


def edges(points: Tensor, most: int = EDGES) -> list[Tensor]:
    """Where each coordinate may have steps: between its values, at quantiles.

    Args:
        points: Of both domains, [n, d].
        most: Of a coordinate.
    """
    shares = torch.linspace(0, 1, most + 2, dtype=points.dtype)[1:-1]
    looked = points[:: max(1, len(points) // _LOOKED_AT)]
    found = torch.quantile(looked, shares, dim=0).T
    return [torch.unique(one) for one in found]


def places(points: Tensor, steps: Sequence[Tensor]) -> Tensor:
    """How many steps of each coordinate a point has behind it, [n, d]."""
    columns = [torch.bucketize(one.contiguous(), edge, right=True) for one, edge in zip(points.T, steps, strict=True)]
    return torch.stack(columns, 1)


@dataclass(frozen=True)
class Stairs:
    """Heights of the steps.

    Attributes:
        heights: [d, B]; each is added where a point is behind the step, and taken away where it is before.
        constant: Of the score.
    """

    heights: Tensor
    constant: float

    def scores(self, placed: Tensor) -> Tensor:
        """Log-odds of the second domain, [n]; `placed` as `places` gives it."""
        used = torch.nonzero(self.heights.any(1))[:, 0]
        levels = _levels(self.heights[used])
        offsets = torch.arange(len(used)) * levels.shape[1]
        return levels.flatten()[placed[:, used] + offsets].sum(1) + self.constant


def answers(placed: Tensor, sides: Tensor, weights: Tensor, count: int) -> Answer:
    """What one domain answers: sums of its examples' gradients.

    Args:
        placed: Its points, [n, d].
        sides: 0 or 1, [n].
        weights: Of the examples, [n].
        count: B.
    """
    size = count + 1
    flat = (placed + torch.arange(placed.shape[1]) * size).flatten()
    signs = 2.0 * sides.double() - 1

    def answered(heights: Tensor, constant: float) -> tuple[Tensor, Tensor]:
        margins = signs * Stairs(heights, constant).scores(placed)
        pulls = -weights * signs * torch.sigmoid(-margins)
        sums = torch.bincount(flat, pulls.repeat_interleave(placed.shape[1]), heights.shape[0] * size)
        return _gathered(sums.view(-1, size)), pulls.sum()

    return answered


def descend(told: Sequence[Answer], start: Stairs, penalty: float, curvature: float) -> Stairs:
    """Heights that make the summed loss and the penalty small; an exchange a step.

    Args:
        told: Of every domain.
        start: Where to begin.
        penalty: Of the heights' absolute sum.
        curvature: An upper end of the loss's.
    """
    here, ahead, momentum = start, start, 1.0
    for _ in range(_ITERATIONS):
        found = [one(ahead.heights, ahead.constant) for one in told]
        moved = ahead.heights - sum(one for one, _ in found) / curvature
        heights = moved.sign() * (moved.abs() - penalty / curvature).clamp_min(0)
        constant = ahead.constant - float(sum(one for _, one in found)) / curvature
        change = heights - here.heights
        grown = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        if float(((ahead.heights - heights) * change).sum()) > 0:
            grown = momentum = 1.0
        share = (momentum - 1) / grown
        ahead = Stairs(heights + share * change, constant + share * (constant - here.constant))
        here, momentum = Stairs(heights, constant), grown
        if float(change.abs().max()) <= _STILL * float(heights.abs().max().clamp_min(_STILL)):
            break
    return here


def steepest(placed: Tensor, weights: Tensor, count: int) -> float:
    """An upper end of the loss's curvature, a fourth of the largest eigenvalue, by power steps on sums of squares."""
    size = count + 1
    flat = (placed + torch.arange(placed.shape[1]) * size).flatten()
    heights, constant, largest = torch.ones(placed.shape[1], count, dtype=torch.float64), 1.0, 1.0
    for _ in range(10):
        pulls = weights * Stairs(heights, constant).scores(placed)
        sums = torch.bincount(flat, pulls.repeat_interleave(placed.shape[1]), placed.shape[1] * size)
        image, level = _gathered(sums.view(-1, size)), float(pulls.sum())
        largest = math.hypot(float(image.norm()), level)
        heights, constant = image / largest, level / largest
    return _SAFETY * largest / 4


def _levels(heights: Tensor) -> Tensor:
    """The score of each place between steps, [d, B + 1]."""
    risen = torch.cat([heights.new_zeros(len(heights), 1), heights.cumsum(1)], 1)
    return 2 * risen - risen[:, -1:]


def _gathered(sums: Tensor) -> Tensor:
    """Of sums over places, [d, B + 1], what each step's height gets: those behind it less those before, [d, B]."""
    before = sums.cumsum(1)
    return before[:, -1:] - 2 * before[:, :-1]
