"""Masks: a key's stream of AES-256 in counter mode, read as integers modulo 2^bits."""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedha.privacy.secure.layout import Words

_BLOCK_BYTES = 2**17  # of the stream at once: zeros, stream and words stay in the cache
_ZEROS = memoryview(bytes(_BLOCK_BYTES))
_TAIL = 15  # bytes that `update_into` wants beyond its input


def add_mask(words: Words, key: bytes, sign: int) -> None:
    """Add a key's mask to a vector in place, modulo ``2^bits``, or take it away.

    Without the key the mask is not told from uniform integers: the advantage is AES's, plus the birthday term
    ``blocks^2 / 2^129`` of a permutation, below 2^-75 for a vector of a gigabyte.

    Args:
        words: Little-endian unsigned integers.
        key: 32 bytes, of one mask only: a stream that is used twice gives away the difference of what it hides.
        sign: 1 or -1.
    """
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    buffer, step = bytearray(_BLOCK_BYTES + _TAIL), _BLOCK_BYTES // words.itemsize
    apply = np.add if sign > 0 else np.subtract
    for start in range(0, len(words), step):
        part = words[start : start + step]
        stream.update_into(_ZEROS[: part.nbytes], buffer)
        apply(part, np.frombuffer(buffer, words.dtype, len(part)), out=part)
