"""What is agreed on: thresholds that keep two sets of survivors apart, and numbers in which nobody has a choice."""

from dataclasses import fields, replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedha.errors import FedhaError
from fedha.privacy.secure.layout import make_layout
from fedha.privacy.secure.session import Session, usual_threshold
from tests.privacy.secure.told import session_of

LAYOUT = make_layout({"w": (2,)}, 400)


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    clients = draw(st.integers(3, 40))
    return session_of(
        clients,
        layout=LAYOUT,
        cohort=sorted(draw(st.sets(st.integers(0, 10_000), min_size=clients, max_size=clients))),
        round=draw(st.integers(1, 9)),
        threshold=draw(st.integers(clients // 2 + 1, clients)),
    )


@given(sessions())
def test_two_halves_of_the_holders_never_have_enough_shares_each(session: Session) -> None:
    assert 2 * session.threshold > len(session.cohort)
    for place in session.cohort:
        assert sorted((place, *session.others(place))) == list(session.cohort)  # everybody shares with everybody


@given(st.lists(st.floats(0.1, 1.0), min_size=3, max_size=6), st.data())
def test_the_least_weight_is_that_of_the_lightest_sum_with_a_client(weights: list[float], data: st.DataObject) -> None:
    clients = len(weights)
    threshold = data.draw(st.integers(clients // 2 + 1, clients))
    session = session_of(clients, weights=dict(enumerate(weights)), threshold=threshold)
    for place in session.cohort:
        sums = [one for one in combinations(session.cohort, session.quorum) if place in one]
        assert session.least_weight(place) == pytest.approx(min(map(session.total_weight, sums)))


@pytest.mark.parametrize(("clients", "threshold"), [(3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (10, 7), (100, 67)])
def test_the_usual_threshold_is_above_two_thirds(clients: int, threshold: int) -> None:
    assert usual_threshold(clients) == session_of(clients).threshold == threshold


def test_the_digest_differs_in_everything_that_is_agreed_on() -> None:
    session = session_of(6, threshold=5)
    others = {
        "run": "s",
        "round": 5,
        "exchange": "gradient",
        "cohort": (0, 1, 2, 3, 4, 9),
        "layout": replace(session.layout, clients=7),
        "weights": (1.0, *session.weights[1:]),
        "threshold": 4,
        "minimum": 4,
    }
    assert list(others) == [one.name for one in fields(session)]
    digests = {replace(session, **{name: value}).digest for name, value in others.items()} | {session.digest}
    assert len(digests) == len(others) + 1
    finer = replace(session.layout, slots=(*session.layout.slots[1:], session.layout.slots[0]))
    assert replace(session, layout=finer).digest not in digests
    assert replace(session).digest == session.digest


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"clients": 2}, r"2 clients take part and no sum of fewer than 3 may be learnt"),
        ({"clients": 5, "minimum": 6}, r"5 clients take part and no sum of fewer than 6"),
        ({"clients": 5, "minimum": 1}, r"a minimum of 1 clients would lay a single one open"),
        ({"clients": 6, "threshold": 3}, r"threshold of 3 of 6 clients is out of range; more than half, at least 4"),
        ({"clients": 6, "threshold": 7}, r"threshold of 7"),
        ({"clients": 6, "cohort": [0, 1, 1, 2, 3, 4]}, r"name each client once"),
        ({"clients": 6, "cohort": [-1, 0, 1, 2, 3, 4]}, r"not ascending from 0"),
        ({"clients": 3, "weights": {0: 1.0, 1: 1.0}}, r"weights \(1\.0, 1\.0, nan\) of 3 clients are not one positive"),
        ({"clients": 3, "weights": {0: 1.0, 1: 1.0, 2: 0.0}}, r"are not one positive number each"),
        ({"clients": 3, "weights": {0: 1.0, 1: 1.0, 2: float("inf")}}, r"are not one positive number each"),
        ({"clients": 3, "weights": {0: 1.0, 1: 1.0, 2: 0.099}}, r"weighs 1, and fewer than 3 weigh a tenth of that or"),
        ({"clients": 6, "layout": make_layout({}, 5)}, r"a layout for 5 clients has no room for 6"),
    ],
)
def test_what_cannot_be_agreed_on_is_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(FedhaError, match=sentence):
        session_of(**options)  # type: ignore[arg-type]


def test_weights_are_those_of_the_places() -> None:
    session = session_of(3, cohort=[7, 2, 5], weights={2: 0.25, 5: 1.0, 7: 2.5}, minimum=3)
    assert session.weights == (0.25, 1.0, 2.5)
    assert session.weight(7) == 2.5
    assert session.total_weight((2, 7)) == 2.75
    assert session_of(4).weights == (0.25,) * 4


def test_a_tenth_of_the_heaviest_weight_is_enough_to_hide_it() -> None:
    assert session_of(3, weights={0: 1.0, 1: 0.1, 2: 0.1})
    assert session_of(5, weights={0: 1.0, 1: 0.1, 2: 0.1, 3: 1e-9, 4: 1e-9})
    with pytest.raises(FedhaError, match=r"fewer than 4 weigh a tenth"):
        session_of(5, weights={0: 1.0, 1: 0.1, 2: 0.1, 3: 1e-9, 4: 1e-9}, minimum=4)
