"""A released mean betrays its members: all of one or a few, fewer of many, none through noise."""

import statistics as numbers

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor

from fedha import statistics
from fedha.audit.scores import auc
from fedha.audit.tracing import DIAGONALS, TRACEABLE, example_terms, membership_scores
from fedha.config import ModelConfig
from fedha.models import build, head_matrix, with_bias
from tests.audit.bounds import chance_bound

KINDS = ("gradient", "hessian_diagonal", "feature_mean")
SEEDS = st.integers(0, 2**31)


@given(SEEDS, st.integers(1, 4), st.integers(1, 6), st.sampled_from(KINDS))
def test_the_terms_have_the_statistic_as_their_mean(seed: int, classes: int, examples: int, name: str) -> None:
    draws = torch.Generator().manual_seed(seed)
    features = with_bias(torch.randn(examples, 4, generator=draws, dtype=torch.float64))
    labels = torch.randint(0, max(2, classes), (examples,), generator=draws)
    head = torch.randn(classes, 5, generator=draws, dtype=torch.float64)
    expected = getattr(statistics, name)(head, features, labels).flatten()
    torch.testing.assert_close(example_terms(name, head, features, labels).mean(0), expected)


def test_hutchinsons_terms_are_those_of_what_it_estimates() -> None:
    assert set(TRACEABLE) == {*KINDS, *DIAGONALS}
    draws = torch.Generator().manual_seed(0)
    features, head = with_bias(torch.randn(3, 2, generator=draws)), torch.randn(2, 3, generator=draws)
    first, *others = (example_terms(name, head, features, torch.tensor([0, 1, 1])) for name in DIAGONALS)
    assert all(torch.equal(first, other) for other in others)


@given(SEEDS, st.integers(2, 5), st.integers(2, 12), st.integers(1, 50))
def test_the_score_is_the_normal_likelihood_ratio_written_out(seed: int, width: int, known: int, n: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    reference = torch.randn(known, width, generator=draws, dtype=torch.float64)
    candidates = torch.randn(3, width, generator=draws, dtype=torch.float64)
    released = torch.randn(width, generator=draws, dtype=torch.float64)
    centre, deviation = reference.mean(0), reference.std(0)
    scaled, t, mean = ((one - centre) / deviation for one in (reference, candidates, released))
    covariance = scaled.T @ scaled / known
    ridge = 0.05 * covariance.trace() / min(known, width)
    inverse = torch.linalg.inv(covariance + ridge * torch.eye(width, dtype=torch.float64))
    expected = torch.stack([one @ inverse @ mean - one @ inverse @ one / (2 * n) for one in t])
    torch.testing.assert_close(membership_scores(released, n, candidates, reference, 0.05), expected)


def test_a_column_that_never_varies_changes_nothing() -> None:
    draws = torch.Generator().manual_seed(0)
    reference, candidates = torch.randn(20, 3, generator=draws), torch.randn(4, 3, generator=draws)
    released = torch.randn(3, generator=draws)
    plain = membership_scores(released, 5, candidates, reference)
    more = [torch.cat([one, torch.ones(*one.shape[:-1], 1)], -1) for one in (released, candidates, reference)]
    torch.testing.assert_close(membership_scores(more[0], 5, more[1], more[2]), plain)


def terms_of_digits(seed: int, name: str) -> Tensor:
    """Terms of all ten digits' images at an untrained network, shuffled."""
    bunch = load_digits()
    images, labels = torch.tensor(bunch.images)[:, None] / 16, torch.tensor(bunch.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:1000]
    model = build(ModelConfig(name="mlp", hidden=[32], precision="float64"), (1, 8, 8), 10, seed)
    with torch.no_grad():
        features = with_bias(model.featurizer(images[order]))
        return example_terms(name, head_matrix(model.head.weight, model.head.bias), features, labels[order])


def area(terms: Tensor, examples: int, noise: Tensor | float = 0.0) -> float:
    """Of tracing the first examples among 400 others, with 300 known."""
    members, others, known = terms[:examples], terms[300:700], terms[700:]
    released = members.mean(0) + noise
    scores = membership_scores(released, examples, torch.cat([members, others]), known)
    return auc(scores[:examples], scores[examples:])


@pytest.mark.parametrize("name", ["gradient", "hessian_diagonal"])
def test_members_of_small_batches_are_found_and_of_large_ones_less(name: str) -> None:
    every = {n: [area(terms_of_digits(seed, name), n) for seed in range(3)] for n in (1, 4, 30, 300)}
    means = {n: numbers.fmean(areas) for n, areas in every.items()}
    print(f"tracing {name}:", {n: round(mean, 3) for n, mean in means.items()})  # noqa: T201
    assert every[1] == [1.0] * 3  # the release is the member's own term
    assert means[4] > 0.97
    assert 1 >= means[4] > means[30] > means[300] > 0.55


def test_noise_without_end_hides_everyone() -> None:
    # The members' mean drowns, and members and others are drawn alike: Mann-Whitney's null for each seed.
    areas, seeds = [], 20
    for seed in range(seeds):
        terms = terms_of_digits(seed, "gradient")
        draws = torch.Generator().manual_seed(seed)
        scale = terms.std(0) * 1e6
        areas.append(area(terms, 50, scale * torch.randn(len(scale), generator=draws, dtype=torch.float64)))
    assert abs(numbers.fmean(areas) - 0.5) < chance_bound(50, 400, seeds, false_alarms=1e-2)
