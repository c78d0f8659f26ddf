"""What a malicious server might send to a client: each is refused with one sentence."""

import functools
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedha.privacy.secure import client
from fedha.privacy.secure.agreement import new_key_pair
from fedha.privacy.secure.identity import Roster, new_identity
from fedha.privacy.secure.keys import sign_advert
from fedha.privacy.secure.messages import (
    Confirmation,
    Confirmations,
    Inbox,
    KeyList,
    Survivors,
    masks_context,
    survivors_statement,
)
from fedha.privacy.secure.pairs import add_pair_mask
from fedha.privacy.secure.sealing import own_box, seal
from tests.privacy.secure.told import (
    OTHER_SESSIONS,
    QUESTION,
    elsewhere,
    identity,
    once_more,
    refuse,
    roster,
    session_of,
    step,
    swap,
    tell,
    usual,
)

# --- keys: steps 1 and 2 ---


def test_a_client_joins_no_session_that_it_would_not_be_safe_in() -> None:
    session, known = usual().session, roster(usual().session)
    small = session_of(5, threshold=3, minimum=2)
    refuse(
        client.advertise, small, 0, identity(0), known, match=r"^round 4's update may sum as few as 2 clients and this"
    )
    refuse(client.advertise, session, 0, identity(0), known, 4, match=r"as few as 3 clients and this one wants 4")
    assert client.advertise(small, 0, identity(0), known, 2)
    refuse(
        client.advertise, session, 0, identity(1), known, match=r"^this client is not the client 0 of round 4's update'"
    )
    wider = Roster({**known.keys, 8: identity(8).public})
    refuse(client.advertise, session, 8, identity(8), wider, match=r"^this client is not the client 8")
    fewer = Roster({place: key for place, key in known.keys.items() if place != 3})
    refuse(
        client.advertise, session, 0, identity(0), fewer, match=r"^round 4's update is to be summed with client 3, who "
    )


def test_keys_that_the_server_substitutes_are_refused() -> None:
    state, keys, known = step("share_keys")
    fresh = new_key_pair().public
    for change in ({"channel_key": fresh}, {"mask_key": fresh}, {"seed_mark": fresh}, {"signature": b""}):
        forged = replace(keys, adverts=swap(keys.adverts, 2, **change))
        refuse(
            client.share_keys, state, forged, known, match=r"^the keys that should be client 2's do not carry its sign"
        )
    pretender = sign_advert(usual().session, 2, fresh, new_key_pair().public, bytes(32), new_identity())
    forged = replace(keys, adverts=tuple(pretender if one.client_id == 2 else one for one in keys.adverts))
    refuse(
        client.share_keys, state, forged, known, match=r"^the keys that should be client 2's do not carry its signatu"
    )
    own = sign_advert(usual().session, 0, fresh, new_key_pair().public, bytes(32), identity(0))
    forged = replace(keys, adverts=tuple(own if one.client_id == 0 else one for one in keys.adverts))
    refuse(
        client.share_keys, state, forged, known, match=r"^client 0's own keys in round 4's update are not those that "
    )


def test_keys_of_another_session_are_refused_by_a_client() -> None:
    state, keys, known = step("share_keys")
    for other in [elsewhere(which) for which in range(len(OTHER_SESSIONS))]:
        theirs = other.arguments["share_keys", 0][1]
        refuse(
            client.share_keys, state, theirs, known, match=r"^the keys came to round 4's update but belong to another"
        )
        old = next(one for one in theirs.adverts if one.client_id == 2)
        mixed = tuple(replace(old, session=keys.session) if one.client_id == 2 else one for one in keys.adverts)
        refuse(
            client.share_keys, state, replace(keys, adverts=mixed), known, match=r"client 2's do not carry its signat"
        )
        mixed = tuple(old if one.client_id == 2 else one for one in keys.adverts)
        refuse(
            client.share_keys, state, replace(keys, adverts=mixed), known, match=r"^keys came to round 4's update but"
        )
    replayed = once_more().arguments["share_keys", 0][1]
    refuse(client.share_keys, state, replayed, known, match=r"^client 0's own keys in round 4's update are not those")


def test_keys_that_are_missing_doubled_or_of_strangers_are_refused() -> None:
    state, keys, known = step("share_keys")
    adverts = keys.adverts
    doubled = sign_advert(usual().session, 3, new_key_pair().public, adverts[1].mask_key, bytes(32), identity(3))
    stranger = sign_advert(usual().session, 9, new_key_pair().public, new_key_pair().public, bytes(32), identity(9))
    same = new_key_pair().public
    twice = sign_advert(usual().session, 3, same, same, bytes(32), identity(3))
    for others, sentence in [
        (adverts[:2], r"^2 clients sent keys to round 4's update and 3 are needed"),
        (adverts[1:], r"^client 0's own keys in round 4's update are not those that it sent$"),
        ((*adverts[:3], doubled), r"^clients 1 and 3 have one public key"),
        ((*adverts[:3], twice), r"^clients 3 and 3 have one public key"),
        (
            (*adverts, stranger),
            r"^the keys are of client 9, who does not belong there; the server is broken or cheats$",
        ),
        ((*adverts, adverts[-1]), r"^the keys are not one a client, in order"),
        (adverts[::-1], r"^the keys are not one a client, in order"),
    ]:
        refuse(client.share_keys, state, replace(keys, adverts=others), known, match=sentence)


