"""Noise has its law, comes from where it says, and leaves nothing in the last bits."""

import math

import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, Uniform
from torch.testing import assert_close

from fedha.privacy.noise import Source, cryptographic, grid, quantiles, seeded
from tests.privacy.chance import gap_bound, largest_gap, mean_bound, variance_bounds

MANY = 200_001
ALARM = 1e-9  # of each of the cryptographic checks, the next time it runs
SOURCES = [pytest.param(seeded(0, "law"), id="seeded"), pytest.param(cryptographic(), id="cryptographic")]


@pytest.mark.parametrize("source", SOURCES)
def test_normal_numbers_have_the_normal_law(source: Source) -> None:
    drawn = source.normal(MANY, torch.float64)
    low, high = variance_bounds(MANY, ALARM)
    assert low < float(drawn.square().sum()) < high
    assert largest_gap(drawn, Normal(0.0, torch.ones((), dtype=torch.float64))) < gap_bound(MANY, ALARM)
    assert 3.5 < float(drawn.abs().max()) < 8.3  # each end is passed with probability 1e-9 at most


@pytest.mark.parametrize("source", SOURCES)
def test_normal_numbers_do_not_depend_on_those_near_or_far_from_them(source: Source) -> None:
    drawn = source.normal(MANY - 1, torch.float64)
    signs, sizes = drawn.sign(), (drawn.abs() > 0.6745).double() * 2 - 1  # the median of |x|
    for values in (signs, sizes):
        for one, other in ((values[:-1], values[1:]), tuple(values.split(MANY // 2))):
            assert abs(float((one * other).mean())) < mean_bound(len(one), ALARM) + 1e-4
    assert abs(float((signs[:-1] * sizes[1:]).mean())) < mean_bound(MANY - 2, ALARM) + 1e-4


def places() -> list[int]:
    """Upper 53 bits, signed: both ends, the middle, and as many in every octave of what is left to an end."""
    left = [2**octave + octave**5 % 2**octave for octave in range(52)]
    ends = [2**52 - 1, 2**52 - 2, 0, 1, *(2**52 - one for one in left), *left[:-1]]
    return sorted({*ends, *(-one - 1 for one in ends)})


def test_a_sites_numbers_are_normal_quantiles_far_into_the_tails() -> None:
    """Within five last bits of scipy's, and the probability of going further within that of one of the 2^53 parts."""
    words = torch.tensor([one << 11 for one in places()])
    found = quantiles(words.clone()).tolist()
    assert found == sorted(found)
    assert found == [-one for one in reversed(found)]
    for place, value in zip(places(), found, strict=True):
        share = abs(2 * place + 1) * 2.0**-53  # exact, and so is what is left to one
        root = scipy.special.erfcinv(1 - share) if share > 0.5 else scipy.special.erfinv(share)
        assert abs(value) == pytest.approx(math.sqrt(2) * root, rel=5 * 2.0**-52, abs=0)
        if share > 0.5:
            assert abs(math.erfc(abs(value) / math.sqrt(2)) - (1 - share)) < 2.0**-53
    assert 8.29 < found[-1] < 8.3


def test_a_sites_numbers_use_the_upper_bits_of_a_word_alone() -> None:
    words = torch.tensor([7 << 11, (7 << 11) + 2**11 - 1, 8 << 11])
    first, second, third = quantiles(words).tolist()
    assert first == second < third


def test_a_sites_tails_have_their_mass() -> None:
    """Counts beyond 2, 3 and 4 deviations in two million numbers; each fails by chance once in 10^9 runs."""
    drawn = cryptographic().normal(2_000_000, torch.float64).numpy()
    for bound in (2.0, 3.0, 4.0):
        for beyond in (drawn > bound, drawn < -bound):
            law = scipy.stats.binom(len(drawn), scipy.stats.norm.sf(bound))
            assert law.ppf(ALARM / 2) <= int(beyond.sum()) <= law.isf(ALARM / 2)


@pytest.mark.parametrize("source", SOURCES)
def test_uniform_numbers_have_the_uniform_law(source: Source) -> None:
    drawn = source.uniform(MANY)
    assert drawn.dtype == torch.float64
    assert 0 <= float(drawn.min()) <= float(drawn.max()) < 1
    zero = torch.zeros((), dtype=torch.float64)
    assert largest_gap(drawn, Uniform(zero, zero + 1)) < gap_bound(MANY, ALARM)


def test_a_seeded_source_repeats_and_every_part_of_its_key_matters() -> None:
    def first(seed: int, *key: int | str) -> float:
        return float(seeded(seed, *key).normal(1, torch.float64))

    keys = [(0, 1, 0, "gradient"), (1, 1, 0, "gradient"), (0, 2, 0, "gradient"), (0, 1, 1, "gradient"), (0, 1, 0, "r")]
    drawn = [first(*key) for key in keys]
    assert drawn == [first(*key) for key in keys]
    assert len(set(drawn)) == len(keys)
    source = seeded(0, 1)
    assert not torch.equal(source.normal(5, torch.float64), source.normal(5, torch.float64))


def test_a_seeded_source_is_not_the_chance_of_something_else() -> None:
    from fedha.randomness import generator

    other = torch.randn(100, generator=generator(0, 1, 0), dtype=torch.float64)
    assert not torch.equal(seeded(0, 1, 0).normal(100, torch.float64), other)


def test_a_cryptographic_source_is_not_seeded_by_torch() -> None:
    """Equal by chance once in 2^106: the same 100 numbers would need the same key."""
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        source = cryptographic()
        drawn.append(torch.cat([source.normal(50, torch.float64), source.uniform(50)]))
        drawn.append(torch.cat([source.normal(50, torch.float64), source.uniform(50)]))
    for place, one in enumerate(drawn):
        assert not any(bool((one == other).any()) for other in drawn[:place])


@pytest.mark.parametrize("size", [0, 1, 2, 3, 17])
@pytest.mark.parametrize("source", SOURCES)
def test_as_many_numbers_come_as_were_asked_for(source: Source, size: int) -> None:
    assert source.normal(size, torch.float64).shape == source.uniform(size).shape == (size,)


@given(st.floats(1e-6, 1e6))
def test_the_grid_is_a_power_of_two_between_a_32nd_and_a_16th_of_the_deviation(deviation: float) -> None:
    step = grid(deviation)
    assert deviation / 32 < step <= deviation / 16
    assert math.frexp(step)[0] == 0.5


@given(st.lists(st.floats(-1e3, 1e3), min_size=1), st.floats(1e-3, 1e3))
def test_what_a_site_sends_is_the_nearest_point_of_the_grid(values: list[float], deviation: float) -> None:
    noisy, step = torch.tensor(values, dtype=torch.float64), grid(deviation)
    sent = cryptographic().settle(noisy.clone(), deviation)
    assert bool(((sent / step) == (sent / step).round()).all())
    assert float((sent - noisy).abs().max()) <= step / 2
    assert_close(seeded(0).settle(noisy.clone(), deviation), noisy, rtol=0, atol=0)


def test_rounding_adds_less_than_a_thousandth_to_the_variance() -> None:
    assert grid(1.0) ** 2 / 12 < 1e-3


def test_without_noise_nothing_is_rounded() -> None:
    value = torch.tensor([0.1234567], dtype=torch.float64)
    assert torch.equal(cryptographic().settle(value, 0.0), value)


def test_only_a_site_insists_on_float64() -> None:
    assert seeded(0).precision(torch.float32) == torch.float32
    assert cryptographic().precision(torch.float32) == torch.float64
    assert seeded(0).normal(3, torch.float32).dtype == torch.float32
    assert cryptographic().normal(3, torch.float32).dtype == torch.float64
