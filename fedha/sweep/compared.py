"""Is a recipe better than the baseline? Paired differences, and what of them is chance."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit

from fedha.randomness import generator

_EXACT = 14  # pairs, up to which all signs are tried
_TRIED = 20_000  # signs that are drawn where there are more
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """A recipe's accuracy less the baseline's, in points.

    Attributes:
        pairs: How many, each of one target and trial.
        mean: Their mean.
        low: Lower end of its 95 % confidence interval; None for fewer than two pairs.
        high: The upper end.
        p: Of the hypothesis that signs are chance, both sides; None as above.
        adjusted: The same, where so many recipes were compared (Holm).
    """

    pairs: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted: float | None = None


def difference(values: Sequence[float]) -> Difference:
    """Look at paired differences.

    The interval is Student's; p is of a sign-flip permutation test: under the hypothesis that neither is better each
    difference could as well have had the other sign. All signs are tried for 14 pairs or fewer, else 20,000 drawn ones.

    Args:
        values: In points, at least one.
    """
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Difference(count, mean)
    half = float(stdtrit(count - 1, (1 + _CONFIDENCE) / 2)) * statistics.stdev(values) / math.sqrt(count)
    return Difference(count, mean, mean - half, mean + half, _by_signs(values))


def adjusted(found: Mapping[str, Difference]) -> dict[str, Difference]:
    """The differences of several recipes, with p as it is where so many were compared.

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    known = sorted((one.p, name) for name, one in found.items() if one.p is not None)
    largest, result = 0.0, dict(found)
    for place, (p, name) in enumerate(known):
        largest = min(1.0, max(largest, p * (len(known) - place)))
        one = found[name]
        result[name] = Difference(one.pairs, one.mean, one.low, one.high, one.p, largest)
    return result


def _by_signs(values: Sequence[float]) -> float:
    numbers = torch.tensor(values, dtype=torch.float64)
    seen = float(numbers.sum().abs()) * (1 - 1e-12)  # sums of the same numbers in other order count as equal
    if len(values) <= _EXACT:
        signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=len(values))), dtype=torch.float64)
        return float(((signs @ numbers).abs() >= seen).double().mean())
    drawn = torch.randint(2, (_TRIED, len(values)), generator=generator(0, "signs", len(values)))
    return float(1 + ((2.0 * drawn.double() - 1) @ numbers).abs().ge(seen).sum()) / (1 + _TRIED)
