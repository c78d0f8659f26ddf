"""A plan keeps to its budget, and wastes none of it."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedha.errors import FedhaError
from fedha.privacy.ledger import Ledger, Release, round_releases
from fedha.privacy.sampling import Sampling

pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')

from fedha.privacy.accounting import spent
from fedha.privacy.plan import RoundShape, plan_noise, plan_rounds, plan_table, scaled

DELTA = 1e-5
SHAPES = {
    "synchronous": RoundShape("example", 2000, round_releases(2, 1.0, Sampling("whole", 2000, 2000), 1, 1.0)),
    "poisson": RoundShape("example", 2000, round_releases(1, 4.0, Sampling("poisson", 50, 2000), 10, 1.0)),
    "shuffled": RoundShape("example", 2000, round_releases(0, 1.0, Sampling("shuffled", 50, 2000), 40, 1.0)),
    "clients": RoundShape("client", 2000, ((Release(1.0, "without_replacement", 40), 1),)),
}


def spending(shape: RoundShape, noise: float, rounds: int) -> float:
    """Entered round by round."""
    ledger = Ledger(shape.unit, shape.population)
    for _ in range(rounds):
        ledger = ledger.add((scaled(one, noise), count) for one, count in shape.releases)
    return spent(ledger, DELTA).epsilon


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("epsilon", "rounds"), [(0.5, 3), (2.0, 50), (8.0, 200)])
def test_a_plan_spends_at_most_its_budget_and_almost_all_of_it(name: str, epsilon: float, rounds: int) -> None:
    plan = plan_noise(SHAPES[name], epsilon, DELTA, rounds)
    assert 0.99 * epsilon <= plan.epsilon <= epsilon
    assert plan.epsilon == pytest.approx(spending(SHAPES[name], plan.noise_multiplier, rounds), rel=1e-9)


@settings(max_examples=20)
@given(st.floats(0.05, 100), st.integers(1, 10_000))
def test_whatever_the_budget_a_plan_keeps_to_it(epsilon: float, rounds: int) -> None:
    plan = plan_noise(SHAPES["synchronous"], epsilon, DELTA, rounds)
    assert 0.99 * epsilon <= plan.epsilon <= epsilon


@pytest.mark.parametrize("name", SHAPES)
def test_the_rounds_of_a_plan_are_the_most_that_fit(name: str) -> None:
    shape = SHAPES[name]
    plan = plan_rounds(shape, 6.0, 3.0, DELTA)
    assert plan.rounds >= 1
    assert spending(shape, 6.0, plan.rounds) <= 3.0 < spending(shape, 6.0, plan.rounds + 1)


def test_where_not_one_round_fits_there_are_none() -> None:
    assert plan_rounds(SHAPES["synchronous"], 0.5, 1.0, DELTA).rounds == 0
    assert plan_rounds(SHAPES["synchronous"], 0.5, 1.0, DELTA).epsilon == 0


def test_noise_and_rounds_are_each_others_inverse() -> None:
    shape = SHAPES["poisson"]
    plan = plan_noise(shape, 4.0, DELTA, 100)
    back = plan_rounds(shape, plan.noise_multiplier, 4.0, DELTA)
    assert 100 <= back.rounds <= 101


def test_noise_falls_with_the_budget_and_grows_with_rounds() -> None:
    table = plan_table(SHAPES["synchronous"], [1.0, 2.0, 8.0], DELTA, [10, 100, 1000])
    assert [[plan.rounds for plan in row] for row in table] == [[10, 100, 1000]] * 3
    for row in table:
        assert all(one.noise_multiplier < other.noise_multiplier for one, other in pairwise(row))
    for tight, loose in pairwise(table):
        assert all(one.noise_multiplier > other.noise_multiplier for one, other in zip(tight, loose, strict=True))


def test_the_noises_of_a_round_keep_their_relation() -> None:
    shape = SHAPES["poisson"]
    plan = plan_noise(shape, 4.0, DELTA, 100)
    assert [scaled(one, plan.noise_multiplier).noise_multiplier for one, _ in shape.releases] == [
        4 * plan.noise_multiplier,
        plan.noise_multiplier,
    ]


@pytest.mark.parametrize(
    ("epsilon", "rounds", "message"),
    [
        (0.0, 5, "the budget is epsilon 0"),
        (-1.0, 5, "the budget is epsilon -1"),
        (1.0, 0, "a plan for 0 rounds spends nothing"),
        (1e-12, 10**9, "cannot be kept within epsilon 1e-12"),
    ],
)
def test_plans_that_cannot_be_are_refused(epsilon: float, rounds: int, message: str) -> None:
    with pytest.raises(FedhaError, match=message):
        plan_noise(SHAPES["synchronous"], epsilon, DELTA, rounds)
