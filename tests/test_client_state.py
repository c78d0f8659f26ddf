"""What a client remembers has one form as named tensors, and what earlier versions wrote is read."""

from dataclasses import fields

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedha.client_state import ClientState, from_tensors, lasting, to_tensors

NAMES = st.text("abc/._", min_size=1, max_size=5)
GROUPS = st.dictionaries(NAMES, st.integers(0, 9).map(lambda value: torch.tensor([float(value)])), max_size=3)
STATES = st.builds(ClientState, GROUPS, GROUPS, st.integers(0, 9), GROUPS, st.integers(0, 9), GROUPS)


def content(state: ClientState) -> dict[str, object]:
    return {
        one.name: {key: float(value) for key, value in kept.items()} if isinstance(kept, dict) else kept
        for one in fields(state)
        for kept in [getattr(state, one.name)]
    }


@given(STATES)
def test_its_tensors_say_all_of_it(state: ClientState) -> None:
    assert content(from_tensors(to_tensors(state))) == content(state)
    assert bool(state) == bool(to_tensors(state))


@given(STATES)
def test_what_a_round_released_does_not_outlive_it(state: ClientState) -> None:
    kept = from_tensors(lasting(to_tensors(state)))
    assert (kept.released, kept.released_in) == ({}, 0)
    assert content(kept) == {**content(state), "released": {}, "released_in": 0}


def test_memory_has_moved_where_a_tensor_is_another_one() -> None:
    """Clients that are computed together are handed new mappings, also where nothing in them is new."""
    one, nothing = torch.ones(1), ClientState()
    known = ClientState(averages={"s": one})
    assert not nothing.moved(known)  # what remembers nothing has nothing to say
    assert not ClientState(averages={}).moved(nothing)
    assert not ClientState(averages={**known.averages}, released={"s": one}, released_in=2).moved(known)
    assert known.moved(nothing)
    assert ClientState(averages={"s": one.clone()}).moved(known)
    assert ClientState(averages=known.averages, rule={"c": one}).moved(known)


def test_the_names_of_earlier_versions_are_read() -> None:
    one = torch.ones(1)
    earlier = {"gradient_variance": one, "own/gradient": one, "own": torch.tensor(4), "released/round": torch.tensor(3)}
    assert from_tensors(earlier) == ClientState({"gradient_variance": one}, {"gradient": one}, 4, {}, 3, {})
