"""What a site needs for secure sums: a signing key of its app, and the roster of all sites, which goes to all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedha.deploy.certificates import Identity
from fedha.errors import FedhaError, brief
from fedha.privacy.secure.delegation import Delegation, delegate, read_roster
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


def roster_entries(path: Path) -> Mapping[int, Delegation]:
    """A roster's entries by client id; none where a federation is older than rosters.

    Raises:
        FedhaError: The file is no roster, or a site's words in it are not its own.
    """
    if not path.exists():
        return {}
    try:
        return {one.client_id: one for one in read_roster(path.read_bytes())}
    except FedhaError as error:
        raise FedhaError(f"{path} is no roster: {brief(error)}") from None
