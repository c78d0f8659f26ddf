"""What a client must remember between the steps of a session; docs/secure-aggregation.md says where it may lie.

It is secret. Each step takes the state that the one before gave, and gives the next; an old one must not be kept, for a
step that is taken twice uses a mask twice. Each state is of a kind of its own. Bytes by `packing.pack`.
"""

from dataclasses import dataclass, field

from fedha.privacy.secure.messages import Advert, KeyList
from fedha.privacy.secure.sealing import Held
from fedha.privacy.secure.session import Session


@dataclass(frozen=True)
class Advertised:
    """After `client.advertise`.

    Attributes:
        session: The session.
        advert: The client's own, as sent.
        mask_private: Private X25519 key of the pair masks.
        channel_private: Private X25519 key of the boxes.
        seed: Of the self mask.
    """

    session: Session
    advert: Advert
    mask_private: bytes = field(repr=False)
    channel_private: bytes = field(repr=False)
    seed: bytes = field(repr=False)


@dataclass(frozen=True)
class Shared:
    """After `client.share_keys`.

    Attributes:
        session: The session.
        client_id: The client's.
        keys: Everybody's, verified.
        mask_private: As before.
        channel_private: As before.
        seed: As before.
        own: The client's share of its own seed.
    """

    session: Session
    client_id: int
    keys: KeyList
    mask_private: bytes = field(repr=False)
    channel_private: bytes = field(repr=False)
    seed: bytes = field(repr=False)
    own: Held


@dataclass(frozen=True)
class Masked:
    """After `client.mask_input`: the private keys are gone, the others' shares are left.

    Attributes:
        session: The session.
        client_id: The client's.
        context: Digest of the session, everybody's keys, and what was asked.
        dealers: All whose masks may be in the sum.
        companions: Those who remember what this client's vector holds of earlier rounds; empty where that is nothing.
        held: Its own share and the others'.
    """

    session: Session
    client_id: int
    context: bytes
    dealers: tuple[int, ...]
    companions: tuple[int, ...]
    held: tuple[Held, ...]


@dataclass(frozen=True)
class Confirmed:
    """After `client.confirm`: `client.reveal` ends the session.

    Attributes:
        session: The session.
        client_id: The client's.
        context: As before.
        survivors: The only set that this client gives shares for.
        held: As before.
    """

    session: Session
    client_id: int
    context: bytes
    survivors: tuple[int, ...]
    held: tuple[Held, ...]
