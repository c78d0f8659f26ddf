"""Gaussian noise, and where its chance comes from: the run's seed in simulations, the system's generator at sites.

Noise that can be predicted protects nothing, so a site must not draw it, nor its Poisson samples, from a seed that the
server knows. A simulation must, to be repeated. Both are a `Source`, whose name belongs in the report.

A computer's numbers are not real numbers: noise made in floating point leaves traces in a sum's last bits, and the sum
can be told from them (Mironov, "On significance of the least significant bits for differential privacy", CCS 2012; for
Gaussian noise, Jin et al., "Are we there yet? Timing and floating-point attacks on differential privacy systems", IEEE
S&P 2022). A site therefore clips and sums in float64, and rounds the noisy sum to a grid of a 16th to a 32nd of the
noise's deviation, some 2^45 times coarser than those bits. For exact numbers that is post-processing, so it costs no
privacy; it adds less than 0.1 % to the variance. docs/privacy.md says what remains unproven.
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
        """What a sum must be computed in before this source's noise is added to it."""
        return torch.float64 if self.name == "cryptographic" else wanted

    def settle(self, noisy: Tensor, deviation: float) -> Tensor:
        """What may leave of a sum with noise of that deviation: on the grid where the source is cryptographic."""
        if self.name == "seeded" or deviation == 0:
            return noisy
        step = grid(deviation)
        return (noisy / step).round_().mul_(step)


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
        Box and Muller (1958), in float64 from 2 x 53 bits for two numbers; none is beyond 8.6 deviations, where the
        exact law has 1e-17 of its mass.
    """
    return Source("cryptographic", lambda size, _: _normal(size), lambda size: _integers(size).double() * 2.0**-_DIGITS)


def grid(deviation: float) -> float:
    """The grid's step: the largest power of two that is at most a sixteenth of the deviation."""
    return 2.0 ** math.floor(math.log2(deviation / _GRID))


def _normal(size: int) -> Tensor:
    pairs = (size + 1) // 2
    words = _integers(2 * pairs)
    radius = (words[:pairs] + 1).double().mul_(2.0**-_DIGITS).log_().mul_(-2).sqrt_()  # of (0, 1]: no log of zero
    angle = words[pairs:].double().mul_(2 * math.pi * 2.0**-_DIGITS)
    return torch.cat([radius * angle.cos(), radius * angle.sin()])[:size]


def _integers(size: int) -> Tensor:
    """Independent integers, uniform on [0, 2^53)."""
    if size == 0:  # torch cannot read an empty buffer
        return torch.empty(0, dtype=torch.int64)
    stream = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    words = torch.frombuffer(bytearray(stream.update(bytes(8 * size))), dtype=torch.int64)
    return words.bitwise_and_(2**_DIGITS - 1)
