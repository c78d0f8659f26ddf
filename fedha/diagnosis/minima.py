"""The least risk of a domain in a ball around the learned head, with a certificate: what its client solves alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha.diagnosis.party import Asking, Party, done
from fedha.diagnosis.sample import curvature_of_loss

STEPS = 200
CERTIFIED = 1e-4  # of the risk at the learned head: the gap where a descent ends


@dataclass(frozen=True)
class Minimum:
    """The least risk in a ball lies between ``value - gap`` and ``value``.

    Attributes:
        radius: Of the ball.
        value: The risk of a head in the ball.
        gap: Frank and Wolfe's: the risk is convex, so nothing in the ball is lower than by this much.
    """

    radius: float
    value: float
    gap: float


def minima(party: Party, head: Tensor, radii: Sequence[float], *, steps: int = STEPS) -> list[Minimum]:
    """The least risks in balls, by accelerated projected gradients with restarts, all balls side by side.

    Args:
        party: Whose.
        head: The learned head, [C, D].
        radii: In ascending order, each positive.
        steps: At most; a gap that is then left is told.
    """
    return done(minimising(party, head, radii, steps=steps))


def minimising(party: Party, head: Tensor, radii: Sequence[float], *, steps: int = STEPS) -> Asking[list[Minimum]]:
    """As `minima`, asking."""
    reach = torch.tensor(radii, dtype=head.dtype)
    steepest = curvature_of_loss(len(head)) * party.sizes.top_moment
    least = head.new_full((len(radii),), max(min(party.sizes.top_hessian, steepest), 1e-300))
    at = torch.zeros(len(radii), *head.shape, dtype=head.dtype)
    (start,) = yield [(party, "heads", head[None])]
    values, slopes = start.risks.expand(len(radii)).clone(), start.gradients.expand_as(at).clone()
    best, gaps = values.clone(), _gaps(at, slopes, reach)
    wanted = CERTIFIED * float(start.risks[0])
    ahead, momentum = at.clone(), torch.ones(len(radii), dtype=head.dtype)
    open_ones = gaps > wanted
    ahead_values, ahead_slopes = values.clone(), slopes.clone()
    for _ in range(steps):
        if not bool(open_ones.any()):
            break
        own = torch.nonzero(open_ones)[:, 0]
        step = ahead[own] - ahead_slopes[own] / least[own].view(-1, 1, 1)
        new = _projected(step, reach[own])
        following = (1 + (1 + 4 * momentum[own] ** 2).sqrt()) / 2
        inertia = ((momentum[own] - 1) / following).view(-1, 1, 1)
        further = _projected(new + inertia * (new - at[own]), reach[own])
        answers, told = yield [(party, "heads", head + new), (party, "heads", head + further)]  # one exchange a step
        moved = new - ahead[own]
        model = (
            ahead_values[own]
            + (ahead_slopes[own] * moved).flatten(1).sum(1)
            + least[own] / 2 * (moved**2).flatten(1).sum(1)
        )
        steep = (answers.risks > model + 1e-13 * model.abs()) & (least[own] < steepest)
        least[own[steep]] = (least[own[steep]] * 2).clamp_max(steepest)
        fine, kept = own[~steep], torch.nonzero(~steep)[:, 0]
        risks, gradients, new = answers.risks[kept], answers.gradients[kept], new[kept]
        found = _gaps(new, gradients, reach[fine])
        certificate = risks - found  # a lower end of the least risk; the best one counts
        floor = torch.maximum(best[fine] - gaps[fine], certificate)
        best[fine] = torch.minimum(best[fine], risks)
        gaps[fine] = (best[fine] - floor).clamp_min(0)
        rising = risks > values[fine]  # then it goes on from here, without what drove it
        at[fine], values[fine] = new, risks
        momentum[fine] = torch.where(rising, 1.0, following[kept])
        ahead[fine] = torch.where(rising.view(-1, 1, 1), new, further[kept])
        ahead_values[fine] = torch.where(rising, risks, told.risks[kept])
        ahead_slopes[fine] = torch.where(rising.view(-1, 1, 1), gradients, told.gradients[kept])
        open_ones = gaps > wanted
    return [Minimum(radius, float(best[i]), float(gaps[i])) for i, radius in enumerate(radii)]


def _gaps(at: Tensor, slopes: Tensor, reach: Tensor) -> Tensor:
    gaps: Tensor = (slopes * at).flatten(1).sum(1) + reach * slopes.flatten(1).norm(dim=1)
    return gaps


def _projected(at: Tensor, reach: Tensor) -> Tensor:
    lengths = at.flatten(1).norm(dim=1)
    return at * torch.where(lengths > reach, reach / lengths.clamp_min(1e-300), 1.0).view(-1, 1, 1)
