"""A site's signing key: one that the site's app holds, vouched for by the site's long-term identity, which it does not.

A SuperNode's identity key speaks for the site to the server and stays with the node. The app that computes has a key of
its own, with a statement that the identity key has signed: this key signs for me in secure sums.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedha.errors import FedhaError
from fedha.privacy.secure.identity import Identity, Roster
from fedha.privacy.secure.packing import pack, statement, unpack


@dataclass(frozen=True)
class Delegation:
    """One site's entry in the roster; nothing in it is secret.

    Attributes:
        client_id: The client's, in client order.
        name: The site's.
        identity: The public identity key of its SuperNode, as DER.
        key: The public key that signs for it, as DER.
        signature: Of the above, by the identity key.
    """

    client_id: int
    name: str
    identity: bytes
    key: bytes
    signature: bytes


@dataclass(frozen=True)
class Delegations:
    """What a roster's file holds, by client id ascending."""

    entries: tuple[Delegation, ...]


def delegate(identity: Identity, client_id: int, name: str, key: bytes) -> Delegation:
    """Let a key sign for a site.

    Args:
        identity: The site's long-term one.
        client_id: The client's.
        name: The site's.
        key: The public key as DER.
    """
    return Delegation(
        client_id, name, identity.public, key, identity.sign(_statement(client_id, name, identity.public, key))
    )


def write_roster(entries: Iterable[Delegation]) -> bytes:
    """A roster's file."""
    return pack(Delegations(tuple(sorted(entries, key=lambda one: one.client_id)))) + b"\n"


def read_roster(text: bytes) -> tuple[Delegation, ...]:
    """Read what `write_roster` wrote, and hold every entry to its identity's signature.

    Raises:
        FedhaError: It is no roster, an entry is not signed by its identity, or two have one client id or key.
    """
    entries = unpack(Delegations, text).entries
    if len({one.client_id for one in entries}) < len(entries):
        raise FedhaError("two sites of the roster have one client id; take the file that `fedha deploy` wrote last")
    identities = Roster({one.client_id: one.identity for one in entries})
    for one in entries:
        said = _statement(one.client_id, one.name, one.identity, one.key)
        identities.verify(one.client_id, said, one.signature, f"the roster's words of {one.name}")
    return entries


def roster_of(entries: Sequence[Delegation]) -> Roster:
    """Whom a client believes: the keys that sign for the sites."""
    return Roster({one.client_id: one.key for one in entries})


def _statement(client_id: int, name: str, identity: bytes, key: bytes) -> bytes:
    return statement("signing key", client_id, name, identity, key)
