"""Features come out of a release: exactly for one example, as class means for many, and not out of noise."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedha import statistics
from fedha.audit import features as forms
from fedha.models import with_bias

SEEDS = st.integers(0, 2**31)


def client(seed: int, classes: int, examples: int, width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    features = with_bias(torch.randn(examples, width, generator=draws, dtype=torch.float64))
    labels = torch.randint(0, max(2, classes), (examples,), generator=draws)
    return torch.randn(classes, width + 1, generator=draws, dtype=torch.float64), features, labels


@given(SEEDS, st.integers(1, 5))
def test_the_feature_of_a_single_example_is_exact(seed: int, classes: int) -> None:
    head, features, labels = client(seed, classes, 1)
    direction = torch.randn(head.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    for statistic in (
        statistics.gradient(head, features, labels),
        statistics.hessian_vector_product(head, features, labels, direction),
        statistics.gradient_hessian_product(head, features, labels),
    ):
        assert forms.relative_error(forms.exact_feature(statistic), features[0, :-1]) < 1e-6
    moments = forms.second_moments(statistics.hessian_diagonal(head, features, labels))
    torch.testing.assert_close(moments, features[0, :-1].square())


@given(SEEDS, st.integers(1, 4), st.integers(2, 9))
def test_second_moments_are_exact_where_the_prediction_does_not_vary(seed: int, classes: int, examples: int) -> None:
    head, features, labels = client(seed, classes, examples)
    head[:, :-1] = 0
    found = forms.second_moments(statistics.hessian_diagonal(head, features, labels))
    torch.testing.assert_close(found, features[:, :-1].square().mean(0))


@given(SEEDS, st.integers(1, 4), st.integers(1, 9))
def test_class_means_are_exact_where_the_prediction_does_not_vary(seed: int, classes: int, examples: int) -> None:
    head, features, labels = client(seed, classes, examples)
    head[:, :-1] = 0
    kinds, z = max(2, classes), features[:, :-1]
    bias = head[:, -1] if classes > 1 else torch.cat([torch.zeros(1).double(), head[:, -1]])
    shares = torch.bincount(labels, minlength=kinds).double() / examples
    gradient = statistics.gradient(head, features, labels)
    found = forms.class_means(gradient, torch.softmax(bias, 0), shares, z.mean(0))
    for label in range(kinds):
        own = z[labels == label]
        expected = own.mean(0) if len(own) else torch.full_like(z[0], torch.nan)
        torch.testing.assert_close(found[label], expected, equal_nan=True)
    weights = torch.full((examples,), 1 / examples, dtype=torch.float64)
    actual = forms.true_class_means(z, labels, weights, kinds)
    torch.testing.assert_close(found, actual, equal_nan=True)
    assert forms.cosine(found, actual, shares) == pytest.approx(1)
    assert forms.relative_error(found, actual, shares) == pytest.approx(0, abs=1e-9)


def test_scores_are_means_over_the_rows_that_are_there() -> None:
    truth = torch.tensor([[1.0, 0.0], [0.0, 2.0], [torch.nan, torch.nan]])
    estimate = torch.tensor([[1.0, 1.0], [torch.nan, 0.0], [5.0, 5.0]])
    assert forms.cosine(estimate, truth) == pytest.approx((math.sqrt(0.5) + 0) / 2)
    assert forms.relative_error(estimate, truth) == pytest.approx((1 + 1) / 2)
    weights = torch.tensor([3.0, 1.0, 0.0])
    assert forms.cosine(estimate, truth, weights) == pytest.approx(0.75 * math.sqrt(0.5))
    assert forms.cosine(truth[0], truth[0]) == pytest.approx(1)


def test_noise_without_end_points_nowhere() -> None:
    # Noise is as likely as its negative is not: the ratio's direction is uniform, so the cosine has mean 0 and, in d
    # dimensions, variance 1/d. By Chebyshev the mean of N leaves +-10/sqrt(d N) once in a hundred.
    width, seeds = 32, 100
    feature = torch.randn(width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = []
    for seed in range(seeds):
        noise = 1e9 * torch.randn(3, width + 1, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
        scores.append(forms.cosine(forms.exact_feature(noise), feature))
    assert abs(sum(scores) / seeds) < 10 / math.sqrt(width * seeds)
