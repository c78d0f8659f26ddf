"""The least risk of a domain in a ball around the learned head, with a certificate: what its client solves alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha.diagnosis.party import Party
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
    reach = torch.tensor(radii, dtype=head.dtype)
    steepest = curvature_of_loss(len(head)) * party.sizes.top_moment
    least = head.new_full((len(radii),), max(min(party.sizes.top_hessian, steepest), 1e-300))
    at = torch.zeros(len(radii), *head.shape, dtype=head.dtype)
    start = party.heads(head[None])
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
        answers = party.heads(head + new)
        moved = new - ahead[own]
        model = (
            ahead_values[own]
            + (ahead_slopes[own] * moved).flatten(1).sum(1)
            + least[own] / 2 * (moved**2).flatten(1).sum(1)
        )
        steep = (answers.risks > model + 1e-13 * model.abs()) & (least[own] < steepest)
        least[own[steep]] = (least[own[steep]] * 2).clamp_max(steepest)
        fine = own[~steep]
        risks, gradients, new = answers.risks[~steep], answers.gradients[~steep], new[~steep]
        found = _gaps(new, gradients, reach[fine])
        certificate = risks - found  # a lower end of the least risk; the best one counts
        floor = torch.maximum(best[fine] - gaps[fine], certificate)
        best[fine] = torch.minimum(best[fine], risks)
        gaps[fine] = (best[fine] - floor).clamp_min(0)
        rising = risks > values[fine]
        following = torch.where(rising, 1.0, (1 + (1 + 4 * momentum[fine] ** 2).sqrt()) / 2)
        inertia = torch.where(rising, 0.0, (momentum[fine] - 1) / following)
        ahead[fine] = _projected(new + inertia.view(-1, 1, 1) * (new - at[fine]), reach[fine])
        at[fine], values[fine], momentum[fine] = new, risks, following
        open_ones = gaps > wanted
        still = fine[open_ones[fine]]
        if len(still):
            told = party.heads(head + ahead[still])
            ahead_values[still], ahead_slopes[still] = told.risks, told.gradients
    return [Minimum(radius, float(best[i]), float(gaps[i])) for i, radius in enumerate(radii)]


def _gaps(at: Tensor, slopes: Tensor, reach: Tensor) -> Tensor:
    gaps: Tensor = (slopes * at).flatten(1).sum(1) + reach * slopes.flatten(1).norm(dim=1)
    return gaps


def _projected(at: Tensor, reach: Tensor) -> Tensor:
    lengths = at.flatten(1).norm(dim=1)
    return at * torch.where(lengths > reach, reach / lengths.clamp_min(1e-300), 1.0).view(-1, 1, 1)
