"""Gaussian noise, and where its chance comes from: the run's seed in simulations, the system's generator at sites.

Noise that can be predicted protects nothing, so a site must not draw it, nor its Poisson samples, from a seed that the
server knows. A simulation must, to be repeated. Both are a `Source`, whose name belongs in the report.

A computer's numbers are not real numbers: noise made in floating point leaves traces in a sum's last bits, and the sum
can be told from them (Mironov, "On significance of the least significant bits for differential privacy", CCS 2012; for
Gaussian noise, Jin et al., "Are we there yet? Timing and floating-point attacks on differential privacy systems", IEEE
S&P 2022). A site therefore adds its noise in float64, to a sum that no example moves further than the clip, rounding
included (`fedha.privacy.clipping`), and rounds the result to a grid of a 16th to a 32nd of the noise's deviation, some
2^45 times coarser than float64's last bits. For exact noise that is post-processing, so it costs no privacy; it adds
less than 0.1 % to the variance. docs/privacy.md says what remains unproven.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from fedha.randomness import generator

_DIGITS = 53  # bits of a float64 that lies in [0, 1)
_GRID = 16  # grid points a standard deviation, at least


@dataclass(frozen=True)
class Source:
    """Where randomness comes from.

    Attributes:
        name: "seeded" (repeatable, protects nothing against who knows the seed) or "cryptographic".
        normal: Maps a length to that many independent standard normal numbers, of the precision asked for; float64
            whatever was asked for where the source is cryptographic.
        uniform: Maps a length to that many independent numbers, uniform on [0, 1), float64.
    """

    name: Literal["seeded", "cryptographic"]
    normal: Callable[[int, torch.dtype], Tensor]
    uniform: Callable[[int], Tensor]

    def precision(self, wanted: torch.dtype) -> torch.dtype:
        """What a sum must be held in before this source's noise is added to it."""
        return torch.float64 if self.name == "cryptographic" else wanted

    def settle(self, noisy: Tensor, deviation: float) -> Tensor:
        """What may leave of a sum with noise of that deviation, in place: on the grid for a cryptographic source."""
        if self.name == "seeded" or deviation == 0:
            return noisy
        step = grid(deviation)
        return noisy.mul_(1 / step).round_().mul_(step)


def seeded(seed: int, *key: int | str) -> Source:
    """Chance of a simulation: the same seed and key give the same noise, other keys independent noise.

    Args:
        seed: The run's seed.
        key: Round, client and what is released, as in ``(round, client, "statistics")``; one key a release.
    """
    draws = generator(seed, "privacy", *key)
    return Source(
        "seeded",
        lambda size, precision: torch.empty(size, dtype=precision).normal_(generator=draws),
        lambda size: torch.rand(size, generator=draws, dtype=torch.float64),
    )


def cryptographic() -> Source:
    """Chance of a site: keys from the operating system (`os.urandom`), stretched by AES-256 in counter mode.

    Source:
        The normal quantile of 53 bits a number, in float64: every probability of the exact law within 2^-52 or so, and
        none beyond 8.3 deviations, where that has 2^-53 of its mass.
    """
    return Source("cryptographic", lambda size, _: quantiles(_words(size)), _uniform)


def grid(deviation: float) -> float:
    """The grid's step: the largest power of two that is at most a sixteenth of the deviation."""
    return 2.0 ** math.floor(math.log2(deviation / _GRID))


def _uniform(size: int) -> Tensor:
    return _words(size).bitwise_and_(2**_DIGITS - 1).double().mul_(2.0**-_DIGITS)


def quantiles(words: Tensor) -> Tensor:
    """Standard normal numbers from independent integers, uniform on 64 bits, which are overwritten.

    The upper 53 bits k, signed, give ``sqrt(2) erfinv((2 k + 1) / 2^53)``: the quantile in the middle of one of 2^53
    equal parts of probability. Odd numbers below 2^53 are exact in float64, and neither zero nor one is among them.
    """
    odd = words.bitwise_right_shift_(64 - _DIGITS - 1).bitwise_or_(1)
    return odd.double().mul_(2.0**-_DIGITS).erfinv_().mul_(math.sqrt(2))


def _words(size: int) -> Tensor:
    """Independent integers, uniform on all 64 bits."""
    if size == 0:  # torch cannot read an empty buffer
        return torch.empty(0, dtype=torch.int64)
    stream = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    buffer = bytearray(8 * size + 15)  # of zeros, which become the stream; the cipher asks for room of a block more
    stream.update_into(memoryview(buffer)[: 8 * size], buffer)
    return torch.frombuffer(buffer, dtype=torch.int64, count=size)
