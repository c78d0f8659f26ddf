"""A client's five steps, as pure functions from a state and a message to the next state and an answer.

The steps are those of Bonawitz et al. (CCS 2017), figure 4, with the parts against an active adversary: advertise,
share keys, mask the input, confirm the survivors, reveal shares. A step that refuses its message leaves the state as it
was. A new state must be stored before the answer is sent, in the place of the old one.
"""

import secrets

from fedha.errors import FedhaError
from fedha.privacy.secure.agreement import new_key_pair
from fedha.privacy.secure.checks import check_client_ids, check_session
from fedha.privacy.secure.identity import Identity, Roster
from fedha.privacy.secure.keys import check_keys, check_roster, sign_advert
from fedha.privacy.secure.layout import Words
from fedha.privacy.secure.messages import (
    Advert,
    Confirmation,
    Confirmations,
    Dealing,
    Inbox,
    KeyList,
    MaskedInput,
    Revealed,
    Share,
    Survivors,
    masks_context,
    survivors_statement,
)
from fedha.privacy.secure.pairs import add_pair_mask, add_self_mask
from fedha.privacy.secure.past import Past
from fedha.privacy.secure.sealing import Held, open_box, own_box, seal
from fedha.privacy.secure.session import MINIMUM, Session
from fedha.privacy.secure.sharing import SECRET_BYTES, split
from fedha.privacy.secure.states import Advertised, Confirmed, Masked, Shared


def advertise(
    session: Session,
    client_id: int,
    identity: Identity,
    roster: Roster,
    minimum: int = MINIMUM,
    past: Past = Past(),  # noqa: B008  # a frozen value
) -> tuple[Advertised, Advert]:
    """Step 1: draw fresh keys for this session and sign them.

    Args:
        session: As the server proposes it.
        client_id: This client's.
        identity: This client's.
        roster: What this client believes about the others.
        minimum: The fewest clients that this client lets itself be summed with, itself included.
        past: Which sums its memory is of.

    Raises:
        FedhaError: The session allows smaller sums, or its cohort is not in the roster, or this client is not.
    """
    check_roster(session, client_id, identity, roster)
    if session.minimum < minimum:
        raise FedhaError(
            f"{session.name} may sum as few as {session.minimum} clients and this one wants {minimum}; raise the "
            "server's minimum, or lower the client's (in a sum of two each knows the other's part)"
        )
    mask, channel, seed = new_key_pair(), new_key_pair(), secrets.token_bytes(SECRET_BYTES)
    advert = sign_advert(session, client_id, channel.public, mask.public, seed, identity, past)
    return Advertised(session, advert, mask.private, channel.private, seed), advert


def share_keys(state: Advertised, keys: KeyList, roster: Roster) -> tuple[Shared, Dealing]:
    """Step 2: verify everybody's keys, and deal shares of the own secrets to all.

    Args:
        state: After `advertise`.
        keys: From the server.
        roster: What this client believes about the others.

    Raises:
        FedhaError: A key is missing, doubled, substituted, not signed by its owner, or of another session.
    """
    session, client_id = state.session, state.advert.client_id
    check_keys(session, keys, state.advert, roster)
    here = list(keys.by_client_id)
    seeds = split(state.seed, session.threshold, [other + 1 for other in here])
    shares = split(state.mask_private, session.threshold, [other + 1 for other in here])
    boxes = []
    for other in here:
        both = seeds[other + 1], shares[other + 1]
        if other == client_id:
            boxes.append(own_box(keys.transcript, client_id, both))
        else:
            public = keys.by_client_id[other].channel_key
            boxes.append(seal(keys.transcript, state.channel_private, public, client_id, other, both))
    own = Held(client_id, seeds[client_id + 1], b"")
    shared = Shared(session, client_id, keys, state.mask_private, state.channel_private, state.seed, own)
    return shared, Dealing(session.digest, client_id, tuple(boxes))


