"""Who is who: a client's long-term key, its signatures, and the roster of everybody's public keys."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fedha.errors import FedhaError
from fedha.privacy.secure.packing import digest

_Private: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_Public: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}


@dataclass(frozen=True)
class Identity:
    """A client's long-term private key: ECDSA on a NIST curve, as SuperNodes have, or Ed25519.

    Attributes:
        key: The key itself; secret.
    """

    key: _Private = field(repr=False)

    @cached_property
    def public(self) -> bytes:
        """The public key as DER, the form that a roster holds."""
        return _der(self.key.public_key())

    def sign(self, statement: bytes) -> bytes:
        """A signature of a statement of `fedha.privacy.secure.packing`."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(statement)
        return self.key.sign(statement, _ecdsa(self.key.curve))


def new_identity() -> Identity:
    """A fresh Ed25519 identity, for simulation."""
    return Identity(ed25519.Ed25519PrivateKey.generate())


def simulated_identity(seed: int, client_id: int) -> Identity:
    """The identity that a simulation gives to a client: anybody who knows the run's seed can make it.

    Args:
        seed: The run's.
        client_id: The client's, in client order.
    """
    return Identity(ed25519.Ed25519PrivateKey.from_private_bytes(digest("simulated identity", seed, client_id)))


def read_identity(text: bytes) -> Identity:
    """An identity from a private key file without passphrase, in OpenSSH's form (as SuperNodes have) or PEM.

    Raises:
        FedhaError: It is no such key; the sentence holds nothing of it.
    """
    openssh = b"BEGIN OPENSSH PRIVATE KEY" in text
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    try:
        key = load(text, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, ed25519.Ed25519PrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _HASHES
    ):
        return Identity(key)
    raise FedhaError(
        "the identity key cannot be used; give a private key file without passphrase, as `ssh-keygen -t ecdsa -b 384` "
        "makes it (P-256, P-384, P-521 or Ed25519)"
    )


def read_public_key(text: bytes) -> bytes:
    """A public key of OpenSSH's form (``ecdsa-sha2-nistp384 AAAA… name``), PEM or DER, as a roster holds it.

    Raises:
        FedhaError: It is no public key of a kind that `Identity` has.
    """
    return _der(_read_public(text))


@dataclass(frozen=True)
class Roster:
    """Everybody's public identity key: what a client believes, whatever the server says.

    Attributes:
        keys: By client id, each as `read_public_key` gives it.

    Raises:
        FedhaError: A key is none, or two places have the same one.
    """

    keys: Mapping[int, bytes]

    def __post_init__(self) -> None:
        owners: dict[bytes, int] = {}
        for client_id, key in self.keys.items():
            if key != _der(self._parsed[client_id]):
                raise FedhaError(f"the roster's key of client {client_id} is not DER; read it with read_public_key")
            if owners.setdefault(key, client_id) != client_id:
                raise FedhaError(f"clients {owners[key]} and {client_id} have one key in the roster; give each its own")

    @cached_property
    def _parsed(self) -> dict[int, _Public]:
        return {client_id: _read_public(key) for client_id, key in self.keys.items()}

    def verify(self, client_id: int, statement: bytes, signature: bytes, what: str) -> None:
        """Hold a client to its signature.

        Args:
            client_id: Whose it should be.
            statement: What should be signed.
            signature: To be checked.
            what: What was signed, for the sentence.

        Raises:
            FedhaError: It is not this client's signature of this statement, or the client is not in the roster.
        """
        if client_id not in self.keys:
            raise FedhaError(
                f"client {client_id} is not in the roster, so {what} cannot be trusted; add its public key"
            )
        if not _verifies(self._parsed[client_id], statement, signature):
            raise FedhaError(
                f"{what} that should be client {client_id}'s do not carry its signature for this exchange; somebody "
                "has put others in their place, or the roster's key of that client is an old one"
            )


def is_signed(public: bytes, statement: bytes, signature: bytes) -> bool:
    """Whether a statement carries the signature of a public key, in any form of `read_public_key`.

    Raises:
        FedhaError: The key is none.
    """
    return _verifies(_read_public(public), statement, signature)


def _verifies(key: _Public, statement: bytes, signature: bytes) -> bool:
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, statement)
        else:
            key.verify(signature, statement, _ecdsa(key.curve))
    except InvalidSignature:
        return False
    return True


def _ecdsa(curve: ec.EllipticCurve) -> ec.ECDSA:
    return ec.ECDSA(_HASHES[curve.name])


def _der(key: _Public) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _read_public(text: bytes) -> _Public:
    load: Callable[[bytes], object] = serialization.load_der_public_key
    if text.startswith((b"ecdsa-", b"ssh-")):
        load = serialization.load_ssh_public_key
    elif text.startswith(b"-----BEGIN"):
        load = serialization.load_pem_public_key
    try:
        key = load(text)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, ed25519.Ed25519PublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _HASHES
    ):
        return key
    raise FedhaError(
        "a public identity key cannot be used; give the .pub file that belongs to a SuperNode's key "
        "(P-256, P-384, P-521 or Ed25519)"
    )
