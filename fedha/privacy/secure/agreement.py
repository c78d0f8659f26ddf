"""Keys that two clients share without having met: X25519, and HKDF-SHA256 that binds a key to its one use."""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedha.errors import FedhaError
from fedha.privacy.secure.packing import statement

KEY_BYTES = 32


@dataclass(frozen=True)
class KeyPair:
    """An X25519 key pair of one exchange.

    Attributes:
        private: 32 bytes, secret.
        public: 32 bytes.
    """

    private: bytes = field(repr=False)
    public: bytes


def new_key_pair() -> KeyPair:
    """A key pair from the operating system's randomness."""
    return key_pair(X25519PrivateKey.generate().private_bytes_raw())


def key_pair(private: bytes) -> KeyPair:
    """The key pair of a private key of 32 bytes."""
    return KeyPair(private, X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw())


def agree(private: bytes, public: bytes) -> bytes:
    """What both ends of a pair compute, each from its own private and the other's public key; raw, to be expanded.

    Raises:
        FedhaError: The public key is one of the few with which every agreement gives zero.
    """
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise FedhaError("a public key of secure aggregation has low order; its client cheats or is broken") from None


def expand(secret: bytes, purpose: str, context: bytes, *client_ids: int) -> bytes:
    """A 32-byte key for one purpose: HKDF-SHA256 with the context as salt, purpose and places as info.

    Args:
        secret: With 256 bits of entropy or an agreed one.
        purpose: What the key is for.
        context: Digest of all that was agreed on before: run, round, exchange, layout, everybody's public keys.
        client_ids: Whose key it is, in the order that tells directions apart.
    """
    return HKDF(hashes.SHA256(), KEY_BYTES, context, statement(purpose, *client_ids)).derive(secret)