def mask_input(
    state: Shared, inbox: Inbox, words: Words, question: bytes, companions: tuple[int, ...] = ()
) -> tuple[Masked, MaskedInput]:
    """Step 3: open the others' boxes, and send the vector with the self mask and all pair masks on.

    Args:
        state: After `share_keys`.
        inbox: From the server.
        words: This client's `encoding.encode` with the session's layout and weight; left as it is.
        question: What this client was asked, as it computes it itself from what it received: `question.question`.
        companions: If the vector holds anything of earlier rounds, who remembers the same: `past.companions`.

    Raises:
        FedhaError: Too few have dealt, a box cannot be opened, its shares do not verify, or the vector does not fit.
    """
    session, client_id, transcript = state.session, state.client_id, state.keys.transcript
    if words.shape != (session.layout.words,) or words.dtype != session.layout.dtype:
        raise FedhaError(f"a vector of {words.shape} {words.dtype} is not one that {session.name} agreed on; encode it")
    dealers, context = _check_inbox(state, inbox), masks_context(transcript, question)
    held = [state.own]
    masked = words.copy()
    add_self_mask(masked, state.seed, context, client_id, 1)
    for box in inbox.boxes:
        theirs = state.keys.by_client_id[box.dealer]
        held.append(open_box(transcript, state.channel_private, theirs.channel_key, box))
        add_pair_mask(masked, state.mask_private, theirs.mask_key, context, client_id, box.dealer)
    return (
        Masked(session, client_id, context, dealers, companions, tuple(held)),
        MaskedInput(session.digest, client_id, masked),
    )


def confirm(state: Masked, survivors: Survivors, identity: Identity) -> tuple[Confirmed, Confirmation]:
    """Step 4: sign the one set of survivors that this client will give shares for.

    Args:
        state: After `mask_input`.
        survivors: From the server.
        identity: This client's.

    Raises:
        FedhaError: The set is too small or of too uneven weights, also of those alone who remember what this client
            does; or it names somebody who has not dealt, or leaves this client out.
    """
    session, client_ids = state.session, survivors.client_ids
    check_session(session, survivors.session, "the survivors")
    check_client_ids(client_ids, state.dealers, "the survivors")
    if len(client_ids) < session.quorum:
        raise FedhaError(
            f"{len(client_ids)} clients are left in {session.name}, and their sum may be learnt from {session.quorum} "
            "on; this client gives no shares"
        )
    if state.client_id not in client_ids:
        raise FedhaError(f"{session.name} is summed without client {state.client_id}; it gives no shares for that")
    session.check_weights(client_ids)
    if state.companions and not session.hides([one for one in client_ids if one in state.companions]):
        raise FedhaError(
            f"fewer than {session.minimum} of the clients left in {session.name} remember what client "
            f"{state.client_id} does of earlier rounds, so its memory would lie open; it gives no shares"
        )
    signature = identity.sign(survivors_statement(state.context, client_ids))
    return (
        Confirmed(session, state.client_id, state.context, client_ids, state.held),
        Confirmation(session.digest, state.client_id, signature),
    )


def reveal(state: Confirmed, confirmations: Confirmations, roster: Roster) -> Revealed:
    """Step 5: give shares of the survivors' seeds and of the lost clients' mask keys, if enough confirmed the same.

    Args:
        state: After `confirm`; forget it before the answer is sent.
        confirmations: From the server.
        roster: What this client believes about the others.

    Raises:
        FedhaError: Too few confirmations, or one that is not its owner's of the same survivors.
    """
    session, given = state.session, confirmations.confirmations
    check_session(session, confirmations.session, "the confirmations")
    check_client_ids(tuple(one.client_id for one in given), state.survivors, "the confirmations")
    if len(given) < session.threshold:
        raise FedhaError(
            f"{len(given)} clients confirm the survivors of {session.name} and {session.threshold} must; "
            "this client gives no shares"
        )
    signed = survivors_statement(state.context, state.survivors)
    for one in given:
        roster.verify(one.client_id, signed, one.signature, "the survivors and the question")
    alive = set(state.survivors)
    return Revealed(
        session.digest,
        state.client_id,
        tuple(Share(one.dealer, one.seed) for one in state.held if one.dealer in alive),
        tuple(Share(one.dealer, one.key) for one in state.held if one.dealer not in alive),
    )


def _check_inbox(state: Shared, inbox: Inbox) -> tuple[int, ...]:
    """Who has dealt; refuses an inbox that is not the one of this client."""
    session, dealers = state.session, inbox.dealers
    check_session(session, inbox.session, "the shares")
    check_client_ids(dealers, tuple(state.keys.by_client_id), "the shares")
    others = tuple(other for other in dealers if other != state.client_id)
    if state.client_id not in dealers or any(box.holder != state.client_id for box in inbox.boxes):
        raise FedhaError(
            f"the shares in {session.name} are not those for client {state.client_id}; the server mixes them"
        )
    if tuple(box.dealer for box in inbox.boxes) != others:
        raise FedhaError(f"client {state.client_id} was not sent the shares of all who dealt in {session.name}")
    if len(dealers) < session.quorum:
        raise FedhaError(
            f"{len(dealers)} clients have dealt shares in {session.name} and {session.quorum} are needed; this client "
            "sends nothing"
        )
    return dealers
