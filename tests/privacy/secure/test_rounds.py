"""Whole secure sums: the plain weighted mean, whoever is lost on the way, and nothing of a single client's numbers."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch.testing import assert_close

from fedha.errors import FedhaError
from fedha.privacy.secure import rounds
from fedha.privacy.secure.agreement import new_key_pair
from fedha.privacy.secure.encoding import decode, encode
from fedha.privacy.secure.layout import Words, make_layout
from fedha.privacy.secure.messages import MaskedInput, read_masked_input
from fedha.privacy.secure.packing import pack, unpack
from fedha.privacy.secure.pairs import add_pair_mask
from fedha.privacy.secure.rounds import STEPS
from fedha.privacy.secure.session import Session
from tests.privacy.secure.told import encoded, identities, leaves, raw, session_of, tell, tensors

DESCRIPTION = Path(__file__).resolve().parents[3] / "docs/secure-aggregation.md"
SAID_BEFORE_LOST = {"advertise": 0, "share": 1, "mask": 2, "confirm": 3, "reveal": 3}  # in the sum from "confirm" on


def check_sum(session: Session, found: tuple[Words, tuple[int, ...]], lost: dict[int, str]) -> None:
    """The sum is exactly that of the encoded vectors of those that sent theirs."""
    words, places = found
    vectors = encoded(session)
    assert places == tuple(place for place in session.cohort if SAID_BEFORE_LOST.get(lost.get(place, "reveal")) == 3)
    assert np.array_equal(words, np.sum([vectors[place] for place in places], axis=0, dtype=words.dtype))


def run(session: Session, silent: dict[int, str]) -> tuple[Words, tuple[int, ...]]:
    return rounds.run(session, identities(session), encoded(session), silent=silent)


@settings(max_examples=30)
@given(
    st.sets(st.integers(0, 40), min_size=3, max_size=6),
    st.lists(st.floats(0.1, 1), min_size=6, max_size=6),
    st.integers(0, 99),
    st.sampled_from([32, 64]),
)
def test_the_sum_is_the_weighted_mean(cohort: set[int], weights: list[float], seed: int, bits: int) -> None:
    layout = make_layout({"w": (5, 2), "s": ()}, len(cohort), 16.0, bits)
    shares = dict(zip(sorted(cohort), weights, strict=False))
    session = session_of(0, layout=layout, cohort=cohort, weights=shares)
    divisor = session.total_weight(session.cohort)
    assert divisor == sum(shares.values())
    own = {place: tensors(place, layout, seed) for place in session.cohort}
    words = {place: encode(layout, own[place], session.weight(place)) for place in session.cohort}
    total, places = rounds.run(session, identities(session), words)
    mean = {name: sum(shares[place] * own[place][name].double() for place in places) / divisor for name in ("w", "s")}
    bound = len(places) * layout.slots[0].step / 2 / divisor + 1e-14
    assert_close(decode(layout, total, len(places), divisor), mean, rtol=0, atol=bound)


def test_any_one_lost_at_any_step_is_recovered() -> None:
    session = session_of(5, threshold=3)
    for place, step in itertools.product(session.cohort, STEPS):
        check_sum(session, run(session, {place: step}), {place: step})


def test_any_two_lost_at_any_steps_are_recovered() -> None:
    session = session_of(5, threshold=3)
    for pair, steps in itertools.product(itertools.combinations(session.cohort, 2), itertools.product(STEPS, STEPS)):
        lost = dict(zip(pair, steps, strict=True))
        check_sum(session, run(session, lost), lost)


@pytest.mark.parametrize("step", STEPS)
def test_below_the_threshold_the_round_is_refused(step: str) -> None:
    session = session_of(5, threshold=4)
    check_sum(session, run(session, {1: step}), {1: step})
    what = {"advertise": "keys", "share": "shares", "mask": "masked vectors", "confirm": "confirmations"}
    sentence = rf"^3 of 5 clients sent {what.get(step, 'revealed shares')} in round 4's update and 4 are needed, so it "
    with pytest.raises(FedhaError, match=sentence):
        run(session, {1: step, 3: step})


def test_fewer_than_the_minimum_are_not_summed_even_above_the_threshold() -> None:
    assert run(session_of(3, threshold=2, minimum=2), {1: "mask"})[1] == (0, 2)
    with pytest.raises(FedhaError, match=r"2 of 3 clients sent masked vectors in round 4's update and 3 are needed"):
        run(session_of(3, threshold=2), {1: "mask"})
    assert run(session_of(3, threshold=2), {1: "confirm"})[1] == (0, 1, 2)  # its vector is in the sum


def test_with_two_clients_each_knows_the_other_s_numbers() -> None:
    """The limit that the minimum of three is for."""
    session = session_of(2, minimum=2)
    words = encoded(session)
    total, places = rounds.run(session, identities(session), words)
    assert np.array_equal((total - words[0])[:-1], words[1][:-1])
    assert places == (0, 1)


@given(st.integers(2, 6), st.integers(0, 10**6))
def test_pair_masks_sum_to_zero(clients: int, base: int) -> None:
    words, pairs = np.zeros(11, "<u8"), [new_key_pair() for _ in range(clients)]
    for one, other in itertools.permutations(range(clients), 2):
        add_pair_mask(words, pairs[one].private, pairs[other].public, b"t" * 32, base + one, base + other)
        assert words.any() == ((one, other) != (clients - 1, clients - 2))
    assert not words.any()


def test_the_sum_is_the_same_in_any_order_of_arrival() -> None:
    session = session_of(4)
    told = tell(session)
    for order in itertools.permutations(session.cohort):
        server = told.server_at("add_masked", without=session.cohort)
        for place in order:
            server.add_masked(told.message("add_masked", place))
        server.close_masked()
        for place in session.cohort:
            server.add_confirmation(told.message("add_confirmation", place))
        server.close_confirmations()
        for place in reversed(session.cohort):
            server.add_revealed(told.message("add_revealed", place))
        check_sum(session, server.close_revealed(), {})


# --- what is said ---


def test_states_and_messages_are_the_same_after_a_way_as_bytes() -> None:
    session = session_of(5, threshold=3)
    seen = set()

    def there_and_back(value: Any) -> Any:
        if isinstance(value, MaskedInput):
            again = read_masked_input(session, value.to_bytes())
            assert np.array_equal(again.words, value.words)
        elif isinstance(value, dict):
            return {place: there_and_back(one) for place, one in value.items()}
        elif isinstance(value, tuple):
            return tuple(there_and_back(one) for one in value)
        elif value is None or isinstance(value, np.ndarray | int):
            return value
        else:
            again = unpack(type(value), pack(value))
        assert again == value
        seen.add(type(value).__name__)
        return again

    def call(who: int | None, step: Any, *arguments: Any) -> Any:
        return there_and_back(step(*arguments))

    lost = {4: "mask"}
    check_sum(session, rounds.run(session, identities(session), encoded(session), b"", lost, call), lost)
    states = {"Advertised", "Shared", "Masked", "Confirmed"}
    client = {"Advert", "Dealing", "MaskedInput", "Confirmation", "Revealed"}
    assert seen == states | client | {"KeyList", "Inbox", "Survivors", "Confirmations"}


@pytest.mark.parametrize("bits", [32, 64])
def test_nothing_that_the_server_receives_holds_a_client_s_numbers(bits: int) -> None:
    """Neither its tensors' bytes nor any of its encoded words; a chance hit has probability below 1e-4 in all."""
    layout = make_layout({"head.weight": (3, 4), "examples": ()}, 4, 16.0, bits)
    session = session_of(4, layout=layout, threshold=3)
    words = {place: encode(layout, tensors(place, layout), 0.25) for place in session.cohort}
    told = tell(session, words, {3: "confirm"})
    received = [raw(one) for one in told.received] + [
        one.to_bytes() if isinstance(one, MaskedInput) else pack(one) for one in told.received
    ]
    width = layout.dtype.itemsize
    assert len(told.received) == 4 * 3 + 3 * 2
    for place in session.cohort:
        own = [value.numpy().tobytes() for value in tensors(place, layout).values()]
        own += [value.double().numpy().tobytes() for value in tensors(place, layout).values()]
        own += [words[place].tobytes()[start : start + width] for start in range(0, width * (layout.words - 1), width)]
        assert not [needle for needle in own for hay in received if needle in hay]


