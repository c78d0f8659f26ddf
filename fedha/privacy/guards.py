"""What a site refuses to answer, before it computes anything: pure checks, each a `Refusal` or None.

They stop what is crude, and they do not replace noise: a server that crafts its model within these limits still learns
what the statistics hold.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["request", "network", "head", "min_examples", "statistic", "rate", "budget"]


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered.

    Attributes:
        kind: What may be counted and told to the server; it says nothing of the data.
        sentence: For the site's own user; it may name the site's numbers, so it stays there.
    """

    kind: Kind
    sentence: str


@dataclass(frozen=True)
class HeadLimits:
    """What an honest head looks like.

    Attributes:
        least_distance: Between any two classes' rows (for one logit, between its row and zero). Rows of torch's usual
            initialisation are about 0.8 apart.
        largest_norm: Of any row.
    """

    least_distance: float = 1e-3
    largest_norm: float = 1e3


def refuse_head(head: Tensor, limits: HeadLimits) -> Refusal | None:
    """Refuse a crafted head.

    Equal rows make equal probabilities whatever the features, so that the gradient is the labels' class sums; a huge
    row makes probabilities 0 or 1, so that single examples stand out.

    Args:
        head: Weights, [C, D]; one row is the binary logistic head.
        limits: What is taken for honest.
    """
    rows = head.detach().double()
    if not bool(rows.isfinite().all()):
        return Refusal("head", "the head that the server sent has weights that are not finite; nothing was measured")
    longest = float(rows.norm(dim=1).max())
    if longest > limits.largest_norm:
        return Refusal(
            "head",
            f"the head that the server sent has a row of norm {longest:.3g}, over {limits.largest_norm:g}: single "
            "examples would show; raise the limit only if an honest model is that large",
        )
    if len(rows) == 1:
        rows = torch.cat([rows, torch.zeros_like(rows)])
    apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    apart.fill_diagonal_(math.inf)
    nearest = float(apart.min())
    if nearest < limits.least_distance:
        return Refusal(
            "head",
            f"two rows of the head that the server sent are {nearest:.3g} apart, under {limits.least_distance:g}: its "
            "gradient would give away the labels; start from a random head, or lower the limit if the model is honest",
        )
    return None


def refuse_batch(examples: int, min_examples: int) -> Refusal | None:
    """Refuse statistics of fewer examples than the site allows: of one, the gradient gives its features exactly."""
    if examples >= min_examples:
        return None
    return Refusal(
        "min_examples",
        f"the answer would be of {examples} examples and min_examples is {min_examples}; add data, raise the batch "
        "size, or leave the federation",
    )


def refuse_statistics(asked: Collection[str], configured: Collection[str]) -> Refusal | None:
    """Refuse statistics that the site's own config does not name."""
    foreign = sorted(set(asked) - set(configured))
    if not foreign:
        return None
    return Refusal(
        "statistic",
        f"the server asked for {', '.join(foreign)}, which this site does not send; its config allows "
        f"{', '.join(sorted(configured)) or 'none'}",
    )


@dataclass(frozen=True)
class Rate:
    """How often a site answers.

    Attributes:
        rounds: At most so many,
        seconds: in any stretch of this length.
    """

    rounds: int
    seconds: float


def refuse_rate(answered: Sequence[float], now: float, rate: Rate) -> Refusal | None:
    """Refuse what comes too soon.

    Args:
        answered: When the same was answered before, in seconds on any clock that does not go back.
        now: On the same clock.
        rate: The site's limit.
    """
    recent = sum(now - moment < rate.seconds for moment in answered)
    if recent < rate.rounds:
        return None
    return Refusal(
        "rate",
        f"the server has asked for {recent} rounds in {rate.seconds:g} seconds and this site answers {rate.rounds}; "
        "ask its operator why, or raise the limit",
    )


def refuse_spending(epsilon: float, max_epsilon: float) -> Refusal | None:
    """Refuse a round after which the site's epsilon would be over its budget.

    Args:
        epsilon: What would have been spent after the round, from `fedha.privacy.accounting.spent`.
        max_epsilon: The site's budget.
    """
    if epsilon <= max_epsilon:
        return None
    return Refusal(
        "budget",
        f"one more round would spend epsilon {epsilon:.4g} and privacy.max_epsilon is {max_epsilon:g}; "
        "this site has given what it agreed to give",
    )
