"""Rounds and attacks as people name them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedha.audit.attacks import ATTACKS
from fedha.audit.settings import GROUPS, Settings, chosen_attacks, chosen_rounds
from fedha.errors import FedhaError


@pytest.mark.parametrize(
    ("wish", "expected"),
    [("3", (3,)), ("1,2,last", (1, 2, 9)), (" 8-last , 2 ", (2, 8, 9)), ("4-4", (4,)), ("all", tuple(range(1, 10)))],
)
def test_a_wish_names_rounds(wish: str, expected: tuple[int, ...]) -> None:
    assert chosen_rounds(wish, 9) == expected


@pytest.mark.parametrize("wish", ["0", "10", "3-2", "last-1", "x", "1;2", ",", "-3", "1.5"])
def test_rounds_that_are_not_there_or_cannot_be_read_are_refused(wish: str) -> None:
    with pytest.raises(FedhaError, match="rounds"):
        chosen_rounds(wish, 9)


@given(st.integers(1, 10_000))
def test_the_usual_rounds_are_a_few_with_the_first_and_the_last(rounds: int) -> None:
    found = chosen_rounds("", rounds)
    assert found[0] == 1
    assert found[-1] == rounds
    assert len(found) <= 7
    assert list(found) == sorted(set(found))


def test_attacks_are_named_singly_or_by_group() -> None:
    assert chosen_attacks([]) == tuple(ATTACKS)
    assert chosen_attacks(["tracing_joint", "labels"])[:2] == ("labels_uniform", "labels_public")
    assert {key for name in GROUPS for key in chosen_attacks([name])} == set(ATTACKS)
    with pytest.raises(FedhaError, match="did you mean 'tracing'"):
        chosen_attacks(["trace"])


@pytest.mark.parametrize("change", [{"shadows": 3}, {"shadows": 2}, {"small": (0,)}, {"noise": -1.0}])
def test_settings_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(FedhaError):
        Settings(**change)
