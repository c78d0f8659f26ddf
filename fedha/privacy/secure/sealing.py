"""Shares on their way: encrypted from dealer to holder, and marked so that a wrong one is seen."""

import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedha.errors import FedhaError
from fedha.privacy.secure.agreement import agree, expand
from fedha.privacy.secure.messages import Box
from fedha.privacy.secure.packing import digest, statement
from fedha.privacy.secure.sharing import SHARE_BYTES

_NONCE_BYTES = 12


@dataclass(frozen=True)
class Held:
    """A dealer's two shares in the hands of their holder.

    Attributes:
        dealer: Whose secrets.
        seed: Share of the self mask's seed.
        key: Share of the mask key; empty where the dealer is the holder, who never gives it.
    """

    dealer: int
    seed: bytes = field(repr=False)
    key: bytes = field(repr=False)


def mark(transcript: bytes, kind: str, dealer: int, holder: int, share: bytes) -> bytes:
    """Digest of one share. A share has 256 bits that fewer than a threshold of others do not determine, so nobody
    finds it from its mark (as with the fingerprints of Krawczyk, PODC 1993)."""
    return digest(f"{kind} share", transcript, dealer, holder, share)


def seed_mark(session: bytes, client_id: int, seed: bytes) -> bytes:
    """Digest of a self mask's seed, 256 random bits."""
    return digest("seed", session, client_id, seed)


def seal(
    transcript: bytes, private: bytes, public: bytes, dealer: int, holder: int, shares: tuple[bytes, bytes]
) -> Box:
    """Encrypt a seed's and a key's share with AES-256-GCM under a key of this dealer, this holder and this session.

    Args:
        transcript: Digest of the session and everybody's keys.
        private: The dealer's channel key.
        public: The holder's.
        dealer: Its client id.
        holder: Its client id.
        shares: Of the seed and of the mask key.
    """
    marks = _marks(transcript, dealer, holder, shares)
    cipher = AESGCM(_channel(transcript, private, public, dealer, holder))
    nonce = os.urandom(_NONCE_BYTES)
    sealed = nonce + cipher.encrypt(nonce, b"".join(shares), statement("box", dealer, holder, *marks))
    return Box(dealer, holder, sealed, *marks)


def own_box(transcript: bytes, client_id: int, shares: tuple[bytes, bytes]) -> Box:
    """The marks of the shares that a dealer keeps."""
    return Box(client_id, client_id, b"", *_marks(transcript, client_id, client_id, shares))


def open_box(transcript: bytes, private: bytes, public: bytes, box: Box) -> Held:
    """Decrypt a box and hold its shares to their marks.

    Args:
        transcript: Digest of the session and everybody's keys.
        private: The holder's channel key.
        public: The dealer's.
        box: From the server.

    Raises:
        FedhaError: It was not sealed by this dealer for this holder in this session, or is not what it was marked as.
    """
    cipher = AESGCM(_channel(transcript, private, public, box.dealer, box.holder))
    nonce, sealed = box.sealed[:_NONCE_BYTES], box.sealed[_NONCE_BYTES:]
    try:
        text = cipher.decrypt(nonce, sealed, statement("box", box.dealer, box.holder, box.seed_mark, box.key_mark))
    except (InvalidTag, ValueError):
        raise FedhaError(
            f"the shares from client {box.dealer} for client {box.holder} cannot be opened; they were changed on the "
            "way, are of another exchange, or the server showed the two clients different keys"
        ) from None
    shares = text[:SHARE_BYTES], text[SHARE_BYTES:]
    marks = _marks(transcript, box.dealer, box.holder, shares)
    if len(text) != 2 * SHARE_BYTES or marks != (box.seed_mark, box.key_mark):
        raise FedhaError(f"the shares from client {box.dealer} do not verify; that client is broken or cheats")
    return Held(box.dealer, *shares)


def _marks(transcript: bytes, dealer: int, holder: int, shares: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    seed, key = shares
    return mark(transcript, "seed", dealer, holder, seed), mark(transcript, "key", dealer, holder, key)


def _channel(transcript: bytes, private: bytes, public: bytes, dealer: int, holder: int) -> bytes:
    return expand(agree(private, public), "channel", transcript, dealer, holder)
