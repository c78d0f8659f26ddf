"""How well an attack did: rates and areas for memberships, decibels and similarity for images, intervals for all."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedha.randomness import generator

CEILING = 100.0  # dB; an image as near to another as this is the same to any eye

Interval = tuple[float, float]


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold's rates.

    Attributes:
        true_positives: Share of the members found.
        false_positives: Share of the others taken for members: the largest that can be attained under the limit.
        others: How many others there were; under 1 / limit of them, the rate that is attained is 0.
    """

    true_positives: float
    false_positives: float
    others: int


def auc(members: Tensor, others: Tensor) -> float:
    """The chance that a member scores higher than another: area under the ROC curve; ties count half.

    Args:
        members: Scores, [m], m >= 1; none is NaN.
        others: Scores, [k], k >= 1.

    Returns:
        0 to 1; 0.5 is guessing.

    Source:
        The Mann-Whitney statistic over m k (Hanley and McNeil, 1982).
    """
    ordered = others.sort().values
    below = torch.searchsorted(ordered, members, side="left")
    upto = torch.searchsorted(ordered, members, side="right")
    return float((below + upto).double().mean() / (2 * len(others)))


def roc(members: Tensor, others: Tensor) -> tuple[list[float], list[float]]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1)."""
    thresholds = torch.cat([members, others]).unique().flip(0)
    rates = []
    for scores in (others, members):
        ordered = scores.sort().values
        rates.append([0.0, *(1 - torch.searchsorted(ordered, thresholds).double() / len(scores)).tolist()])
    return rates[0], rates[1]


def true_positive_rate(members: Tensor, others: Tensor, limit: float) -> OperatingPoint:
    """The share of members found by the lowest threshold that takes at most `limit` of the others for members.

    Args:
        members: Scores, [m].
        others: Scores, [k].
        limit: Of false positives, such as 0.01. ``floor(limit * k)`` are allowed: with k under 1 / limit, none.
    """
    allowed = math.floor(limit * len(others) + 1e-9)
    if allowed >= len(others):
        return OperatingPoint(1.0, 1.0, len(others))
    threshold = others.sort(descending=True).values[allowed]  # a member must score above the first that is not allowed
    found, wrong = (float((scores > threshold).double().mean()) for scores in (members, others))
    return OperatingPoint(found, wrong, len(others))


def psnr(original: Tensor, other: Tensor, value_range: float) -> float:
    """Peak signal-to-noise ratio: ``10 log10(range^2 / mean squared error)``.

    Args:
        original: Of any shape.
        other: Of that shape.
        value_range: Of the values, highest minus lowest possible.

    Returns:
        Decibels, `CEILING` at most.
    """
    error = float((original.double() - other.double()).square().mean()) / value_range**2
    return CEILING if error <= 10 ** (-CEILING / 10) else -10 * math.log10(error)


def ssim(original: Tensor, other: Tensor, value_range: float) -> float:
    """Structural similarity of two images, the mean over windows and channels.

    Windows are Gaussian, 11 x 11 with deviation 1.5; in smaller images as large as an odd side fits. Only windows that
    lie inside are taken.

    Args:
        original: [channels, height, width].
        other: Of that shape.
        value_range: Of the values.

    Returns:
        -1 to 1; 1 for equal images.

    Source:
        Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment" (IEEE TIP 2004), with its K1 = 0.01 and K2 = 0.03.
    """
    side = min(11, *((length - 1) // 2 * 2 + 1 for length in original.shape[1:]))
    place = torch.arange(side, dtype=torch.float64) - side // 2
    bell = torch.exp(-place.square() / (2 * 1.5**2))
    window = torch.outer(bell, bell)[None, None] / bell.sum() ** 2
    x, y = original.double()[:, None], other.double()[:, None]

    def mean(values: Tensor) -> Tensor:
        return functional.conv2d(values, window)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y, both = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * both + c2) / (var_x + var_y + c2)).mean())


def bootstrap(
    scores: Callable[..., Sequence[float]],
    groups: Sequence[Tensor],
    seed: int,
    *,
    draws: int = 200,
    level: float = 0.95,
) -> list[Interval]:
    """Percentile intervals of scores, each group resampled with replacement.

    Args:
        scores: Takes the groups in order, and gives one score or more.
        groups: One or more, each of one example or more.
        seed: Of the resamples; the same gives the same interval.
        draws: Resamples.
        level: Share of them inside.

    Returns:
        An interval a score.

    Source:
        Efron (1979). With few examples such intervals are too narrow; with one they have no width.
    """
    numbers = generator(seed, "bootstrap", draws)
    found = []
    for _ in range(draws):
        again = [group[torch.randint(len(group), (len(group),), generator=numbers)] for group in groups]
        found.append(scores(*again))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.tensor(found, dtype=torch.float64).quantile(tails, 0)
    return list(zip(low.tolist(), high.tolist(), strict=True))
