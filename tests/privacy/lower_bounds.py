"""What epsilon is at least, measured: how well a threshold tells two neighbouring data sets by what is sent.

A mechanism that is (epsilon, delta)-differentially private has P(T > t | d) <= e^epsilon P(T > t | d') + delta for all
numbers T that are made of its output. So with bounds on both probabilities, epsilon is at least
``log((low - delta) / high)``. The bounds are those of Clopper and Pearson (1934), which hold for every sample size,
both together with the confidence asked for. The threshold is chosen before the outputs are seen.
"""

import math
from collections.abc import Callable
from logging import getLogger

import torch
from scipy import stats
from torch import Tensor

CONFIDENCE = 0.99


def bound(over: int, over_without: int, trials: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """A lower bound on epsilon.

    Args:
        over: Outputs over the threshold, of those with the example.
        over_without: Of those without it.
        trials: How many there are of each.
        delta: The claim's.
        confidence: With which it holds.
    """
    alarm = (1 - confidence) / 2
    low = float(stats.beta.ppf(alarm, over, trials - over + 1)) if over else 0.0
    high = float(stats.beta.ppf(1 - alarm, over_without + 1, trials - over_without)) if over_without < trials else 1.0
    return math.log((low - delta) / high) if low - delta > 0 else 0.0


def best_threshold(signal: float, trials: int, delta: float, drawn: float = 1.0) -> float:
    """Where the bound is expected to be largest, for a number of deviation 1 whose mean one example moves by a signal.

    Args:
        signal: In deviations of the noise.
        trials: As for `bound`.
        delta: As there.
        drawn: With what chance the example takes part.
    """
    normal = stats.norm()

    def expected(threshold: float) -> float:
        alone = normal.sf(threshold)
        over = drawn * normal.sf(threshold - signal) + (1 - drawn) * alone
        return bound(round(trials * over), round(trials * alone), trials, delta)

    return max((step / 10 for step in range(-10, 80)), key=expected)


def measured(
    output: Callable[[bool], float],
    signal: float,
    trials: int,
    delta: float,
    confidence: float = CONFIDENCE,
    drawn: float = 1.0,
) -> float:
    """The lower bound of a mechanism.

    Args:
        output: Runs it, with the example or without, and gives a number of deviation 1 or about that.
        signal: By how much the example moves that number.
        trials: Of each.
        delta: As for `bound`.
        confidence: As there.
        drawn: As for `best_threshold`.
    """
    threshold = best_threshold(signal, trials, delta, drawn)
    over = [sum(output(there) > threshold for _ in range(trials)) for there in (True, False)]
    return bound(over[0], over[1], trials, delta, confidence)


def assert_claim(found: float, claim: float, within: float | None = None) -> None:
    """What is measured is at most what is claimed, and where that can be reached not far below.

    ``pytest --log-cli-level=INFO`` shows both.

    Args:
        found: A lower bound.
        claim: An account's epsilon.
        within: The factor by which the bound may miss it; None: any.
    """
    getLogger(__name__).info("epsilon %.3f measured, %.3f claimed: %.2f of it", found, claim, found / claim)
    assert found <= claim
    assert within is None or found > claim / within


def flat(tensors: dict[str, Tensor], scales: dict[str, float] | None = None) -> Tensor:
    """All numbers of an answer, each times its scale, float64."""
    given = scales or {}
    return torch.cat([value.double().flatten() * given.get(name, 1.0) for name, value in tensors.items()])
