"""The server takes the masks off the sum: the survivors' self masks, and the pair masks with those who were lost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedha.errors import FedhaError
from fedha.privacy.secure import sharing
from fedha.privacy.secure.agreement import key_pair
from fedha.privacy.secure.layout import Words
from fedha.privacy.secure.messages import Dealing, KeyList, Revealed, Share
from fedha.privacy.secure.pairs import add_pair_mask, add_self_mask
from fedha.privacy.secure.sealing import mark, seed_mark
from fedha.privacy.secure.session import Session


@dataclass(frozen=True)
class MaskedSum:
    """A masked sum, and all that is public about it.

    Attributes:
        session: The session.
        keys: Everybody's.
        context: What the masks are bound to.
        dealings: By client id, of all whose masks may be in the sum.
        survivors: Whose vectors are in it.
    """

    session: Session
    keys: KeyList
    context: bytes
    dealings: Mapping[int, Dealing]
    survivors: tuple[int, ...]


def check_revealed(masked: MaskedSum, revealed: Revealed) -> None:
    """Hold a client's shares to the marks that their dealers set, and to what it was asked for.

    Raises:
        FedhaError: A share is missing, unasked or wrong.
    """
    client_id, alive, name = revealed.client_id, set(masked.survivors), masked.session.name
    asked = sorted(masked.dealings)
    expected = {"seed": [other for other in asked if other in alive], "key": [o for o in asked if o not in alive]}
    for kind, shares in (("seed", revealed.seeds), ("key", revealed.keys)):
        if sorted(share.owner for share in shares) != sorted(expected[kind]):
            raise FedhaError(f"client {client_id} gives other {kind} shares than {name} asked for; leave it out")
        for share in shares:
            if mark(masked.keys.transcript, kind, share.owner, client_id, share.value) != _mark(
                masked, kind, share, client_id
            ):
                raise FedhaError(
                    f"client {client_id}'s share of client {share.owner}'s {kind} in {name} does not verify; "
                    "that client is broken or cheats, so it is left out"
                )


def remove_masks(masked: MaskedSum, words: Words, revealed: Iterable[Revealed]) -> None:
    """Take all masks off, in place.

    Args:
        masked: What the words are a sum of.
        words: Masked; plain afterwards.
        revealed: Checked by `check_revealed`.

    Raises:
        FedhaError: Too few shares of a secret, or they give another one than was advertised.
    """
    shares = _by_owner(revealed)
    known: dict[tuple[int, ...], list[int]] = {}  # Lagrange's weights: most secrets have the same holders
    secrets = {
        client_id: _combine(masked, client_id, shares.get(client_id, {}), known)
        for client_id in sorted(masked.dealings)
    }
    for client_id, secret in secrets.items():
        if client_id in masked.survivors:
            add_self_mask(words, secret, masked.context, client_id, -1)
            continue
        for other in masked.survivors:
            # what the lost client would have added cancels what the survivor did
            public = masked.keys.by_client_id[other].mask_key
            add_pair_mask(words, secret, public, masked.context, client_id, other)


def _by_owner(revealed: Iterable[Revealed]) -> dict[int, dict[int, bytes]]:
    """Shares by owner and point."""
    shares: dict[int, dict[int, bytes]] = {}
    for one in sorted(revealed, key=lambda one: one.client_id):
        for share in (*one.seeds, *one.keys):
            shares.setdefault(share.owner, {})[one.client_id + 1] = share.value
    return shares


def _combine(
    masked: MaskedSum, client_id: int, shares: dict[int, bytes], known: dict[tuple[int, ...], list[int]]
) -> bytes:
    """A client's seed, if it survived, or its mask key."""
    needed, alive = masked.session.threshold, client_id in masked.survivors
    if len(shares) < needed:
        raise FedhaError(
            f"{len(shares)} clients gave shares to take client {client_id}'s masks off {masked.session.name} and "
            f"{needed} must; too many were lost, so the round cannot be summed"
        )
    points = tuple(shares)[:needed]
    if points not in known:
        known[points] = sharing.weights(points)
    secret = sharing.combine({point: shares[point] for point in points}, known[points])
    advert = masked.keys.by_client_id[client_id]
    right = (
        seed_mark(masked.session.digest, client_id, secret) == advert.seed_mark
        if alive
        else key_pair(secret).public == advert.mask_key
    )
    if not right:
        raise FedhaError(
            f"the shares that client {client_id} dealt in {masked.session.name} do not give what it advertised; "
            "that client is broken or cheats: leave it out and start the exchange again"
        )
    return secret


def _mark(masked: MaskedSum, kind: str, share: Share, holder: int) -> bytes | None:
    """What the dealer said of this share; nothing where it dealt none to the holder."""
    box = masked.dealings[share.owner].by_holder.get(holder)
    return None if box is None else box.seed_mark if kind == "seed" else box.key_mark