def test_the_search_finds_what_is_there() -> None:
    """The same search, with a client that sends its vector without masks."""
    session = session_of(4)
    words = encoded(session)
    assert words[2].tobytes()[:8] in raw(MaskedInput(session.digest, 2, words[2]))


def test_no_secret_leaves_a_client_but_as_a_share() -> None:
    session = session_of(4, threshold=3)
    told = tell(session, silent={3: "mask"})
    received = b"".join(raw(one) for one in told.received)
    for place in session.cohort:
        state = told.results["advertise", place][0]
        for secret in (state.mask_private, state.channel_private, state.seed):
            assert secret not in received
        public = told.results["advertise", place][1]
        assert public.mask_key in received


def test_a_client_gives_one_kind_of_share_of_every_other_and_never_both() -> None:
    told = tell(session_of(5, threshold=3), silent={1: "mask", 4: "confirm"})
    for place in (0, 2, 3):
        said = told.message("add_revealed", place)
        assert [share.owner for share in said.seeds] == [place, *sorted({0, 2, 3, 4} - {place})]
        assert [share.owner for share in said.keys] == [1]


def test_states_forget_what_is_not_needed_any_more() -> None:
    told = tell(session_of(4))
    for place in range(4):
        first = told.results["advertise", place][0]
        secrets = (first.mask_private, first.channel_private, first.seed)
        shared = pack(told.results["share_keys", place][0])
        masked, confirmed = (told.results[step, place][0] for step in ("mask_input", "confirm"))
        assert all(secret in raw(first) for secret in secrets)
        assert shared
        assert not [one for one in secrets for state in (masked, confirmed) if one in leaves(state)]
        assert not [one for one in secrets if repr(one) in repr((first, told.results["share_keys", place][0]))]


