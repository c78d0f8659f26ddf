"""Laws of the closed forms, in float64 against autograd, for softmax heads and for the one-logit head."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, vmap

from fedha import cross_entropy, statistics
from tests.linear_clients import Client, clients, hessian_twin, make_client, risk_twin


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


# The naive twins: the definitions, by autograd where a derivative is meant.


def diagonal_twin(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    return hessian_twin(head, features, labels).diagonal().reshape(head.shape)


def off_diagonal_twin(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    return hessian_twin(head, features, labels) * (1 - torch.eye(head.numel(), dtype=head.dtype))


def product_twin(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    slope = grad(risk_twin)(head, features, labels).flatten()
    return (hessian_twin(head, features, labels) @ slope).reshape(head.shape)


def variance_twin(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    each = torch.stack(
        [grad(risk_twin)(head, row[None], label[None]) for row, label in zip(features, labels, strict=True)]
    )
    return (each - each.mean(0)).square().mean(0)


TWINS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "risk": risk_twin,
    "gradient": grad(risk_twin),
    "hessian_diagonal": diagonal_twin,
    "hessian": hessian_twin,
    "hessian_off_diagonal": off_diagonal_twin,
    "off_diagonal_energy": lambda *client: off_diagonal_twin(*client).square().sum(),
    "gradient_hessian_product": product_twin,
    "gradient_variance": variance_twin,
    "scale_gradient": lambda head, *data: grad(lambda scale: risk_twin(scale * head, *data))(head.new_ones(())),
    "feature_mean": lambda head, features, labels: features.sum(0)[:-1] / len(features),
    "feature_covariance": lambda head, features, labels: torch.cov(features.T)[:-1, :-1].reshape(
        len(head.T) - 1, len(head.T) - 1
    ),
}


@pytest.mark.parametrize("name", TWINS)
@given(client=clients())
def test_each_statistic_is_its_definition(name: str, client: Client) -> None:
    assert_close(getattr(statistics, name)(*client), TWINS[name](*client))


@pytest.mark.parametrize("name", TWINS)
@settings(max_examples=30)
@given(client=clients(), seed=st.integers(0, 1000))
def test_each_statistic_passes_its_gradient_to_features_and_head(name: str, client: Client, seed: int) -> None:
    def slopes(statistic: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        live = [client.head.clone().requires_grad_(), client.features.clone().requires_grad_()]
        value = statistic(*live, client.labels)
        weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed), dtype=value.dtype)
        return torch.autograd.grad((value * weights).sum(), live, materialize_grads=True)

    for actual, expected in zip(slopes(getattr(statistics, name)), slopes(TWINS[name]), strict=True):
        assert_close(actual, expected)


@given(client=clients(), seed=st.integers(0, 1000), many=st.integers(1, 3))
def test_hessian_vector_product_is_autograds_for_one_vector_and_for_a_stack(
    client: Client, seed: int, many: int
) -> None:
    vectors = torch.randn(many, *client.head.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = (vectors.flatten(1) @ hessian_twin(*client)).reshape(vectors.shape)
    assert_close(statistics.hessian_vector_product(*client, vectors), expected)
    assert_close(statistics.hessian_vector_product(*client, vectors[0]), expected[0])


@given(client=clients(), seed=st.integers(0, 1000))
def test_hessian_vector_product_passes_its_gradient_to_features_head_and_vector(client: Client, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    vector, weights = torch.randn(2, *client.head.shape, generator=draws, dtype=torch.float64)

    def naive(head: Tensor, features: Tensor, along: Tensor) -> Tensor:
        return (weights.flatten() @ hessian_twin(head, features, client.labels) @ along.flatten()).sum()

    def closed(head: Tensor, features: Tensor, along: Tensor) -> Tensor:
        return (weights * statistics.hessian_vector_product(head, features, client.labels, along)).sum()

    arguments = (client.head, client.features, vector)
    for actual, expected in zip(grad(closed, (0, 1, 2))(*arguments), grad(naive, (0, 1, 2))(*arguments), strict=True):
        assert_close(actual, expected)


@given(client=clients(), seed=st.integers(0, 1000))
def test_residual_changes_are_the_derivative_of_the_probabilities(client: Client, seed: int) -> None:
    vector = torch.randn(client.head.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def probabilities(head: Tensor) -> Tensor:
        logits = client.features @ head.T
        return logits.sigmoid() if len(head) == 1 else logits.softmax(1)

    expected = torch.func.jvp(probabilities, (client.head,), (vector,))[1]
    assert_close(statistics.residual_changes(*client, vector)[:, 0], expected)


@given(client=clients(), seed=st.integers(0, 1000))
def test_hessian_is_symmetric_and_curves_upwards(client: Client, seed: int) -> None:
    full = statistics.hessian(*client)
    direction = torch.randn(len(full), generator=torch.Generator().manual_seed(seed), dtype=full.dtype)
    assert_close(full, full.T)
    assert direction @ full @ direction >= -1e-12


@given(clients())
def test_hessian_times_gradient_is_the_gradient_of_half_the_squared_gradient(client: Client) -> None:
    def half_square(head: Tensor) -> Tensor:
        return statistics.gradient(head, client.features, client.labels).square().sum() / 2

    def norm(head: Tensor) -> Tensor:
        return statistics.gradient(head, client.features, client.labels).norm()

    product = statistics.gradient_hessian_product(*client)
    assert_close(product, grad(half_square)(client.head))
    assert_close(product, norm(client.head) * grad(norm)(client.head))


@given(clients())
def test_scale_gradient_is_the_inner_product_of_head_and_gradient(client: Client) -> None:
    assert_close(statistics.scale_gradient(*client), (client.head * statistics.gradient(*client)).sum())


@pytest.mark.parametrize("classes", [1, 3])
def test_pooled_hessian_gradient_product_is_the_mean_of_each_hessian_times_the_mean_gradient(classes: int) -> None:
    head = make_client(0, classes, 1, 3).head
    parts = [make_client(seed, classes, 5, 3) for seed in (1, 2, 3)]
    domains = [Client(head, part.features, part.labels) for part in parts]
    pooled = Client(head, torch.cat([part.features for part in parts]), torch.cat([part.labels for part in parts]))
    mean_gradient = torch.stack([statistics.gradient(*domain) for domain in domains]).mean(0)
    crossed = torch.stack([statistics.hessian_vector_product(*domain, mean_gradient) for domain in domains]).mean(0)
    own = torch.stack([statistics.gradient_hessian_product(*domain) for domain in domains]).mean(0)
    assert_close(statistics.gradient_hessian_product(*pooled), crossed)
    assert (crossed - own).abs().max() > 0.01


@pytest.mark.parametrize(
    ("examples", "classes", "width", "takes_hessian"),
    [(2, 3, 3, False), (5, 4, 4, False), (1, 1, 4, False), (6, 1, 2, True), (40, 2, 3, True), (60, 4, 2, True)],
)
def test_off_diagonal_energy_is_the_same_through_the_gram_matrix_and_through_the_hessian(
    monkeypatch: pytest.MonkeyPatch, examples: int, classes: int, width: int, takes_hessian: bool
) -> None:
    client = make_client(7, classes, examples, width)
    original, calls = statistics.hessian, []

    def counted(*arguments: Tensor) -> Tensor:
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(statistics, "hessian", counted)
    assert_close(statistics.off_diagonal_energy(*client), off_diagonal_twin(*client).square().sum())
    assert bool(calls) == takes_hessian


@pytest.mark.parametrize(("examples", "classes"), [(2, 4), (3, 4), (4, 4), (5, 4), (1, 1), (1, 2)])
def test_gradient_hessian_product_is_the_same_with_fewer_examples_than_classes(examples: int, classes: int) -> None:
    client = make_client(3, classes, examples, 3)
    assert_close(statistics.gradient_hessian_product(*client), product_twin(*client))


PER_CLASS = ("gradient", "hessian_diagonal", "gradient_variance")


@given(clients(st.just(1)))
def test_one_logit_is_a_softmax_head_whose_first_row_is_zero(client: Client) -> None:
    double = Client(torch.cat([torch.zeros_like(client.head), client.head]), client.features, client.labels)
    for name in ("risk", "scale_gradient", "accuracy"):
        assert_close(getattr(statistics, name)(*client), getattr(statistics, name)(*double))
    for name in PER_CLASS:
        assert_close(getattr(statistics, name)(*client)[0], getattr(statistics, name)(*double)[1])
    width = client.head.shape[1]
    assert_close(statistics.hessian(*client), statistics.hessian(*double)[width:, width:])


@pytest.mark.parametrize("name", [name for name in TWINS if name != "feature_covariance"])
@given(client=clients())
def test_each_statistic_is_a_mean_that_examples_taken_twice_do_not_change(name: str, client: Client) -> None:
    twice = Client(client.head, client.features.repeat(2, 1), client.labels.repeat(2))
    assert_close(getattr(statistics, name)(*twice), getattr(statistics, name)(*client))


@given(clients())
def test_rows_of_the_softmax_gradient_cancel_and_diagonal_is_not_negative(client: Client) -> None:
    assert (statistics.hessian_diagonal(*client) >= 0).all()
    assert (statistics.gradient_variance(*client) >= -1e-12).all()
    if len(client.head) > 1:
        assert_close(statistics.gradient(*client).sum(0), torch.zeros(client.head.shape[1], dtype=torch.float64))


@given(clients())
def test_gradient_variance_is_the_variance_of_vmapped_gradients(client: Client) -> None:
    each = vmap(grad(lambda head, row, label: statistics.risk(head, row[None], label[None])), (None, 0, 0))(*client)
    assert_close(statistics.gradient_variance(*client), each.var(0, correction=0))


@given(clients())
def test_shared_changes_no_value_and_no_gradient(client: Client) -> None:
    names = [*TWINS, "accuracy"]

    def objective(features: Tensor) -> Tensor:
        values = [getattr(statistics, name)(client.head, features, client.labels) for name in names]
        return torch.stack([(value * value).sum() for value in values])

    features = client.features.clone().requires_grad_()
    alone = objective(features)
    with cross_entropy.shared():
        together = objective(features)
        with torch.no_grad():
            assert not statistics.gradient(client.head, features, client.labels).requires_grad
        other = statistics.gradient(client.head, 2 * client.features, client.labels)
    assert torch.equal(alone, together)
    slopes = [torch.autograd.grad(value.sum(), features)[0] for value in (alone, together)]
    assert_close(slopes[0], slopes[1])
    assert torch.equal(other, statistics.gradient(client.head, 2 * client.features, client.labels))


def test_shared_computes_the_gradient_once_and_forgets_it_on_leaving() -> None:
    client = make_client(0, 3, 5, 4)
    with cross_entropy.shared():
        first = statistics.gradient(*client)
        assert statistics.gradient(*client) is first
    assert statistics.gradient(*client) is not first


def test_accuracy_counts_the_largest_logit_and_for_one_logit_its_sign() -> None:
    features = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    one = torch.tensor([[1.0, 0.0]])
    assert statistics.accuracy(one, features, torch.tensor([1, 0, 0, 0])) == 0.75
    assert statistics.accuracy(one, features, torch.tensor([1, 0, 1, 1])) == 0.75
    three = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.5]])
    assert statistics.accuracy(three, features, torch.tensor([0, 1, 2, 1])) == 0.75


def test_float32_stays_float32() -> None:
    head, features, labels = make_client(0, 3, 5, 4)
    for name in [*TWINS, "accuracy"]:
        assert getattr(statistics, name)(head.float(), features.float(), labels).dtype == torch.float32


@pytest.mark.parametrize("name", [*TWINS, "accuracy"])
@pytest.mark.parametrize(
    ("examples", "width", "labels", "message"),
    [
        (5, 3, 5, "features have 3 columns but the head expects 4; append the bias column"),
        (0, 4, 0, "a statistic needs at least one example, got 0; check the domain's data"),
        (5, 4, 6, "there are 5 feature rows but 6 labels; pass one label a row"),
    ],
)
def test_each_statistic_says_what_is_wrong_with_its_input(
    name: str, examples: int, width: int, labels: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(statistics, name)(torch.zeros(3, 4), torch.ones(examples, width), torch.zeros(labels).long())


def test_hessian_vector_product_refuses_a_vector_of_another_shape() -> None:
    client = make_client(0, 3, 5, 4)
    with pytest.raises(ValueError, match=r"the vector has shape \(4, 3\) but the head \(3, 4\); pass a direction"):
        statistics.hessian_vector_product(*client, torch.zeros(4, 3, dtype=torch.float64))


def test_covariance_refuses_a_single_example() -> None:
    with pytest.raises(ValueError, match="a covariance needs two examples or more, got 1; raise the batch size"):
        statistics.feature_covariance(*make_client(0, 3, 1, 4))
