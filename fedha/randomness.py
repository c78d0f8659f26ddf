"""Randomness that depends on what is being drawn, never on who drew before."""

import hashlib

import torch


def generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator for one purpose: the same (seed, key) gives the same draws, in any order of calls.

    Args:
        seed: The run's seed.
        key: What is drawn, by whom and when, as in ``("batches", round, client)``.

    Returns:
        A fresh generator, seeded from a 63-bit BLAKE2b digest of the seed and the key.
    """
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