def test_a_key_of_low_order_is_refused_by_the_others() -> None:
    session, known = usual().session, roster(usual().session)
    state, own = client.advertise(session, 0, identity(0), known)
    bad = sign_advert(session, 1, bytes(32), new_key_pair().public, bytes(32), identity(1))
    others = [client.advertise(session, place, identity(place), known)[1] for place in (2, 3, 4)]
    keys = KeyList(session.digest, (own, bad, *others))
    refuse(client.share_keys, state, keys, known, match=r"^a public key of secure aggregation has low order")


# --- shares: step 3 ---


@given(st.integers(0, 2**20), st.integers(1, 255))
def test_a_box_that_was_changed_anywhere_is_refused(where: int, by: int) -> None:
    state, inbox, *vector = step("mask_input")
    box = inbox.boxes[1]
    place = where % len(box.sealed)
    sealed = bytearray(box.sealed)
    sealed[place] ^= by
    changed = replace(inbox, boxes=(inbox.boxes[0], replace(box, sealed=bytes(sealed)), *inbox.boxes[2:]))
    refuse(
        client.mask_input, state, changed, *vector, match=r"^the shares from client 2 for client 0 cannot be opened; th"
    )


def test_a_box_of_another_pair_session_or_mark_is_refused() -> None:
    state, inbox, *vector = step("mask_input")
    first, second, *rest = inbox.boxes
    there = step("mask_input", 1)[1].boxes[0]  # from client 0 to client 1: the other direction
    for box in (
        replace(first, sealed=second.sealed),
        replace(first, sealed=there.sealed),
        replace(first, sealed=elsewhere(0).arguments["mask_input", 0][1].boxes[0].sealed),
        replace(first, sealed=once_more().arguments["mask_input", 0][1].boxes[0].sealed),
        replace(first, sealed=b""),
        replace(first, seed_mark=second.seed_mark),
        replace(first, key_mark=second.key_mark),
    ):
        changed = replace(inbox, boxes=(box, second, *rest))
        refuse(
            client.mask_input, state, changed, *vector, match=r"^the shares from client 1 for client 0 cannot be opened"
        )


def test_a_box_whose_shares_are_not_those_that_were_marked_is_refused() -> None:
    """A dealer that would later have its holder blamed."""
    state, inbox, *vector = step("mask_input")
    transcript, dealer = state.keys.transcript, usual().results["advertise", 1][0]
    public = state.keys.by_client_id[0].channel_key
    sealed = functools.partial(seal, transcript, dealer.channel_private, public, 1, 0)
    longer = sealed((bytes(33), bytes(34)))
    for box in (longer, sealed((bytes(32), bytes(33)))):
        changed = replace(inbox, boxes=(box, *inbox.boxes[1:]))
        refuse(
            client.mask_input, state, changed, *vector, match=r"^the shares from client 1 do not verify; that client is"
        )
    assert own_box(transcript, 1, (bytes(33), bytes(33))).sealed == b""


def test_clients_that_were_shown_different_keys_share_nothing() -> None:
    """The server leaves client 4's keys out of what it shows to client 0 alone."""
    session, known = usual().session, roster(usual().session)
    states, adverts = zip(*(client.advertise(session, p, identity(p), known) for p in session.cohort), strict=True)
    whole = KeyList(session.digest, tuple(adverts))
    one, dealt = client.share_keys(states[0], replace(whole, adverts=tuple(adverts[:4])), known)
    others = [client.share_keys(states[place], whole, known) for place in (1, 2, 3)]
    assert len(dealt.boxes) == 4
    inbox = Inbox(session.digest, (0, 1, 2, 3), tuple(other[1].by_holder[0] for other in others))
    refuse(
        client.mask_input,
        one,
        inbox,
        usual().words[0],
        QUESTION,
        match=r"client 1 for client 0 cannot be opened; .* different k",
    )


