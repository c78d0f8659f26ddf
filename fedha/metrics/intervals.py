"""How sure a domain's number is: intervals from resampled counts, which is to resample the examples."""

from collections.abc import Mapping
from typing import Any

import numpy
from numpy.typing import NDArray

from fedha.metrics.metric import Metric
from fedha.randomness import generator

DRAWS = 1000
ENDS = (2.5, 97.5)  # percent: a 95 % interval
_ENOUGH = 0.95  # of the resamples must have a value


def interval(row: Metric, have: Mapping[str, Any], seed: int) -> tuple[float, float] | None:
    """The percentile bootstrap of one domain's metric.

    The counts of as many examples, drawn with replacement, are multinomial. Bins are drawn with what is right and what
    is wrong apart; the mean confidence of each stays as it is. A metric of single examples, or of their losses, has
    none: counts do not tell.

    Args:
        row: The metric.
        have: What it may take: counts as arrays, accuracy and examples.
        seed: Of the draws.

    Returns:
        Both ends; None where there is none.
    """
    found = _resampled(row, have, numpy.random.default_rng(generator(seed, "bootstrap").initial_seed()))
    if found is None:
        return None
    there = found[numpy.isfinite(found)]
    if len(there) < _ENOUGH * len(found):
        return None
    low, high = numpy.percentile(there, ENDS)
    return float(low), float(high)


def _resampled(row: Metric, have: Mapping[str, Any], generator: numpy.random.Generator) -> NDArray[Any] | None:
    if row.needs == ("accuracy",):
        count, share = int(have["examples"]), have["accuracy"]
        return None if not count or share is None else generator.binomial(count, min(1.0, share), DRAWS) / count
    if row.needs == ("confusion",) and "confusion" in have:
        drawn = _multinomial(have["confusion"], generator)
    elif row.needs == ("bins",) and "bins" in have:
        drawn = _drawn_bins(have["bins"], generator)
    else:
        return None
    (name,) = row.needs
    if row.stacked:
        return numpy.asarray(row.function(**{name: drawn}))
    return numpy.array([_value(row, name, one) for one in drawn])


def _value(row: Metric, name: str, counts: NDArray[Any]) -> float:
    try:
        return float(row.function(**{name: counts}))
    except ValueError:
        return numpy.nan


def _multinomial(counts: NDArray[Any], generator: numpy.random.Generator) -> NDArray[Any]:
    """So many examples, drawn anew from the cells, [1000, ...]."""
    flat = counts.reshape(-1)
    full = numpy.flatnonzero(flat)  # the empty ones stay so
    drawn = numpy.zeros((DRAWS, len(flat)))
    total = int(flat.sum())
    if total:
        drawn[:, full] = generator.multinomial(total, flat[full] / flat[full].sum(), DRAWS)
    return drawn.reshape(DRAWS, *counts.shape)


def _drawn_bins(bins: NDArray[Any], generator: numpy.random.Generator) -> NDArray[Any]:
    count, right, confidence = bins.T
    if not numpy.isfinite(bins).all():
        return numpy.full((DRAWS, *bins.shape), numpy.nan)
    drawn = _multinomial(numpy.stack([right, count - right]), generator)  # [1000, 2, bins]
    total = drawn.sum(1)
    mean = numpy.divide(confidence, count, out=numpy.zeros_like(confidence), where=count > 0)
    return numpy.stack([total, drawn[:, 0], total * mean], -1)
