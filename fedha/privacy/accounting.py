"""Epsilon of a ledger: Flower's RDP accountant over dp-accounting, one for each ledger.

Flower's accountant speaks of clients, but its numbers are those of any population: population n and sample b stand for
Poisson sampling at rate b / n of whatever is counted. What it cannot say as it stands, is said in its terms:

- a sum over everybody is Poisson sampling at rate 1, which dp-accounting treats as the plain Gaussian mechanism, so
  statistics of a whole domain and Poisson-sampled steps compose in one accountant;
- one pass of shuffled batches, or a cohort chosen in some way without a theorem, uses each example or client at most
  once: the plain Gaussian mechanism again, no amplification, for neighbours where one is replaced by nothing;
- under sampling without replacement neighbours replace one by another, which moves a clipped sum by twice the norm:
  dp-accounting measures noise in that distance, so the noise multiplier is halved here; of clients that are drawn,
  one that takes part knows of itself, so the others are drawn among one less.

Equal releases are composed at once, from the ledger. Entered round by round, Flower's accountant would recompute each
of them whenever it is asked (20 ms for each Poisson release here): hours for a thousand rounds. So that a round costs
nothing, `spent` asks dp-accounting itself, below Flower's accountant, for the Rényi curve of each kind of release,
once; a test holds the two to each other.

Source:
    Mironov (CSF 2017); Poisson-sampled Gaussian: Mironov, Talwar, Zhang (arXiv 1908.10530); without replacement: Wang,
    Balle, Kasiviswanathan (AISTATS 2019); epsilon from RDP: Canonne, Kamath, Steinke (NeurIPS 2020).
"""

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

from flwr.serverapp import (
    GaussianPrivacyEvent,
    NeighboringRelation,
    PrivacyConfig,
    RdpAccountant,
    SamplingMethod,
)

from fedha.errors import FedhaError
from fedha.privacy.ledger import Ledger, Release

_AMPLIFIED = ("poisson", "without_replacement")


@dataclass(frozen=True)
class Spent:
    """What a ledger amounts to.

    Attributes:
        epsilon: At `delta`.
        delta: The probability that epsilon does not speak of.
        releases: How many there were.
        relation: Which data sets are neighbours, in words.
        sampling: The kinds of sampling that were accounted for, in order.
    """

    epsilon: float
    delta: float
    releases: int
    relation: str
    sampling: tuple[str, ...]


def spent(ledger: Ledger, delta: float) -> Spent:
    """Epsilon so far.

    Args:
        ledger: All releases.
        delta: Below 1 / population; above, a mechanism that publishes one example at random would pass.

    Raises:
        FedhaError: The delta is too large, or dp-accounting is not installed.
    """
    return Spent(
        epsilon=_epsilon(ledger, delta),
        delta=delta,
        releases=sum(count for _, count in ledger.entries),
        relation=ledger.relation,
        sampling=tuple(sorted({release.sampling for release, _ in ledger.entries})),
    )


def would_exceed(ledger: Ledger, more: Iterable[tuple[Release, int]], delta: float, max_epsilon: float) -> bool:
    """Whether these further releases would pass the budget; ask before making them.

    Raises:
        FedhaError: As in `spent`.
    """
    return _epsilon(ledger.add(more), delta) > max_epsilon


def accountant(ledger: Ledger, delta: float) -> RdpAccountant:
    """Flower's accountant with the ledger composed, for whoever wants its own state or another delta.

    Raises:
        FedhaError: As in `spent`.
    """
    _check_delta(ledger, delta)
    replaced = _replaces(ledger)
    config = PrivacyConfig(
        target_delta=delta,
        population_size=_among(ledger),
        neighboring_relation=NeighboringRelation.REPLACE_ONE if replaced else NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=SamplingMethod.WITHOUT_REPLACEMENT if replaced else SamplingMethod.POISSON,
    )
    try:
        counting = RdpAccountant(config)
    except ImportError as error:
        raise _missing() from error
    with _quiet_orders():
        _enter(counting, ledger, replaced)
    return counting


def _enter(counting: RdpAccountant, ledger: Ledger, replaced: bool) -> None:
    among = _among(ledger)
    for release, count in ledger.entries:
        counting.compose(
            GaussianPrivacyEvent(
                noise_multiplier=release.noise_multiplier / (2 if replaced else 1),
                sample_size=min(release.sample, among) if release.sampling in _AMPLIFIED else among,
                population_size=among,
            ),
            count,
        )


@contextmanager
def _quiet_orders() -> Iterator[None]:
    """Not a word on the terminal of Rényi orders left out because their series does not converge: others bound it."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@lru_cache(maxsize=4096)
def _epsilon(ledger: Ledger, delta: float) -> float:
    _check_delta(ledger, delta)
    if not ledger.entries:
        return 0.0
    replaced = _replaces(ledger)
    orders, total = _zero(replaced)
    among = _among(ledger)
    for release, count in ledger.entries:
        sample = min(release.sample, among) if release.sampling in _AMPLIFIED else among
        total = total + count * _curve(release.noise_multiplier, *_rate(sample, among, replaced), replaced)
    return float(_dp_accounting().rdp.compute_epsilon(orders, total, delta)[0])


def _rate(sample: int, population: int, replaced: bool) -> tuple[int, int]:
    """What a curve depends on: for Poisson sampling the rate alone, so that clients of any size share a whole one."""
    if replaced:
        return sample, population
    shared = math.gcd(sample, population)
    return sample // shared, population // shared


@lru_cache(maxsize=1024)
def _curve(noise_multiplier: float, sample: int, population: int, replaced: bool) -> Any:
    """Rényi divergence of one release by order, as dp-accounting's accountant composes it."""
    dp = _dp_accounting()
    noise = dp.GaussianDpEvent(noise_multiplier / (2 if replaced else 1))
    if replaced:
        event = dp.SampledWithoutReplacementDpEvent(population, sample, noise)
    else:
        event = dp.PoissonSampledDpEvent(sample / population, noise)
    with _quiet_orders():
        return _backend(replaced).compose(event).rdp


def _zero(replaced: bool) -> tuple[Any, Any]:
    """The orders, and the curve of nothing."""
    backend = _backend(replaced)
    return backend.orders, backend.rdp


def _backend(replaced: bool) -> Any:
    dp = _dp_accounting()
    relation = dp.NeighboringRelation.REPLACE_ONE if replaced else dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    return dp.rdp.RdpAccountant(neighboring_relation=relation)


def _dp_accounting() -> Any:
    try:
        return import_module("dp_accounting")
    except ImportError as error:
        raise _missing() from error


def _missing() -> FedhaError:
    return FedhaError('epsilon needs the package dp-accounting; install it with pip install "fedha[privacy]"')


def _check_delta(ledger: Ledger, delta: float) -> None:
    if not 0 < delta < 1 / ledger.population:
        raise FedhaError(
            f"delta is {delta:g} for {ledger.population} {ledger.unit}s; give a number over 0 and below "
            f"1 / {ledger.population}, such as {0.1 / ledger.population:.0e}"
        )


def _among(ledger: Ledger) -> int:
    """Among how many a sample is drawn, for who knows most and is to be told nothing: of clients that are drawn, one
    that takes part knows of itself."""
    return ledger.population - 1 if ledger.unit == "client" and _replaces(ledger) else ledger.population


def _replaces(ledger: Ledger) -> bool:
    return any(release.sampling == "without_replacement" for release, _ in ledger.entries)