def test_an_inbox_that_is_not_complete_is_refused() -> None:
    state, inbox, *vector = step("mask_input")
    theirs = step("mask_input", 1)[1]
    assert inbox.dealers == (0, 1, 2, 3, 4)
    for changed, sentence in [
        (
            replace(inbox, boxes=inbox.boxes[1:]),
            r"^client 0 was not sent the shares of all who dealt in round 4's updat",
        ),
        (replace(inbox, boxes=(*inbox.boxes, inbox.boxes[-1])), r"^client 0 was not sent the shares of all"),
        (replace(inbox, dealers=(0, 1, 2)), r"^client 0 was not sent the shares of all"),
        (
            Inbox(inbox.session, (0, 1), inbox.boxes[:1]),
            r"^2 clients have dealt shares in round 4's update and 3 are needed",
        ),
        (replace(inbox, dealers=(1, 2, 3, 4)), r"^the shares in round 4's update are not those for client 0"),
        (theirs, r"^the shares in round 4's update are not those for client 0; the server mixes them$"),
        (replace(inbox, dealers=(0, 1, 2, 3, 9)), r"^the shares are of client 9, who does not belong there"),
        (replace(inbox, dealers=(0, 1, 2, 4, 3)), r"^the shares are not one a client, in order"),
        (elsewhere(0).arguments["mask_input", 0][1], r"^the shares came to round 4's update but belong to another"),
    ]:
        refuse(client.mask_input, state, changed, *vector, match=sentence)


def test_an_inbox_of_too_few_is_refused() -> None:
    wide = tell(session_of(5, threshold=3, minimum=4))
    state, inbox, *vector = wide.arguments["mask_input", 0]
    few = Inbox(inbox.session, (0, 1, 2), inbox.boxes[:2])  # enough for the shares, not for the minimum
    refuse(client.mask_input, state, few, *vector, match=r"^3 clients have dealt .* and 4 are needed")
    assert client.mask_input(state, Inbox(inbox.session, (0, 1, 2, 3), inbox.boxes[:3]), *vector)


def test_a_vector_that_was_not_encoded_for_the_session_is_refused() -> None:
    state, inbox, *vector = step("mask_input")
    words, asked = vector
    for wrong in (words[:-1], words.astype("<u4"), words.astype("<f8")):
        refuse(
            client.mask_input,
            state,
            inbox,
            wrong,
            asked,
            match=r"is not one that round 4's update agreed on; encode it$",
        )


# --- survivors: steps 4 and 5 ---


def test_survivors_that_would_lay_somebody_open_are_refused() -> None:
    state, survivors, own = step("confirm")
    for places, sentence in [
        (
            (0, 1),
            r"^2 clients are left in round 4's update, and their sum may be learnt from 3 on; this client gives no s",
        ),
        ((0,), r"^1 clients are left"),
        ((1, 2, 3), r"^round 4's update is summed without client 0; it gives no shares for that$"),
        ((0, 1, 2, 9), r"^the survivors are of client 9, who does not belong there"),
        ((0, 1, 1, 2), r"^the survivors are not one a client, in order"),
        ((2, 1, 0), r"^the survivors are not one a client, in order"),
    ]:
        refuse(client.confirm, state, replace(survivors, client_ids=places), own, match=sentence)
    theirs = elsewhere(0).arguments["confirm", 0][1]
    refuse(client.confirm, state, theirs, own, match=r"^the survivors came to round 4's update but belong to another")
    assert client.confirm(state, Survivors(survivors.session, (0, 1, 4)), own)  # may be true: it gives shares once


def test_survivors_who_weigh_next_to_nothing_hide_nobody() -> None:
    weights = {0: 1.0, 1: 1.0, 2: 0.2, 3: 0.001, 4: 0.001}
    story = tell(session_of(5, threshold=3, weights=weights))
    state, survivors, own = story.arguments["confirm", 1]
    assert client.confirm(state, replace(survivors, client_ids=(0, 1, 2)), own)
    for places in ((0, 1, 3, 4), (1, 2, 3, 4)):
        refuse(
            client.confirm,
            state,
            replace(survivors, client_ids=places),
            own,
            match=r"^the heaviest client .* weighs 1, and",
        )


def test_survivors_above_the_threshold_but_under_the_minimum_are_refused() -> None:
    story = tell(session_of(5, threshold=3, minimum=4))
    state, survivors, own = story.arguments["confirm", 0]
    refuse(
        client.confirm, state, replace(survivors, client_ids=(0, 1, 2)), own, match=r"^3 clients are left .* from 4 on"
    )


def test_survivors_of_whom_too_few_remember_the_same_are_refused() -> None:
    """What a client keeps of earlier rounds would be all that the sum holds of them."""
    session = session_of(5, threshold=3)
    state, inbox, words, asked = tell(session).arguments["mask_input", 0]
    masked, _ = client.mask_input(state, inbox, words, asked, companions=(0, 1, 2))
    all_of_them, fewer = Survivors(session.digest, (0, 1, 2, 3)), Survivors(session.digest, (0, 1, 3, 4))
    assert client.confirm(masked, all_of_them, identity(0))
    refuse(
        client.confirm, masked, fewer, identity(0), match=r"^fewer than 3 of the clients left in .* client 0 does of"
    )


