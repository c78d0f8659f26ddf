"""What travels between clients and server; each message says of which session it is. Bytes by `packing.pack`."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fedha.errors import FedhaError
from fedha.privacy.secure.layout import Words
from fedha.privacy.secure.packing import digest, pack, statement, unpack
from fedha.privacy.secure.past import Past
from fedha.privacy.secure.session import Session


@dataclass(frozen=True)
class Advert:
    """Client to all: its public keys of this session, signed with its identity.

    Attributes:
        session: The session's digest.
        client_id: The client's.
        channel_key: X25519, for shares that only their receiver may read.
        mask_key: X25519, for the pair masks.
        seed_mark: Digest of the seed of its self mask: who puts shares together sees whether they were right.
        past: Which sums its memory is of.
        signature: By its identity.
    """

    session: bytes
    client_id: int
    channel_key: bytes
    mask_key: bytes
    seed_mark: bytes
    past: Past
    signature: bytes

    @property
    def statement(self) -> bytes:
        """What the signature is of."""
        past = self.past.chain, self.past.since
        return statement("keys", self.session, self.client_id, self.channel_key, self.mask_key, self.seed_mark, *past)


@dataclass(frozen=True)
class KeyList:
    """Server to all: everybody's keys, by client id ascending."""

    session: bytes
    adverts: tuple[Advert, ...]

    @cached_property
    def transcript(self) -> bytes:
        """Digest of the session and everybody's keys: clients that were shown different keys share nothing."""
        return digest("transcript", self.session, *(pack(advert) for advert in self.adverts))

    @cached_property
    def by_client_id(self) -> dict[int, Advert]:
        """The adverts by client id."""
        return {advert.client_id: advert for advert in self.adverts}


@dataclass(frozen=True)
class Box:
    """Client to client, through the server: shares of the dealer's two secrets.

    Attributes:
        dealer: Whose secrets.
        holder: Who can open it.
        sealed: The encrypted shares; empty in the dealer's own box.
        seed_mark: Digest of the seed's share: the server can tell whether the holder later gives the right one.
        key_mark: Digest of the mask key's share.
    """

    dealer: int
    holder: int
    sealed: bytes
    seed_mark: bytes
    key_mark: bytes


@dataclass(frozen=True)
class Dealing:
    """Client to server: a box for each holder of its secrets."""

    session: bytes
    client_id: int
    boxes: tuple[Box, ...]

    @cached_property
    def by_holder(self) -> dict[int, Box]:
        """The boxes by holder."""
        return {box.holder: box for box in self.boxes}


@dataclass(frozen=True)
class Inbox:
    """Server to one client: the boxes for it, by dealer ascending, and all who have dealt."""

    session: bytes
    dealers: tuple[int, ...]
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class MaskedInput:
    """Client to server: its vector with all masks on; `to_bytes` and `read_masked_input` instead of `packing`."""

    session: bytes
    client_id: int
    words: Words = field(repr=False, compare=False)

    def to_bytes(self) -> bytes:
        """A line of JSON, then the words."""
        return pack(_Heading(self.session, self.client_id)) + b"\n" + self.words.tobytes()


@dataclass(frozen=True)
class Survivors:
    """Server to all that sent a masked vector: whose vectors are in the sum, ascending."""

    session: bytes
    client_ids: tuple[int, ...]


@dataclass(frozen=True)
class Confirmation:
    """Client to all, through the server: this is the only set of survivors that I give shares for."""

    session: bytes
    client_id: int
    signature: bytes


@dataclass(frozen=True)
class Confirmations:
    """Server to all that confirmed: enough of the confirmations, by client id ascending."""

    session: bytes
    confirmations: tuple[Confirmation, ...]


@dataclass(frozen=True)
class Share:
    """One share of one secret."""

    owner: int
    value: bytes = field(repr=False)


@dataclass(frozen=True)
class Revealed:
    """Client to server: shares of the survivors' seeds and of the lost clients' mask keys, never both of one client."""

    session: bytes
    client_id: int
    seeds: tuple[Share, ...]
    keys: tuple[Share, ...]


def read_masked_input(session: Session, data: bytes) -> MaskedInput:
    """Read what `MaskedInput.to_bytes` wrote.

    Raises:
        FedhaError: It is something else, or not of the session's length.
    """
    heading, _, rest = data.partition(b"\n")
    about, wanted = unpack(_Heading, heading), session.layout.words * session.layout.dtype.itemsize
    if len(rest) != wanted:
        raise FedhaError(
            f"client {about.client_id} sent {len(rest)} bytes to {session.name} where {wanted} were agreed on; "
            "see that it has the model of the others"
        )
    return MaskedInput(about.session, about.client_id, np.frombuffer(rest, session.layout.dtype))


def masks_context(transcript: bytes, question: bytes) -> bytes:
    """What the masks are bound to, and the confirmations with them: session, everybody's keys, and what is asked."""
    return digest("masks", transcript, question)


def survivors_statement(context: bytes, survivors: tuple[int, ...]) -> bytes:
    """What a confirmation signs."""
    return statement("survivors", context, *survivors)


@dataclass(frozen=True)
class _Heading:
    session: bytes
    client_id: int
