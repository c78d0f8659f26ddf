"""Shamir's secret sharing over a prime field: any `threshold` shares give the secret, fewer give nothing.

Written for a few hundred shares of 32-byte secrets. Python's integers do not take constant time: who can measure the
time that a client takes for its own shares to the nanosecond is not kept out.
"""

import secrets
from collections.abc import Mapping, Sequence

from fedha.errors import FedhaError

PRIME = 2**256 + 297  # the smallest prime above 2^256: every 32-byte secret is an element
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, threshold: int, points: Sequence[int]) -> dict[int, bytes]:
    """Share a secret: the value at each point of a random polynomial of degree threshold - 1 that is the secret at 0.

    Args:
        secret: 32 bytes.
        threshold: How many shares are needed.
        points: Whom they are for, distinct and above 0.

    Returns:
        33 bytes by point.

    Raises:
        FedhaError: Fewer points than the threshold, one of them twice or not above 0, or a secret of another length.

    Source:
        Shamir, "How to share a secret", CACM 1979.
    """
    if len(secret) != SECRET_BYTES or threshold < 1 or len(points) < threshold:
        raise FedhaError(
            f"a secret of {len(secret)} bytes cannot be shared among {len(points)} clients so that {threshold} are "
            f"needed; a secret has {SECRET_BYTES} bytes, and the threshold lies between 1 and the number of clients"
        )
    if len(set(points)) < len(points) or not all(0 < point < PRIME for point in points):
        raise FedhaError(f"shares are for the points {list(points)}; give each client its own, above 0")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    shares = {}
    for point in points:
        value = 0
        for coefficient in coefficients:
            value = (value + coefficient) * point % PRIME
        shares[point] = ((value + int.from_bytes(secret, "big")) % PRIME).to_bytes(SHARE_BYTES, "big")
    return shares


def weights(points: Sequence[int]) -> list[int]:
    """Lagrange's weights: the secret is their product with the shares at these points, summed, modulo `PRIME`."""
    found = []
    for point in points:
        above = below = 1
        for other in points:
            if other != point:
                above = above * other % PRIME
                below = below * (other - point) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return found


def combine(shares: Mapping[int, bytes], known: Sequence[int] | None = None) -> bytes:
    """The secret that at least `threshold` shares of it give; of fewer, or of wrong ones, some other value.

    Args:
        shares: By point; all of them are used.
        known: `weights` of the points in their order, where many secrets have the same holders.

    Raises:
        FedhaError: The shares are of no 32-byte secret, so one of them is wrong.
    """
    factors = weights(list(shares)) if known is None else known
    values = [int.from_bytes(share, "big") for share in shares.values()]
    secret = sum(factor * value for factor, value in zip(factors, values, strict=True)) % PRIME
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise FedhaError("shares of a secret do not fit together; one of the clients that sent them has sent another")
    return secret.to_bytes(SECRET_BYTES, "big")