def test_confirmations_that_do_not_prove_it_are_refused() -> None:
    state, confirmations, known = step("reveal")
    given = confirmations.confirmations
    assert [one.client_id for one in given] == [0, 1, 2]
    lost = Confirmation(confirmations.session, 4, identity(4).sign(survivors_statement(state.context, (0, 1, 2, 3))))
    other = Confirmation(confirmations.session, 2, identity(2).sign(survivors_statement(state.context, (0, 1, 2))))
    for changed, sentence in [
        (given[:2], r"^2 clients confirm the survivors of round 4's update and 3 must; this client gives no shares$"),
        ((*given[:2], given[1]), r"^the confirmations are not one a client, in order"),
        ((*given[:2], lost), r"^the confirmations are of client 4, who does not belong there"),
        ((*given[:2], other), r"^the survivors and the question that should be client 2's do not carry its signature"),
        (
            (*given[:2], replace(given[1], client_id=2)),
            r"^the survivors and the question that should be client 2's do not carry its sign",
        ),
    ]:
        refuse(client.reveal, state, replace(confirmations, confirmations=changed), known, match=sentence)
    theirs = elsewhere(0).arguments["reveal", 0][1]
    refuse(client.reveal, state, theirs, known, match=r"^the confirmations came to round 4's update but belong to an")
    replayed = replace(once_more().arguments["reveal", 0][1], session=state.session.digest)
    refuse(
        client.reveal,
        state,
        replayed,
        known,
        match=r"^the survivors and the question that should be client 0's do not carry its sig",
    )


def test_a_server_that_tells_clients_of_different_survivors_gets_no_shares() -> None:
    """It has all five vectors and tells three clients that client 4 is lost, to undo its masks with both secrets."""
    story = tell(session_of(5, threshold=3))
    everybody, without = Survivors(story.session.digest, (0, 1, 2, 3, 4)), Survivors(story.session.digest, (0, 1, 2, 3))
    told_of = {0: without, 1: without, 2: everybody, 3: everybody, 4: everybody}
    said = {
        place: client.confirm(story.arguments["confirm", place][0], told_of[place], identity(place))
        for place in told_of
    }
    known = roster(story.session)
    for place, (state, _) in said.items():
        same = [one for other, (_, one) in said.items() if told_of[other] is told_of[place]]
        proof = Confirmations(story.session.digest, tuple(same))
        if told_of[place] is without:
            refuse(
                client.reveal, state, proof, known, match=r"^2 clients confirm the survivors of round 4's update and 3"
            )
            everyone = tuple(one for other, (_, one) in said.items() if other != 4)
            mixed = Confirmations(story.session.digest, everyone)
            refuse(
                client.reveal,
                state,
                mixed,
                known,
                match=r"^the survivors and the question that should be client 2's do not carry its",
            )
        else:  # the larger set has its three confirmations: its shares are of seeds alone
            assert client.reveal(state, proof, known).keys == ()


def test_clients_that_were_asked_different_questions_are_not_summed() -> None:
    """A malicious server shows client 0 another model than all others, whose updates it made zero."""
    story, known = tell(session_of(3)), roster(session_of(3))
    server, states = story.server_at("add_dealing"), {}
    for place, inbox in server.close_dealings(QUESTION).items():
        asked = b"another" if place == 0 else QUESTION
        shared = story.results["share_keys", place][0]
        states[place], masked = client.mask_input(shared, inbox, story.words[place], asked)
        server.add_masked(masked)
    survivors, said = server.close_masked(), {}
    for place in states:
        states[place], said[place] = client.confirm(states[place], survivors, identity(place))
    sentence = r"^the survivors and the question that should be client 0's do not carry its signature for this exchange"
    refuse(server.add_confirmation, said[0], match=sentence)
    proof = Confirmations(survivors.session, tuple(said.values()))
    refuse(client.reveal, states[1], proof, known, match=sentence)
    others = sentence.replace("client 0", "client 1")
    refuse(client.reveal, states[0], proof, known, match=others)


def test_a_pair_that_was_asked_different_questions_has_masks_that_stay() -> None:
    """So the sum means nothing even to a server that has all shares."""
    one, other = new_key_pair(), new_key_pair()
    for theirs, cancel in ((QUESTION, True), (b"another", False)):
        words = np.zeros(100, "<u8")
        add_pair_mask(words, one.private, other.public, masks_context(b"t", QUESTION), 0, 1)
        add_pair_mask(words, other.private, one.public, masks_context(b"t", theirs), 1, 0)
        assert words.any() != cancel
        assert cancel or words.all()
