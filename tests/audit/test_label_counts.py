"""Label counts come out of a gradient: exactly where they must, by measured shares on real digits, not out of noise."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor

from fedha import sketches, statistics
from fedha.audit import label_counts as forms
from fedha.config import ModelConfig
from fedha.models import SplitModel, build, head_matrix, with_bias
from tests.audit.made import digits

Clients = list[tuple[Tensor, Tensor]]


def probabilities(head: Tensor, features: Tensor) -> Tensor:
    logits = features @ head.T
    return torch.softmax(logits if len(head) > 1 else torch.cat([torch.zeros_like(logits), logits], 1), 1)


def client(seed: int, classes: int, examples: int, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    features = with_bias(torch.randn(examples, width, generator=draws, dtype=torch.float64))
    labels = torch.randint(0, max(2, classes), (examples,), generator=draws)
    return torch.randn(classes, width + 1, generator=draws, dtype=torch.float64), features, labels


def constant(seed: int, classes: int, examples: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """A client whose predictions are the same for all examples: the head is its bias."""
    head, features, labels = client(seed, classes, examples)
    return torch.cat([torch.zeros_like(head[:, :-1]), spread * head[:, -1:]], 1), features, labels


def truth(labels: Tensor, classes: int) -> Tensor:
    return torch.bincount(labels, minlength=max(2, classes))


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 30))
def test_who_knows_the_mean_prediction_knows_every_count(seed: int, classes: int, examples: int) -> None:
    head, features, labels = client(seed, classes, examples)
    mean = probabilities(head, features).mean(0)
    found = forms.label_distribution(statistics.gradient(head, features, labels), mean)
    assert forms.label_counts(found, examples).tolist() == truth(labels, classes).tolist()


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_one_example_tells_its_label_to_who_knows_nothing(seed: int, classes: int) -> None:
    head, features, labels = client(seed, classes, 1)
    gradient = statistics.gradient(head, features, labels)
    found = forms.label_distribution(gradient, forms.uniform_probabilities(classes))
    assert forms.label_counts(found, 1).argmax() == labels[0]


@given(st.integers(0, 2**31), st.integers(3, 6), st.floats(0, 3))
def test_the_diagonal_tells_a_prediction_that_does_not_vary(seed: int, classes: int, spread: float) -> None:
    head, features, labels = constant(seed, classes, 5, spread)  # a large spread gives one class more than half
    found = forms.hessian_probabilities(statistics.hessian_diagonal(head, features, labels))
    torch.testing.assert_close(found, probabilities(head, features)[0], rtol=0, atol=1e-6)


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=6), st.floats(0, 0.4), st.booleans())
def test_the_diagonal_tells_a_prediction_whose_relative_variation_is_the_same_for_all_classes(
    weights: list[float], variation: float, dominated: bool
) -> None:
    wanted = torch.tensor([3.0 * len(weights) if dominated and place == 0 else w for place, w in enumerate(weights)])
    wanted = wanted.double() / wanted.sum()
    column = wanted - (1 + variation) * wanted.square()  # mean(p) - mean(p^2)
    assume(float(column.min()) > 0 and int(column.argmax()) == int(wanted.argmax()))
    assume(int((wanted > 0.5 / (1 + variation)).sum()) <= 1)  # a second such class would be on its upper root too
    diagonal = torch.stack([torch.rand(len(wanted)).double(), column], 1)
    torch.testing.assert_close(forms.hessian_probabilities(diagonal), wanted, rtol=0, atol=1e-5)


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_second_moments_tell_the_prediction_where_features_are_alike_and_not_negative(seed: int, classes: int) -> None:
    head, features, labels = client(seed, classes, 5)
    features = features[:1].abs().expand(5, -1)
    found = forms.moment_probabilities(head, statistics.hessian_diagonal(head, features, labels))
    torch.testing.assert_close(found, probabilities(head, features)[0], rtol=0, atol=1e-9)


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(2, 30))
def test_the_variance_tells_the_counts_where_the_prediction_does_not_vary(
    seed: int, classes: int, examples: int
) -> None:
    head, features, labels = constant(seed, classes, examples, 0.0)
    gradient = statistics.gradient(head, features, labels)
    mean = forms.variance_probabilities(gradient, statistics.gradient_variance(head, features, labels))
    shares = forms.label_distribution(gradient, mean)
    torch.testing.assert_close(shares * examples, truth(labels, classes).double(), rtol=0, atol=1e-5)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=4), st.integers(1, 6))
def test_counts_are_the_nearest_that_sum_to_n(weights: list[float], examples: int) -> None:
    wanted = torch.tensor(weights, dtype=torch.float64)
    wanted = wanted / wanted.sum()
    found = forms.label_counts(wanted, examples)
    every = [one for one in itertools.product(range(examples + 1), repeat=len(weights)) if sum(one) == examples]
    best = min(sum(abs(a - examples * b) for a, b in zip(one, wanted.tolist(), strict=True)) for one in every)
    assert int(found.sum()) == examples
    assert float((found - examples * wanted).abs().sum()) == pytest.approx(best, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=5))
def test_the_score_is_the_share_of_examples_that_find_a_place(pairs: list[tuple[int, int]]) -> None:
    # two clients of the same size: fill up the last class
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    first[-1] += max(0, sum(second) - sum(first)) + 1
    second[-1] += sum(first) - sum(second)
    placed = sum(min(a, b) for a, b in zip(first, second, strict=True))
    assert forms.placed_share(torch.tensor(first), torch.tensor(second)) == pytest.approx(placed / sum(second))


def test_noise_without_end_gives_no_more_than_a_guess() -> None:
    # Noise treats all classes alike, so the mean of the estimates is uniform, and the score is concave: its mean is at
    # most the guess's. Scores lie in 0..1: by Hoeffding the mean of 400 is above by 0.14 once in 5 million runs.
    actual = torch.tensor([60.0, 25.0, 10.0, 5.0, 0.0], dtype=torch.float64)
    guess = forms.placed_share(torch.full((5,), 0.2), actual)
    scores = []
    for seed in range(400):
        noise = 1e9 * torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = forms.label_distribution(noise, forms.uniform_probabilities(5))
        scores.append(forms.placed_share(found, actual))
    assert sum(scores) / 400 <= guess + math.sqrt(math.log(5e6) / 800)
    broken = torch.full((5, 3), torch.nan, dtype=torch.float64)
    assert forms.label_distribution(broken, forms.uniform_probabilities(5)).tolist() == [0.2] * 5


# On real digits


def skewed_digits(seed: int, examples: int = 500) -> tuple[Tensor, Tensor]:
    """A client with the ten digits in shares from a Dirichlet of 0.5: as heterogeneous as federations are studied."""
    bunch = load_digits()
    images, labels = torch.tensor(bunch.images)[:, None] / 16, torch.tensor(bunch.target)
    draws = torch.Generator().manual_seed(seed)
    weights = torch.randn(10, generator=draws).square()  # Gamma(1/2): normalised, a Dirichlet of 1/2
    wanted = torch.multinomial(weights, examples, replacement=True, generator=draws)
    order = torch.rand(examples, len(labels), generator=draws).masked_fill(labels != wanted[:, None], 0.0)
    return images[order.argmax(1)], wanted


def trained(clients: Clients, classes: int, steps: int, seed: int, one_logit: bool) -> SplitModel:
    """A network that took some federated steps: SGD on the mean of the clients' risks."""
    config = ModelConfig(name="mlp", hidden=[64], precision="float64", one_logit=one_logit)
    model = build(config, tuple(clients[0][0].shape[1:]), classes, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        for images, labels in clients:
            head = head_matrix(model.head.weight, model.head.bias)
            (statistics.risk(head, with_bias(model.featurizer(images)), labels) / len(clients)).backward()
        optimizer.step()
    return model


def placed(model: SplitModel, images: Tensor, labels: Tensor, classes: int, seed: int) -> dict[str, float]:
    """The share of examples that each method places right."""
    made_up = torch.rand(200, *images.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        head, features = head_matrix(model.head.weight, model.head.bias), with_bias(model.featurizer(images))
        gradient = statistics.gradient(head, features, labels)
        diagonal = statistics.hessian_diagonal(head, features, labels)
        signs = sketches.draw_signs(seed, 1, 100, head.shape)
        noisy = sketches.hutchinson_diagonal(head, features, labels, signs)
        beliefs = {
            "gradient alone": forms.uniform_probabilities(classes),
            "gradient, made-up inputs": forms.public_probabilities(head, with_bias(model.featurizer(made_up))),
            "with variance": forms.variance_probabilities(
                gradient, statistics.gradient_variance(head, features, labels)
            ),
            "with diagonal, moments": forms.moment_probabilities(head, diagonal),
            "with Hutchinson's diagonal": forms.moment_probabilities(head, noisy),
        }
        if classes > 2:
            beliefs["with diagonal"] = forms.hessian_probabilities(diagonal)
    actual, n = truth(labels, classes), len(labels)
    found = {name: forms.label_counts(forms.label_distribution(gradient, one), n) for name, one in beliefs.items()}
    found["guess"] = forms.label_counts(forms.uniform_probabilities(classes), n)
    return {name: forms.placed_share(counts, actual) for name, counts in found.items()}


def mean_scores(clients: Clients, classes: int, steps: int, one_logit: bool = False) -> dict[str, float]:
    """Means over the clients, and over two networks; printed, because docs/audit.md quotes them."""
    every = [
        placed(trained(clients, classes, steps, seed, one_logit), *one, classes, seed)
        for seed in range(2)
        for one in clients
    ]
    means = {name: sum(one[name] for one in every) / len(every) for name in every[0]}
    print(f"{classes} classes, {steps} steps:", {name: f"{100 * mean:.1f} %" for name, mean in means.items()})  # noqa: T201
    return means


@pytest.mark.parametrize("steps", [0, 5, 20])
def test_ten_digits_fall_into_the_right_classes_early_in_training(steps: int) -> None:
    found = mean_scores([skewed_digits(seed) for seed in range(4)], 10, steps)
    assert 0.45 < found["guess"] < 0.60
    assert found["guess"] + 0.2 < found["gradient alone"] < 0.98
    assert found["with diagonal"] > 0.99
    assert found["with Hutchinson's diagonal"] > 0.98  # 100 probes hide next to nothing
    assert found["with variance"] > found["gradient alone"]


@pytest.mark.parametrize("one_logit", [True, False])
@pytest.mark.parametrize("steps", [0, 20])
def test_coloured_digits_of_unlike_labels_are_told_apart(steps: int, one_logit: bool) -> None:
    clients = []
    for seed, share in enumerate((0.05, 0.2, 0.7, 0.95)):
        examples = digits(seed=seed)[0].train
        ones, zeros = ((examples.labels == label).nonzero()[:, 0] for label in (1, 0))
        own = examples.select(torch.cat([ones[: int(200 * share)], zeros[: 200 - int(200 * share)]]))
        clients.append((own.inputs, own.labels))
    found = mean_scores(clients, 2, steps, one_logit)
    assert found["with diagonal, moments"] > 0.95
    assert found["with Hutchinson's diagonal"] > 0.95
    assert found["with diagonal, moments"] > found["gradient alone"] > found["guess"]


@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 30))
def test_the_truth_is_always_among_the_most_consistent_beliefs(seed: int, classes: int, examples: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    p = torch.softmax(torch.randn(examples, classes, generator=draws, dtype=torch.float64), 1)
    labels = torch.randint(classes, (examples,), generator=draws)
    gradient = (p - torch.nn.functional.one_hot(labels, classes)).mean(0)[:, None]
    actual = p.mean(0)
    assert torch.equal(forms.most_consistent(gradient, [actual, forms.uniform_probabilities(classes)]), actual)
    # a belief that makes a share negative gives way to one that does not
    wrong = torch.zeros(classes, dtype=torch.float64)
    wrong[gradient[:, 0].argmin()] = 1.0
    if float((wrong - gradient[:, 0]).min()) < 0:
        assert torch.equal(forms.most_consistent(gradient, [wrong, actual]), actual)


def test_a_belief_for_one_logit_is_judged_by_both_classes() -> None:
    gradient = torch.tensor([[0.3]], dtype=torch.float64)  # mean(p_1) is 0.3 above the share of class 1
    low, high = (torch.tensor([1 - q, q], dtype=torch.float64) for q in (0.1, 0.6))
    assert torch.equal(forms.most_consistent(gradient, [low, high]), high)
