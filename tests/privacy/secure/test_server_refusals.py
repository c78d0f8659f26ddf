"""What a broken client or the network might send to the server: refused with one sentence, and it goes on."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedha.privacy.secure import client, rounds, sharing
from fedha.privacy.secure.agreement import new_key_pair
from fedha.privacy.secure.encoding import decode
from fedha.privacy.secure.identity import Roster
from fedha.privacy.secure.keys import sign_advert
from fedha.privacy.secure.messages import (
    Confirmation,
    Share,
    read_masked_input,
    survivors_statement,
)
from tests.privacy.secure.told import (
    ADD_NAMES,
    OTHER_SESSIONS,
    QUESTION,
    Told,
    close,
    elsewhere,
    encoded,
    identities,
    identity,
    refuse,
    session_of,
    tell,
    usual,
)


@pytest.mark.parametrize("add", ADD_NAMES)
@pytest.mark.parametrize("which", range(len(OTHER_SESSIONS)), ids=lambda which: next(iter(OTHER_SESSIONS[which])))
def test_a_message_of_another_session_is_refused(add: str, which: int) -> None:
    server = usual().server_at(add, without=(0,))
    message = elsewhere(which).message(add, 0)
    refuse(
        getattr(server, add), message, match=r"^client 0's .* came to round 4's update but belong to another run, rou"
    )
    getattr(server, add)(usual().message(add, 0))  # nothing was changed


@pytest.mark.parametrize("add", ["add_advert", "add_dealing", "add_confirmation", "add_revealed"])
def test_a_message_that_claims_this_session_but_was_made_in_another_is_refused(add: str) -> None:
    """The digest is put right by whoever replays it; signatures, boxes and shares are still of the other session."""
    server = usual().server_at(add, without=(0,))
    forged = replace(elsewhere(0).message(add, 0), session=usual().session.digest)
    if add == "add_dealing":  # the server cannot tell, its receiver does
        getattr(server, add)(forged)
        inbox = server.close_dealings(QUESTION)[1]
        state = usual().results["share_keys", 1][0]
        refuse(
            client.mask_input,
            state,
            inbox,
            usual().words[1],
            QUESTION,
            match=r"^the shares from client 0 .* cannot be opened",
        )
    else:
        refuse(getattr(server, add), forged, match=r"do not carry its signature|does not verify")


@pytest.mark.parametrize("add", ADD_NAMES)
def test_a_message_of_a_stranger_is_refused(add: str) -> None:
    server = usual().server_at(add, without=(0,))
    message = usual().message(add, 0)
    forged = replace(message, client_id=9)
    refuse(getattr(server, add), forged, match=r"^client 9 sends .* and was not asked; they are left out$")


@pytest.mark.parametrize("add", ADD_NAMES[2:])
def test_a_message_of_a_client_that_was_lost_before_is_refused(add: str) -> None:
    stranger = replace(usual().message(add, 0), client_id=4)
    server = usual().server_at(add)
    if add == "add_masked":
        server.close_masked()
        refuse(
            server.add_masked, stranger, match=r"^client 4's masked vectors came while .* is at confirmations; they w"
        )
    else:
        refuse(getattr(server, add), stranger, match=r"^client 4 sends .* and was not asked")


@pytest.mark.parametrize("add", ADD_NAMES)
def test_a_message_that_comes_twice_or_late_or_early_is_refused(add: str) -> None:
    server, message = usual().server_at(add), usual().message(add, 1)
    refuse(getattr(server, add), message, match=r"^client 1 sends .* twice; the first ones count$")
    for other in ADD_NAMES:
        if other != add:
            early = usual().message(other, 1)
            refuse(
                getattr(server, other), early, match=r"^client 1's .* came while round 4's update is at .*; they were"
            )
            refuse(functools.partial(close, server, other), match=r"take the steps in their order$")
    close(server, add)
    refuse(getattr(server, add), message, match=r"^client 1's .* came while")


def test_a_message_that_comes_twice_is_summed_once() -> None:
    server = usual().server_at("add_masked")
    refuse(server.add_masked, usual().message("add_masked", 1), match="twice")
    assert server.close_masked().client_ids == (0, 1, 2, 3)
    for place in range(4):
        server.add_confirmation(usual().message("add_confirmation", place))
    server.close_confirmations()
    for place in range(4):
        server.add_revealed(usual().message("add_revealed", place))
    words, places = server.close_revealed()
    assert np.array_equal(words, np.sum([usual().words[place] for place in places], axis=0, dtype="<u8"))


def test_keys_that_are_not_their_client_s_are_refused() -> None:
    server = usual().server_at("add_advert", without=(0,))
    real = usual().message("add_advert", 0)
    other = new_key_pair().public
    for change in ({"channel_key": other}, {"mask_key": other}, {"seed_mark": other}, {"signature": b"no"}):
        refuse(
            server.add_advert, replace(real, **change), match=r"^the keys that should be client 0's do not carry its si"
        )
    by_another = sign_advert(usual().session, 0, other, real.mask_key, bytes(32), identity(1))
    refuse(server.add_advert, by_another, match=r"^the keys that should be client 0's do not carry its signature")
    short = replace(real, channel_key=other[:-1])
    refuse(server.add_advert, short, match=r"^client 0's keys do not have 32 bytes")
    stolen = sign_advert(usual().session, 0, other, usual().message("add_advert", 1).mask_key, bytes(32), identity(0))
    refuse(
        server.add_advert, stolen, match=r"^clients 1 and 0 have one public key in round 4's update; every key must b"
    )
    server.add_advert(real)


def test_boxes_that_are_not_for_all_others_are_refused() -> None:
    server = usual().server_at("add_dealing", without=(0,))
    real = usual().message("add_dealing", 0)
    for boxes in (
        real.boxes[:-1],
        real.boxes[::-1],
        (*real.boxes, real.boxes[-1]),
        (replace(real.boxes[0], dealer=1), *real.boxes[1:]),
        (*real.boxes[:-1], replace(real.boxes[-1], holder=7)),
    ):
        refuse(server.add_dealing, replace(real, boxes=boxes), match=r"^client 0 does not deal to all others")
    server.add_dealing(real)


def test_vectors_that_do_not_fit_are_refused() -> None:
    server = usual().server_at("add_masked", without=(0,))
    real = usual().message("add_masked", 0)
    for words in (real.words[:-1], real.words.astype("<u4"), real.words.reshape(1, -1)):
        refuse(
            server.add_masked, replace(real, words=words), match=r"^client 0's vector of .* is not what round 4's updat"
        )
    server.add_masked(real)
    session = usual().session
    for data in (real.to_bytes()[:-1], real.to_bytes() + b"\0"):
        refuse(
            read_masked_input, session, data, match=r"^client 0 sent 11[13] bytes to round 4's update where 112 were ag"
        )
    refuse(read_masked_input, session, b"", match=r"^0 bytes that should be a _Heading")


def test_survivors_of_too_uneven_weights_end_the_sum() -> None:
    story = tell(session_of(5, threshold=3, weights={0: 1.0, 1: 1.0, 2: 0.2, 3: 0.001, 4: 0.001}))
    server = story.server_at("add_masked", without=(2,))
    refuse(
        server.close_masked, match=r"^the heaviest client in round 4's update weighs 1, and fewer than 3 weigh a tenth"
    )


def test_a_confirmation_of_another_set_is_refused() -> None:
    server = usual().server_at("add_confirmation", without=(0,))
    context = usual().results["mask_input", 0][0].context
    for signed in (
        survivors_statement(context, (0, 1, 2)),
        survivors_statement(bytes(32), (0, 1, 2, 3)),
    ):
        forged = Confirmation(usual().session.digest, 0, identity(0).sign(signed))
        refuse(
            server.add_confirmation,
            forged,
            match=r"^the survivors and the question that should be client 0's do not carry its sig",
        )
    server.add_confirmation(usual().message("add_confirmation", 0))


@pytest.mark.parametrize("kind", ["seeds", "keys"])
def test_a_share_that_does_not_verify_is_refused_and_the_round_goes_on(kind: str) -> None:
    server = usual().server_at("add_revealed", without=(0,))
    real = usual().message("add_revealed", 0)
    first, *rest = getattr(real, kind)
    what = kind[:-1]
    value = (int.from_bytes(first.value, "big") ^ 1).to_bytes(sharing.SHARE_BYTES, "big")
    for wrong in (Share(first.owner, value), Share(first.owner, b""), Share(first.owner, b"\0" + first.value)):
        forged = replace(real, **{kind: (wrong, *rest)})
        refuse(
            server.add_revealed, forged, match=rf"^client 0's share of client {first.owner}'s {what} .* does not verify"
        )
    for shares in ((), (first, first, *rest), (*rest, Share(9, first.value)), (*rest, first, Share(9, first.value))):
        forged = replace(real, **{kind: tuple(shares)})
        refuse(
            server.add_revealed, forged, match=rf"^client 0 gives other {what} shares than round 4's update asked for"
        )
    both = replace(real, seeds=real.keys, keys=real.seeds)
    refuse(server.add_revealed, both, match=r"^client 0 gives other seed shares")
    words, places = server.close_revealed()
    assert np.array_equal(words, np.sum([usual().words[place] for place in places], axis=0, dtype="<u8"))


@pytest.mark.parametrize("secret", ["seed", "key"])
def test_a_dealer_whose_shares_do_not_fit_is_named(secret: str) -> None:
    """It seals and marks shares of something else than what it advertised: nobody sees it before they are combined."""
    liar = 0 if secret == "seed" else 4

    def share_keys(state: Any, keys: Any, known: Roster) -> Any:
        if secret == "seed":
            return client.share_keys(replace(state, seed=bytes(32)), keys, known)
        other = new_key_pair()
        real = client.share_keys(replace(state, mask_private=other.private), keys, known)
        return replace(real[0], mask_private=state.mask_private), real[1]

    story = Told(session_of(5, threshold=3), encoded(session_of(5)))

    def call(who: int | None, taken: Any, *arguments: Any) -> Any:
        return story.call(who, share_keys if who == liar and taken is client.share_keys else taken, *arguments)

    refuse(
        rounds.run,
        story.session,
        identities(story.session),
        story.words,
        QUESTION,
        {4: "mask"},
        call,
        match=rf"^the shares that client {liar} dealt in round 4's update do not give what it advertised; that ",
    )


def test_a_vector_that_is_none_spoils_the_sum_and_is_seen() -> None:
    server = usual().server_at("add_masked", without=(0,))
    server.add_masked(replace(usual().message("add_masked", 0), words=usual().words[0]))  # without masks
    server.close_masked()
    for place in range(4):
        server.add_confirmation(usual().message("add_confirmation", place))
    server.close_confirmations()
    for place in range(4):
        server.add_revealed(usual().message("add_revealed", place))
    words, places = server.close_revealed()
    refuse(decode, usual().session.layout, words, len(places), match=r"^the sum of 4 clients means nothing")
