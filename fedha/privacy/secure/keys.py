"""Adverts: signed, and checked one by one and together."""

from dataclasses import replace

from fedha.errors import FedhaError
from fedha.privacy.secure.agreement import KEY_BYTES
from fedha.privacy.secure.checks import check_client_ids, check_session
from fedha.privacy.secure.identity import Identity, Roster
from fedha.privacy.secure.messages import Advert, KeyList
from fedha.privacy.secure.past import Past
from fedha.privacy.secure.sealing import seed_mark
from fedha.privacy.secure.session import Session


def check_roster(session: Session, client_id: int, identity: Identity, roster: Roster) -> None:
    """Refuse a session with somebody who is not in the roster, or where this client is not who it thinks.

    Raises:
        FedhaError: It is one.
    """
    strangers = [other for other in session.cohort if other not in roster.keys]
    if strangers:
        raise FedhaError(
            f"{session.name} is to be summed with client {strangers[0]}, who is not in this client's roster; add its "
            "public key if it belongs there"
        )
    if client_id not in session.cohort or roster.keys[client_id] != identity.public:
        raise FedhaError(
            f"this client is not the client {client_id} of {session.name}'s roster; see that its id and identity key "
            "are those that the others were given"
        )


def sign_advert(
    session: Session,
    client_id: int,
    channel_key: bytes,
    mask_key: bytes,
    seed: bytes,
    identity: Identity,
    past: Past = Past(),  # noqa: B008  # a frozen value
) -> Advert:
    """A client's public keys of a session and which sums it remembers, with its signature."""
    marked = seed_mark(session.digest, client_id, seed)
    bare = Advert(session.digest, client_id, channel_key, mask_key, marked, past, b"")
    return replace(bare, signature=identity.sign(bare.statement))


def check_advert(session: Session, advert: Advert, roster: Roster) -> None:
    """Hold an advert to its session and to its client's identity.

    Raises:
        FedhaError: It is of another session, of a stranger, not signed by its client, or its keys are none.
    """
    check_session(session, advert.session, "keys")
    if advert.client_id not in session.cohort:
        raise FedhaError(f"client {advert.client_id} sends keys to {session.name} but takes no part in it")
    if not len(advert.channel_key) == len(advert.mask_key) == len(advert.seed_mark) == KEY_BYTES:
        raise FedhaError(
            f"client {advert.client_id}'s keys do not have {KEY_BYTES} bytes; that client is broken or cheats"
        )
    roster.verify(advert.client_id, advert.statement, advert.signature, "the keys")


def check_distinct(session: Session, adverts: tuple[Advert, ...]) -> None:
    """Refuse adverts of which two have a public key in common.

    Raises:
        FedhaError: There are two.
    """
    owners: dict[bytes, int] = {}
    for advert in adverts:
        for key in (advert.channel_key, advert.mask_key):
            if key in owners:
                raise FedhaError(
                    f"clients {owners[key]} and {advert.client_id} have one public key in {session.name}; every key "
                    "must be fresh, so one of them copies the other's or draws no randomness"
                )
            owners[key] = advert.client_id


def check_keys(session: Session, keys: KeyList, own: Advert, roster: Roster) -> None:
    """Refuse a list of keys that is not complete, consistent and signed.

    Args:
        session: The session.
        keys: From the server.
        own: This client's advert, which must be in the list as it was sent.
        roster: What this client believes about the others.

    Raises:
        FedhaError: It is one.
    """
    check_session(session, keys.session, "the keys")
    check_client_ids(tuple(advert.client_id for advert in keys.adverts), session.cohort, "the keys")
    if len(keys.adverts) < session.quorum:
        raise FedhaError(
            f"{len(keys.adverts)} clients sent keys to {session.name} and {session.quorum} are needed; "
            "have more clients, or lower the threshold"
        )
    if keys.by_client_id.get(own.client_id) != own:
        raise FedhaError(f"client {own.client_id}'s own keys in {session.name} are not those that it sent")
    check_distinct(session, keys.adverts)
    for client_id in session.others(own.client_id):
        if client_id in keys.by_client_id:
            check_advert(session, keys.by_client_id[client_id], roster)
