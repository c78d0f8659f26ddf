"""What a site needs for secure sums: a signing key of its app, and the roster of all sites, which goes to all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fedha.deploy.certificates import Authority, Identity
from fedha.errors import FedhaError, brief
from fedha.privacy.secure.delegation import Delegation, delegate, read_roster, read_unsigned_roster
from fedha.privacy.secure.identity import Identity as Signer
from fedha.privacy.secure.identity import read_identity

FILE = "roster.json"
KEY = "signing.key"


@dataclass(frozen=True)
class SigningKey:
    """A site's signing key, and its entry in the roster.

    Attributes:
        key: Secret, as PEM.
        entry: Public.
    """

    key: bytes = field(repr=False)
    entry: Delegation


def new_signing_key(identity: Identity, client_id: int, name: str) -> SigningKey:
    """A new signing key for a site, delegated by its identity key.

    Args:
        identity: The site's key pair.
        client_id: The client's partition id.
        name: The site's.
    """
    fresh = ed25519.Ed25519PrivateKey.generate()
    entry = delegate(read_identity(identity.private), client_id, name, Signer(fresh).public)
    return SigningKey(fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), entry)


def signer_of(authority: Authority) -> Signer:
    """Who signs rosters: the federation's authority."""
    return Signer(authority.key)


def authority_of(certificate: bytes) -> bytes:
    """The public key of the authority that this certificate, as PEM, is of, as DER.

    Raises:
        FedhaError: It is no certificate.
    """
    try:
        key = x509.load_pem_x509_certificate(certificate).public_key()
    except ValueError as error:
        raise FedhaError(f"ca.crt is no certificate ({brief(error)}); restore it") from None
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def roster_entries(path: Path, authority: Authority) -> Mapping[int, Delegation]:
    """A roster's entries by client id, where the authority is; none where a federation is older than rosters.

    One of an earlier version, which nobody signed, is read too: what is written next is signed.

    Raises:
        FedhaError: The file is no roster of this authority, or a site's words in it are not its own.
    """
    if not path.exists():
        return {}
    text = path.read_bytes()
    try:
        earlier = text.startswith(b'["Delegations"')
        entries = read_unsigned_roster(text) if earlier else read_roster(text, signer_of(authority).public)
        return {one.client_id: one for one in entries}
    except FedhaError as error:
        raise FedhaError(f"{path} is no roster: {brief(error)}") from None
