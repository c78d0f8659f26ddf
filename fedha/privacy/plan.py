"""Before a run: how much noise a budget needs, or how many rounds it buys."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedha.errors import FedhaError
from fedha.privacy.accounting import spent
from fedha.privacy.ledger import Ledger, Release, Unit

_CLOSE = 0.998  # of the budget: near enough
_MOST_NOISE = 2.0**20
_MOST_ROUNDS = 10**9


@dataclass(frozen=True)
class RoundShape:
    """One round's releases, their noise relative to each other.

    Attributes:
        unit: What is protected.
        population: How many.
        releases: With a count each, as `ledger.round_releases` gives them; a noise multiplier of 1 is the plan's, one
            of 2 twice the plan's.
    """

    unit: Unit
    population: int
    releases: tuple[tuple[Release, int], ...]


@dataclass(frozen=True)
class Plan:
    """Noise, rounds and what they cost together.

    Attributes:
        noise_multiplier: Multiplies the shape's own.
        rounds: How many.
        epsilon: What they spend, at most what was given.
        delta: At which.
    """

    noise_multiplier: float
    rounds: int
    epsilon: float
    delta: float


def plan_noise(shape: RoundShape, epsilon: float, delta: float, rounds: int) -> Plan:
    """The least noise that keeps so many rounds within the budget, by bisection: epsilon falls with noise.

    Args:
        shape: A round.
        epsilon: The budget.
        delta: Its delta.
        rounds: How many rounds.

    Returns:
        A plan that spends at most epsilon and, but for the smallest budgets, at least 99 % of it.

    Raises:
        FedhaError: The budget is not a positive number, there are no rounds, or no noise would do.
    """
    _check(epsilon, rounds)
    low, high = 0.0, 1.0
    while cost(shape, high, delta, rounds) > epsilon:
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            raise FedhaError(
                f"{rounds} rounds cannot be kept within epsilon {epsilon:g} at delta {delta:g} by any noise; "
                "train for fewer rounds or raise the budget"
            )
    while (found := cost(shape, high, delta, rounds)) < _CLOSE * epsilon and high - low > 1e-6 * high:
        middle = (low + high) / 2
        if cost(shape, middle, delta, rounds) <= epsilon:
            high = middle
        else:
            low = middle
    return Plan(high, rounds, found, delta)


def plan_rounds(shape: RoundShape, noise_multiplier: float, epsilon: float, delta: float) -> Plan:
    """The most rounds that this noise keeps within the budget; 0 where not even one fits.

    Raises:
        FedhaError: The budget is not a positive number.
    """
    _check(epsilon, 1)
    fits, over = 0, 1
    while over <= _MOST_ROUNDS and cost(shape, noise_multiplier, delta, over) <= epsilon:
        fits, over = over, 2 * over
    while over - fits > 1:
        middle = (fits + over) // 2
        if cost(shape, noise_multiplier, delta, middle) <= epsilon:
            fits = middle
        else:
            over = middle
    return Plan(noise_multiplier, fits, cost(shape, noise_multiplier, delta, fits), delta)


def plan_table(
    shape: RoundShape, epsilons: Sequence[float], delta: float, rounds: Sequence[int]
) -> tuple[tuple[Plan, ...], ...]:
    """The noise for each budget (a row) and number of rounds (a column)."""
    return tuple(tuple(plan_noise(shape, epsilon, delta, number) for number in rounds) for epsilon in epsilons)


def cost(shape: RoundShape, noise_multiplier: float, delta: float, rounds: int) -> float:
    """Epsilon of so many rounds at that noise."""
    ledger = Ledger(shape.unit, shape.population)
    if rounds:
        ledger = ledger.add((scaled(one, noise_multiplier), count * rounds) for one, count in shape.releases)
    return spent(ledger, delta).epsilon


def scaled(release: Release, noise_multiplier: float) -> Release:
    """A shape's release at the plan's noise."""
    return replace(release, noise_multiplier=release.noise_multiplier * noise_multiplier)


def _check(epsilon: float, rounds: int) -> None:
    if not epsilon > 0:
        raise FedhaError(f"the budget is epsilon {epsilon:g}; give a positive number")
    if rounds < 1:
        raise FedhaError(f"a plan for {rounds} rounds spends nothing; give one round or more")
