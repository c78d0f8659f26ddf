"""A site's signing key: one that the site's app holds, vouched for by the site's long-term identity, which it does not.

A SuperNode's identity key speaks for the site to the server and stays with the node. The app that computes has a key of
its own, with a statement that the identity key has signed: this key signs for me in secure sums. Who the sites are,
the federation's authority says, whose key the server never has: it signs the roster as a whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedha.errors import FedhaError
from fedha.privacy.secure.identity import Identity, Roster, is_signed
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
    """The sites of a federation, by client id ascending."""

    entries: tuple[Delegation, ...]


@dataclass(frozen=True)
class SignedRoster:
    """What a roster's file holds: the sites, and the authority's signature of all of them together."""

    sites: Delegations
    signature: bytes


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


def write_roster(entries: Iterable[Delegation], authority: Identity) -> bytes:
    """A roster's file.

    Args:
        entries: The sites, in any order.
        authority: The federation's, which signs it.
    """
    sites = Delegations(tuple(sorted(entries, key=lambda one: one.client_id)))
    return pack(SignedRoster(sites, authority.sign(_whole(sites)))) + b"\n"


def read_roster(text: bytes, authority: bytes) -> tuple[Delegation, ...]:
    """Read what `write_roster` wrote, and hold it to its authority, and every entry to its identity's signature.

    Args:
        text: The file's.
        authority: The authority's public key, as DER.

    Raises:
        FedhaError: It is no roster, or not signed by the authority; an entry is not signed by its identity, or two have
            one client id or key.
    """
    if text.startswith(f'["{Delegations.__name__}"'.encode()):
        raise FedhaError(
            "the roster is of an earlier version, in which no authority signed it; where the federation was made, any "
            "`fedha deploy add-client`, `remove-client` or `rotate --client` writes one that is signed"
        )
    signed = unpack(SignedRoster, text)
    if not is_signed(authority, _whole(signed.sites), signed.signature):
        raise FedhaError(
            "the roster is not signed by this federation's authority (ca.crt); take the file that `fedha deploy` wrote"
        )
    return _checked(signed.sites)


def read_unsigned_roster(text: bytes) -> tuple[Delegation, ...]:
    """Read a roster of an earlier version, where the authority itself is, to sign it.

    Raises:
        FedhaError: As in `read_roster`, but for the authority.
    """
    return _checked(unpack(Delegations, text))


def _checked(sites: Delegations) -> tuple[Delegation, ...]:
    entries = sites.entries
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


def _whole(sites: Delegations) -> bytes:
    return statement("roster", pack(sites))


def _statement(client_id: int, name: str, identity: bytes, key: bytes) -> bytes:
    return statement("signing key", client_id, name, identity, key)