# --- masked vectors look uniform ---


def masked(session: Session, words: Words) -> list[Words]:
    told = tell(session, dict.fromkeys(session.cohort, words))
    return [told.message("add_masked", place).words for place in session.cohort]


def test_a_masked_vector_is_another_one_each_time_and_for_each_client() -> None:
    """Of the same numbers in the same session, sent again by the server: a word agrees with probability 2^-64."""
    session = session_of(3, layout=make_layout({"w": (1000,)}, 3))
    plain = encode(session.layout, {"w": torch.ones(1000)})
    vectors = [plain, *masked(session, plain), *masked(session, plain)]
    for one, other in itertools.combinations(vectors, 2):
        assert not np.any(one == other)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_masked_vector_s_bytes_are_spread_evenly(value: float) -> None:
    """Whatever is in it; chi-square at a false alarm of 1e-9 for each of three vectors."""
    session = session_of(3, layout=make_layout({"w": (50_000,)}, 3))
    for vector in masked(session, encode(session.layout, {"w": torch.full((50_000,), value)})):
        counts = np.bincount(vector.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-9, 255)


def test_masked_vectors_of_opposite_numbers_have_the_same_bits_on_average() -> None:
    """Each bit of the mean difference is within 6.5 standard deviations: a false alarm of 128 * 8e-11 = 1e-8."""
    session = session_of(3, layout=make_layout({"w": (20_000,)}, 3))
    for value in (-1000.0, 1000.0):
        vector = masked(session, encode(session.layout, {"w": torch.full((20_000,), value)}))[0]
        bits = np.unpackbits(vector.view(np.uint8)).reshape(-1, 64).mean(axis=0)
        assert np.abs(bits - 0.5).max() < 6.5 * 0.5 / np.sqrt(20_001)


def test_the_example_of_the_description_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DESCRIPTION.read_text(encoding="utf-8"), re.DOTALL)
    made: dict[str, Any] = {}
    exec(example, made)
    expected = sum(update["head.weight"].double() for update in made["updates"][:4]) / 4
    assert_close(made["mean"]["head.weight"], expected, rtol=0, atol=1e-12)
