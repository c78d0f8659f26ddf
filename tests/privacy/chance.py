"""Bounds on how far chance may stray: theorems for every sample size, not approximations for large ones."""

import math

import torch
from torch import Tensor


def variance_bounds(size: int, alarm: float) -> tuple[float, float]:
    """Where a sum of squares of standard normal numbers lies, but for twice `alarm` (Laurent and Massart, 2000)."""
    x = math.log(1 / alarm)
    return size - 2 * math.sqrt(size * x), size + 2 * math.sqrt(size * x) + 2 * x


def largest_gap(sample: Tensor, law: torch.distributions.Distribution) -> float:
    """Largest distance between the sample's distribution function and the law's."""
    ordered = sample.sort().values
    exact, size = law.cdf(ordered), len(ordered)
    ranks = torch.arange(size, dtype=torch.float64)
    return float(torch.maximum((exact - ranks / size).abs(), ((ranks + 1) / size - exact).abs()).max())


def gap_bound(size: int, alarm: float) -> float:
    """What `largest_gap` passes with probability `alarm` at most (Dvoretzky, Kiefer, Wolfowitz; Massart, 1990)."""
    return math.sqrt(math.log(2 / alarm) / (2 * size))


def mean_bound(size: int, alarm: float) -> float:
    """What the mean of independent numbers in [-1, 1] of mean 0 passes with probability `alarm` (Hoeffding, 1963)."""
    return math.sqrt(2 * math.log(2 / alarm) / size)
