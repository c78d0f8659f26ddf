"""Enough shares give the secret, fewer fit every secret alike."""

import itertools
import secrets
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedha.errors import FedhaError
from fedha.privacy.secure import sharing
from fedha.privacy.secure.sharing import PRIME, combine, split, weights

SECRETS = st.binary(min_size=32, max_size=32)


def probably_prime(number: int) -> bool:
    """Miller-Rabin with 64 bases: a composite passes with probability below 4^-64."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(64):
        value = pow(secrets.randbelow(number - 3) + 2, odd, number)
        if value not in (1, number - 1) and all(
            (value := value * value % number) != number - 1 for _ in range(twos - 1)
        ):
            return False
    return True


def test_the_field_s_size_is_the_first_prime_above_every_secret() -> None:
    assert probably_prime(PRIME)
    assert not any(pow(3, number - 1, number) == 1 for number in range(2**256 + 1, PRIME, 2))  # Fermat: none is prime


@given(SECRETS, st.integers(1, 6), st.sets(st.integers(1, 2000), min_size=6, max_size=8))
def test_any_threshold_shares_and_more_give_the_secret(secret: bytes, threshold: int, points: set[int]) -> None:
    shares = split(secret, threshold, sorted(points))
    assert list(shares) == sorted(points)
    assert all(len(share) == sharing.SHARE_BYTES for share in shares.values())
    for count in (threshold, len(points)):
        for some in itertools.combinations(shares, count):
            assert combine({point: shares[point] for point in some}) == secret
            assert combine({point: shares[point] for point in some}, weights(some)) == secret


def test_the_largest_and_the_smallest_secret_are_shared_too() -> None:
    for secret in (bytes(32), b"\xff" * 32):
        assert combine(split(secret, 2, [1, 7])) == secret


@given(SECRETS, SECRETS, st.integers(2, 5))
def test_fewer_shares_fit_every_secret(secret: bytes, other: bytes, threshold: int) -> None:
    """With threshold - 1 shares there is, for each secret, exactly one share of a further client that completes it."""
    some = split(secret, threshold, range(1, threshold + 3))
    some = {point: some[point] for point in list(some)[: threshold - 1]}
    further = threshold + 9
    *factors, last = weights([*some, further])
    rest = sum(factor * int.from_bytes(share, "big") for factor, share in zip(factors, some.values(), strict=True))
    completing = (int.from_bytes(other, "big") - rest) * pow(last, -1, PRIME) % PRIME
    assert combine({**some, further: completing.to_bytes(33, "big")}) == other


@given(st.integers(2, 5))
def test_a_share_is_another_one_each_time(threshold: int) -> None:
    """Two draws of one share agree with probability 2^-256."""
    one, other = (split(bytes(32), threshold, [1, 2, 3, 4, 5]) for _ in range(2))
    assert not set(one.values()) & set(other.values())


@given(SECRETS, st.integers(0, 3), st.integers(1, PRIME - 1))
def test_a_wrong_share_never_gives_the_secret(secret: bytes, which: int, by: int) -> None:
    shares = split(secret, 4, [1, 2, 3, 4])
    point = list(shares)[which]
    wrong = (int.from_bytes(shares[point], "big") + by) % PRIME
    found = None
    with suppress(FedhaError):  # where it would not even have 32 bytes
        found = combine({**shares, point: wrong.to_bytes(33, "big")})
    assert found != secret


def test_shares_of_no_secret_are_refused() -> None:
    with pytest.raises(FedhaError, match=r"do not fit together"):
        combine({1: (2**256).to_bytes(33, "big")})


@pytest.mark.parametrize(
    ("secret", "threshold", "points", "sentence"),
    [
        (bytes(31), 2, [1, 2], r"a secret of 31 bytes"),
        (bytes(32), 3, [1, 2], r"among 2 clients so that 3 are needed"),
        (bytes(32), 0, [1, 2], r"so that 0 are needed"),
        (bytes(32), 2, [1, 1], r"give each client its own"),
        (bytes(32), 2, [0, 1], r"above 0"),
        (bytes(32), 2, [PRIME, 1], r"above 0"),
    ],
)
def test_what_cannot_be_shared_is_refused(secret: bytes, threshold: int, points: list[int], sentence: str) -> None:
    with pytest.raises(FedhaError, match=sentence):
        split(secret, threshold, points)
