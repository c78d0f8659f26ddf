"""What a guess gets, who reads nothing that was sent: an attack below this shows nothing."""

import torch
from torch import Tensor

from fedha.audit.label_counts import placed_share, uniform_probabilities
from fedha.data.domain import Examples


def placed_by_uniform(truth: Tensor) -> float:
    """The share of examples that equal counts for all classes place right, counts not rounded.

    Args:
        truth: The true distribution, [C].
    """
    return placed_share(uniform_probabilities(len(truth)), truth)


def placed_by_public(truth: Tensor, public: Examples) -> float:
    """The share of examples that the label distribution of public data places right."""
    return placed_share(torch.bincount(public.labels, minlength=len(truth)), truth)


def middle_input(shape: torch.Size, low: float | None, high: float | None, public: Examples | None) -> Tensor:
    """The guess for an input: the mean of public inputs, else the middle of the range, else zero."""
    if public is not None:
        return public.numbers()[""].mean(0)
    return torch.full(shape, 0.0 if low is None or high is None else (low + high) / 2)
