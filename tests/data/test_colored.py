"""Laws of the colouring: what is kept, what is zeroed, and how often a label or a colour is flipped."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.datasets import load_digits

from fedha.data.colored import (
    colored,
    flipped,
    grayscale,
    label_shift,
    labels_and_colors,
    published_imbalance,
    source_names,
)
from fedha.data.digits import _read as read_digits

digits_strategy = st.lists(st.integers(0, 9), max_size=60).map(lambda values: torch.tensor(values, dtype=torch.int64))
bits_strategy = st.lists(st.integers(0, 1), max_size=80).map(lambda values: torch.tensor(values, dtype=torch.int64))


def within_binomial_bounds(count: int, n: int, probability: float) -> bool:
    """Whether a count is no rarer than one in 10^9 on either side."""
    return binom.cdf(count, n, probability) > 1e-9 and binom.sf(count - 1, n, probability) > 1e-9


@given(bits_strategy, st.integers(0, 2**31))
def test_probability_zero_keeps_every_bit_and_one_flips_every_bit(bits, seed):
    draws = torch.Generator().manual_seed(seed)
    assert torch.equal(flipped(bits, 0.0, draws), bits)
    assert torch.equal(flipped(bits, 1.0, draws), 1 - bits)


@given(bits_strategy, st.floats(0, 1), st.integers(0, 2**31))
def test_the_same_draws_flip_back(bits, probability, seed):
    once = flipped(bits, probability, torch.Generator().manual_seed(seed))
    assert torch.equal(flipped(once, probability, torch.Generator().manual_seed(seed)), bits)


@pytest.mark.parametrize("probability", [0.1, 0.25, 0.9])
def test_flips_are_as_frequent_as_the_exact_binomial_allows(probability):
    n = 50_000
    flips = flipped(torch.zeros(n, dtype=torch.int64), probability, torch.Generator().manual_seed(3))
    assert within_binomial_bounds(int(flips.sum()), n, probability)


@given(bits_strategy)
def test_the_image_stays_in_its_colors_channel_and_the_other_is_zero(colors):
    images = torch.rand(len(colors), 3, 4, generator=torch.Generator().manual_seed(0))
    result = colored(images, colors)
    assert result.shape == (len(colors), 2, 3, 4)
    assert result.dtype == images.dtype
    for one, image, color in zip(result, images, colors.tolist(), strict=True):
        assert torch.equal(one[color], image)
        assert not one[1 - color].any()


def test_grayscale_has_the_image_in_both_channels():
    images = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(grayscale(images), torch.stack([images, images], dim=1))


@given(digits_strategy)
def test_without_noise_and_flips_labels_and_colors_are_digit_below_five(digits):
    labels, colors = labels_and_colors(digits, 0.0, 0.0, 0, "a")
    assert torch.equal(labels, (digits < 5).long())
    assert torch.equal(colors, labels)


@given(digits_strategy)
def test_colors_follow_the_noisy_label_and_not_the_digit(digits):
    labels, colors = labels_and_colors(digits, 0.0, 1.0, 0, "a")
    assert torch.equal(labels, (digits >= 5).long())
    assert torch.equal(colors, labels)
    assert torch.equal(labels_and_colors(digits, 1.0, 1.0, 0, "a")[1], 1 - labels)


def test_noise_and_flips_are_independent_of_each_other_and_of_other_domains():
    n = 40_000
    digits = torch.arange(n) % 10
    labels, colors = labels_and_colors(digits, 0.5, 0.5, 7, "a")
    others = labels_and_colors(digits, 0.5, 0.5, 7, "b")
    noise, flips = labels ^ (digits < 5).long(), labels ^ colors
    assert within_binomial_bounds(int((noise & flips).sum()), n, 0.25)
    assert within_binomial_bounds(int((labels ^ others[0]).sum()), n, 0.5)
    assert within_binomial_bounds(int((flips ^ others[0] ^ others[1]).sum()), n, 0.5)


def test_draws_depend_on_seed_and_key_and_never_touch_the_global_generator():
    digits = torch.arange(1000) % 10
    first = labels_and_colors(digits, 0.3, 0.3, 1, "a")
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = labels_and_colors(digits, 0.3, 0.3, 1, "a")
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(labels_and_colors(digits, 0.3, 0.3, 2, "a")[0], first[0])


@given(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.1000000001, 1e-5, 1.0]), min_size=1, max_size=8))
def test_every_source_has_its_own_name(flips):
    names = source_names(flips)
    assert len(set(names)) == len(names) == len(flips)
    assert not {"target", "grayscale"} & set(names)


def test_names_are_short_and_the_second_of_a_kind_is_numbered():
    assert source_names([0.2, 0.1, 0.1, 0.1]) == ["flip-0.2", "flip-0.1", "flip-0.1-2", "flip-0.1-3"]


@given(bits_strategy, st.floats(0.5, 0.99), st.integers(0, 1))
def test_label_shift_gives_the_majority_its_share_up_to_one_example(labels, ratio, majority):
    kept = label_shift(labels, ratio, majority)
    assert torch.equal(kept, kept.unique())
    if len(kept):
        share = float((labels[kept] == majority).double().mean())
        assert abs(share - ratio) <= 1 / len(kept)


@given(bits_strategy, st.floats(0.5, 0.99), st.integers(0, 1))
def test_label_shift_keeps_the_first_of_each_label_and_as_many_as_it_can(labels, ratio, majority):
    kept = label_shift(labels, ratio, majority)
    counts = []
    for label in (majority, 1 - majority):
        places = [place for place in kept.tolist() if labels[place] == label]
        everywhere = (labels == label).nonzero()[:, 0].tolist()
        assert places == everywhere[: len(places)]
        counts.append((len(places), len(everywhere)))
    (many, all_many), (few, all_few) = counts
    assert many == all_many or (many + 1) * (1 - ratio) / ratio > all_few - 1e-9
    assert few <= all_few


def test_label_shift_on_counted_data():
    labels = torch.tensor([0, 1] * 500)
    kept = label_shift(labels, 0.8, 1)
    assert [int((labels[kept] == label).sum()) for label in (0, 1)] == [125, 500]


@given(digits_strategy, st.floats(0.51, 0.99))
def test_the_published_split_loses_and_doubles_nothing(digits, ratio):
    first, second = published_imbalance(digits, ratio)
    assert torch.equal(torch.cat([first, second]).sort().values, torch.arange(len(digits)))


@given(digits_strategy, st.floats(0.51, 0.99))
def test_the_published_split_takes_its_counts_from_all_digits(digits, ratio):
    low = [place for place, digit in enumerate(digits.tolist()) if digit < 5]
    high = [place for place, digit in enumerate(digits.tolist()) if digit >= 5]
    n = len(low) + len(high)
    wanted = low[: round(ratio * n)] + high[: round((1 - ratio) * n)]
    assert published_imbalance(digits, ratio)[0].tolist() == wanted


def test_the_slip_leaves_the_second_source_without_a_low_digit():
    digits = torch.arange(1000) % 10
    first, second = published_imbalance(digits, 0.97)
    assert [int((digits[first] < 5).sum()), int((digits[first] >= 5).sum())] == [500, 30]
    assert [int((digits[second] < 5).sum()), int((digits[second] >= 5).sum())] == [0, 470]


def test_the_digits_are_scikit_learns_own_without_its_import() -> None:
    values, labels = load_digits(return_X_y=True)
    images, digits = read_digits()
    assert torch.equal(images, torch.from_numpy(values).float().reshape(-1, 8, 8) / 16)
    assert torch.equal(digits, torch.from_numpy(labels).long())
    code = "import sys; from fedha.data.digits import _read; _read(); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
