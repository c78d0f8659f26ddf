"""A mask is its key's AES stream, goes as it came, and looks uniform."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import chi2

from fedha.privacy.secure.layout import Words
from fedha.privacy.secure.masks import add_mask

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
SIZES = [1, 2, 3, 16_384, 16_385, 40_001]


def mask(key: bytes, size: int, dtype: str = "<u8") -> Words:
    words = np.zeros(size, dtype)
    add_mask(words, key, 1)
    return words


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_a_mask_is_the_stream_of_its_key_read_little_endian(size: int, dtype: str) -> None:
    encryptor = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor()
    stream = encryptor.update(bytes(size * np.dtype(dtype).itemsize))
    assert mask(KEY, size, dtype).tobytes() == stream


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_what_is_added_can_be_taken_away(dtype: str) -> None:
    start = np.arange(40_001).astype(dtype) * 123_456_789
    words = start.copy()
    add_mask(words, KEY, 1)
    add_mask(words, OTHER, -1)
    assert not np.any(words == start)  # all of 64-bit words; of 32 bits one in 2^32 would be: these keys have none
    add_mask(words, KEY, -1)
    add_mask(words, OTHER, 1)
    assert np.array_equal(words, start)


def test_two_keys_have_different_masks() -> None:
    assert not np.any(mask(KEY, 100_000) == mask(OTHER, 100_000))


def test_the_bytes_of_a_mask_are_spread_evenly() -> None:
    """The key is fixed, so this holds or does not, once and for all; of all keys it would refuse one in 10^6."""
    counts = np.bincount(mask(KEY, 125_000).view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-6, 255)
