"""The keys of the masks, as clients compute them and as the server does again for those that were lost."""

from fedha.privacy.secure.agreement import agree, expand
from fedha.privacy.secure.layout import Words
from fedha.privacy.secure.masks import add_mask


def add_self_mask(words: Words, seed: bytes, context: bytes, client_id: int, sign: int) -> None:
    """Add a client's self mask in place, or take it away."""
    add_mask(words, expand(seed, "self mask", context, client_id), sign)


def add_pair_mask(words: Words, private: bytes, public: bytes, context: bytes, client_id: int, other: int) -> None:
    """Add what a client's vector has for one neighbour: the pair's mask, plus at the higher place, minus at the lower.

    Args:
        words: Changed in place.
        private: The mask key of either of the two.
        public: The other one's.
        context: Digest of the session, everybody's keys, and what is asked.
        client_id: Whose side of the pair is added.
        other: The neighbour.

    Raises:
        FedhaError: The public key has low order.
    """
    key = expand(agree(private, public), "pair mask", context, min(client_id, other), max(client_id, other))
    add_mask(words, key, 1 if client_id > other else -1)
