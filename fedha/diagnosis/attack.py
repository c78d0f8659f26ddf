"""The worst head of a ball: shifted power steps on ``f(u) = risk_T(head + u) - risk_S(head + u)``.

With ``rho >= lambda_max(H_S)`` over the ball, ``F = f + rho |u|^2 / 2`` is convex, and on the sphere F is f and a
constant. A convex function lies above its tangents, so the point of the sphere that is farthest along F's gradient,
``u <- radius (grad f + rho u) / |grad f + rho u|``, is never lower. Half the largest eigenvalue of ``mean z z^T`` is
such a rho for a softmax. A smaller one goes faster; where a step with it went down, it is taken again with a larger.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha.diagnosis.party import Asking, Party
from fedha.diagnosis.sample import curvature_of_loss

EXCHANGES = 50
CERTIFIED = 1e-3  # first-order gap beside the value, where a climb ends
_SMALLEST = 64.0  # the least rho, as a part of the safe one


@dataclass(frozen=True)
class Climb:
    """Where a climb inside one ball came to.

    Attributes:
        radius: Of the ball.
        value: The largest difference of risks that was met, the ball's centre and smaller balls included.
        head: Where: minus the learned head, [C, D].
        gap: First-order gap there: a linear function with f's gradient rises no further in the ball.
        starts: From how many points.
        exchanges: In all balls together.
        first: The difference at the learned head.
    """

    radius: float
    value: float
    head: Tensor
    gap: float
    starts: int
    exchanges: int
    first: float


@dataclass
class _State:
    """Heads that climb, all radii and starts in one batch."""

    radii: Tensor
    at: Tensor
    values: Tensor
    slopes: Tensor
    rho: Tensor
    open: Tensor

    def gaps(self) -> Tensor:
        """First-order gaps."""
        gaps: Tensor = self.radii * self.slopes.flatten(1).norm(dim=1) - (self.slopes * self.at).flatten(1).sum(1)
        return gaps


def climbing(
    source: Party,
    target: Party,
    head: Tensor,
    radii: Sequence[float],
    starts: Tensor,
    *,
    exchanges: int = EXCHANGES,
    smallest: float = _SMALLEST,
) -> Asking[list[Climb]]:
    """The worst heads for a target that a source does not notice, in balls around the learned head.

    Args:
        source: S.
        target: T.
        head: The learned head, [C, D].
        radii: In ascending order, each positive.
        starts: Directions, [s, C, D]; those of length zero are left out.
        exchanges: At most, the one at the learned head not counted.
        smallest: The least rho is the safe one over this; 1: the safe one is always taken.

    Returns:
        For each radius, in order.
    """
    safe = curvature_of_loss(len(head)) * source.sizes.top_moment
    first, slope = yield from _difference(source, target, head, torch.zeros_like(head)[None])
    units = _units(torch.cat([starts, slope]))
    state = _begin(radii, units, safe / smallest, head)
    asked = 0
    if len(state.at):
        state.values, state.slopes = yield from _difference(source, target, head, state.at)
        asked, state.open = 1, ~_certified(state)
    while asked < exchanges and bool(state.open.any()):
        yield from _step(source, target, head, state, safe, smallest)
        asked += 1
    return _collected(radii, state, len(units), asked, float(first[0]), head)


def _begin(radii: Sequence[float], units: Tensor, rho: float, head: Tensor) -> _State:
    each = torch.tensor([radius for radius in radii for _ in range(len(units))], dtype=head.dtype)
    at = torch.cat([radius * units for radius in radii])
    count = len(at)
    blank = head.new_zeros(count)
    return _State(
        each, at, blank, torch.zeros_like(at), head.new_full((count,), rho), torch.ones(count, dtype=torch.bool)
    )


def _step(source: Party, target: Party, head: Tensor, state: _State, safe: float, smallest: float) -> Asking[None]:
    """Move every open head once; those that would go down stay, with a larger rho."""
    own = torch.nonzero(state.open)[:, 0]
    aim = state.slopes[own] + state.rho[own].view(-1, 1, 1) * state.at[own]
    length = aim.flatten(1).norm(dim=1).clamp_min(1e-300)
    moved = (state.radii[own] / length).view(-1, 1, 1) * aim
    values, slopes = yield from _difference(source, target, head, moved)
    up = values >= state.values[own]
    taken, stayed = own[up], own[~up]
    state.at[taken], state.values[taken], state.slopes[taken] = moved[up], values[up], slopes[up]
    state.open[stayed[state.rho[stayed] >= safe]] = False  # only rounding can go down there
    state.rho[taken] = (state.rho[taken] / 2).clamp_min(safe / smallest)
    state.rho[stayed] = (state.rho[stayed] * 4).clamp_max(safe)
    state.open &= ~_certified(state)


def _certified(state: _State) -> Tensor:
    return state.gaps() <= CERTIFIED * state.values.abs().clamp_min(1e-12)


def _difference(source: Party, target: Party, head: Tensor, at: Tensor) -> Asking[tuple[Tensor, Tensor]]:
    heads = head + at
    ours, theirs = yield [(source, "heads", heads), (target, "heads", heads)]
    return theirs.risks - ours.risks, theirs.gradients - ours.gradients


def _units(directions: Tensor) -> Tensor:
    lengths = directions.flatten(1).norm(dim=1)
    kept = lengths > 1e-150
    units: Tensor = directions[kept] / lengths[kept].view(-1, 1, 1)
    return units


def _collected(
    radii: Sequence[float], state: _State, starts: int, exchanges: int, first: float, head: Tensor
) -> list[Climb]:
    """The best of each radius and of those below it, from the centre on."""
    gaps, found = state.gaps(), list[Climb]()
    best, at, gap = first, torch.zeros_like(head), 0.0
    for place, radius in enumerate(radii):
        own = slice(place * starts, (place + 1) * starts)
        if starts and float(state.values[own].max()) >= best:
            row = place * starts + int(state.values[own].argmax())
            best, at, gap = float(state.values[row]), state.at[row], float(gaps[row])
        found.append(Climb(radius, best, at, gap, starts, exchanges, first))
    return found
