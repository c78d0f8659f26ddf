"""Laws of the statistics through torch.func: the closed forms where the head is linear, autograd where it is not."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.func import hessian as autograd_hessian

from fedha import nonlinear, sketches, statistics


class Client(NamedTuple):
    head: nonlinear.Head
    parameters: dict[str, Tensor]
    features: Tensor
    labels: Tensor


def linear(parameters: dict[str, Tensor], features: Tensor) -> Tensor:
    return features @ parameters["weight"].T


def tanh_network(parameters: dict[str, Tensor], features: Tensor) -> Tensor:
    hidden = torch.tanh(features @ parameters["in.weight"].T + parameters["in.bias"])
    return hidden @ parameters["out.weight"].T + parameters["out.bias"]


def make_data(seed: int, classes: int, examples: int, width: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    features = torch.randn(examples, width, generator=draws, dtype=torch.float64)
    return features, torch.randint(0, max(classes, 2), (examples,), generator=draws)


def linear_client(seed: int, classes: int, examples: int, width: int) -> Client:
    """A linear head whose features hold the column of ones, so that the closed forms take the same matrix."""
    features, labels = make_data(seed, classes, examples, width)
    features[:, -1] = 1
    draws = torch.Generator().manual_seed(seed + 1)
    weight = torch.randn(classes, width, generator=draws, dtype=torch.float64)
    return Client(linear, {"weight": weight}, features, labels)


def network_client(seed: int, classes: int, examples: int = 5, width: int = 3, hidden: int = 2) -> Client:
    draws = torch.Generator().manual_seed(seed + 1)
    shapes = {
        "in.weight": (hidden, width),
        "in.bias": (hidden,),
        "out.weight": (classes, hidden),
        "out.bias": (classes,),
    }
    parameters = {name: torch.randn(shape, generator=draws, dtype=torch.float64) for name, shape in shapes.items()}
    return Client(tanh_network, parameters, *make_data(seed, classes, examples, width))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=min(tolerance, 1e-12))


seeds, heads = st.integers(0, 2**31), st.integers(1, 4)
linear_clients = st.builds(linear_client, seeds, heads, st.integers(2, 6), st.integers(2, 4))
network_clients = st.builds(network_client, seeds, heads)
NAMES = [
    "risk",
    "gradient",
    "hessian_diagonal",
    "gradient_hessian_product",
    "gradient_variance",
    "scale_gradient",
    "hessian",
    "hessian_off_diagonal",
    "off_diagonal_energy",
]


def flat(value: Tensor, reference: Tensor) -> Tensor:
    """A statistic in head space as the row [P] that this module gives; others as they are."""
    return value.flatten() if value.shape == reference.shape else value


@pytest.mark.parametrize("name", [*NAMES, "accuracy"])
@given(client=linear_clients)
def test_for_a_linear_head_each_statistic_is_the_closed_form(name: str, client: Client) -> None:
    weight = client.parameters["weight"]
    expected = flat(getattr(statistics, name)(weight, client.features, client.labels), weight)
    assert_close(getattr(nonlinear, name)(*client), expected, 1e-12)


@given(client=linear_clients, seed=seeds, many=st.integers(1, 3))
def test_for_a_linear_head_products_and_sketches_are_the_closed_forms(client: Client, seed: int, many: int) -> None:
    weight = client.parameters["weight"]
    signs = sketches.draw_signs(seed, 1, many, weight.shape).double()
    products = statistics.hessian_vector_product(weight, client.features, client.labels, signs).flatten(1)
    assert_close(nonlinear.hessian_vector_product(*client, signs.flatten(1)), products, 1e-12)
    assert_close(nonlinear.hessian_vector_product(*client, signs[0].flatten()), products[0], 1e-12)
    estimate = sketches.hutchinson_diagonal(weight, client.features, client.labels, signs).flatten()
    assert_close(nonlinear.hutchinson_diagonal(*client, signs.flatten(1)), estimate, 1e-12)


@given(client=linear_clients)
def test_feature_moments_are_those_of_all_columns(client: Client) -> None:
    assert_close(nonlinear.feature_mean(*client), client.features.mean(0))
    assert_close(nonlinear.feature_covariance(*client), torch.cov(client.features.T))


# Naive twins of a network head: the risk as a function of one flat vector, differentiated whole.


def flat_head(client: Client) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """The risk of (flat head, features), and the flat head."""
    shapes = [value.shape for value in client.parameters.values()]

    def risk(vector: Tensor, features: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        own, start = {}, 0
        for name, shape in zip(client.parameters, shapes, strict=True):
            own[name] = vector[start : start + shape.numel()].reshape(shape)
            start += shape.numel()
        logits = client.head(own, features) * scale
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return -logits.log_softmax(1)[torch.arange(len(features)), client.labels[: len(features)]].mean()

    return risk, torch.cat([value.flatten() for value in client.parameters.values()])


def twin(name: str, client: Client) -> Callable[[Tensor, Tensor], Tensor]:
    risk, _ = flat_head(client)
    slope, full = grad(risk), autograd_hessian(risk)

    def variance(vector: Tensor, features: Tensor) -> Tensor:
        rows = range(len(features))
        alone = [client._replace(labels=client.labels[i : i + 1]) for i in rows]
        each = torch.stack([grad(flat_head(alone[i])[0])(vector, features[i : i + 1]) for i in rows])
        return (each - each.mean(0)).square().mean(0)

    def off_diagonal(vector: Tensor, features: Tensor) -> Tensor:
        return full(vector, features) * (1 - torch.eye(len(vector), dtype=vector.dtype))

    def scale_gradient(vector: Tensor, features: Tensor) -> Tensor:
        return grad(lambda scale: risk(vector, features, scale))(vector.new_ones(()))

    twins: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "risk": risk,
        "gradient": slope,
        "hessian_diagonal": lambda *point: full(*point).diagonal(),
        "gradient_hessian_product": lambda *point: full(*point) @ slope(*point),
        "gradient_variance": variance,
        "scale_gradient": scale_gradient,
        "hessian": full,
        "hessian_off_diagonal": off_diagonal,
        "off_diagonal_energy": lambda *point: off_diagonal(*point).square().sum(),
    }
    return twins[name]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(client=network_clients)
def test_for_a_network_head_each_statistic_is_its_definition(name: str, client: Client) -> None:
    _, vector = flat_head(client)
    assert_close(getattr(nonlinear, name)(*client), twin(name, client)(vector, client.features))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10)
@given(client=network_clients, seed=seeds)
def test_each_statistic_passes_its_gradient_to_features_and_parameters(name: str, client: Client, seed: int) -> None:
    _, vector = flat_head(client)

    def weigh(value: Tensor) -> Tensor:
        return (value * torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)).double()).sum()

    live = {key: value.clone().requires_grad_() for key, value in client.parameters.items()}
    features = client.features.clone().requires_grad_()
    value = weigh(getattr(nonlinear, name)(client.head, live, features, client.labels))
    actual = torch.autograd.grad(value, [*live.values(), features], materialize_grads=True)
    expected = grad(lambda *point: weigh(twin(name, client)(*point)), (0, 1))(vector, client.features)
    assert_close(torch.cat([slope.flatten() for slope in actual[:-1]]), expected[0])
    assert_close(actual[-1], expected[1])


@settings(max_examples=10)
@given(client=network_clients, seed=seeds)
def test_sketch_of_a_network_head_is_its_definition_with_its_gradient(client: Client, seed: int) -> None:
    risk, vector = flat_head(client)
    signs = sketches.draw_signs(seed, 1, 3, vector.shape).double()

    def naive(features: Tensor) -> Tensor:
        full = autograd_hessian(risk)(vector, features)
        return torch.stack([v * (full @ v) for v in signs]).mean(0)

    def estimate(features: Tensor) -> Tensor:
        return nonlinear.hutchinson_diagonal(client.head, client.parameters, features, client.labels, signs)

    assert_close(estimate(client.features), naive(client.features))
    features = client.features.clone().requires_grad_()
    (actual,) = torch.autograd.grad(estimate(features).square().sum(), features)
    assert_close(actual, grad(lambda point: naive(point).square().sum())(client.features))


def test_a_backward_pass_trains_the_backbone_through_the_products_too() -> None:
    client = network_client(0, 3)
    _, vector = flat_head(client)
    direction = torch.linspace(-1, 1, len(vector), dtype=torch.float64)
    backbone = nn.Linear(2, 3, dtype=torch.float64)
    inputs = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(through: Callable[[Tensor], Tensor]) -> Tensor:
        return through(backbone(inputs)).square().sum()

    loss(
        lambda z: nonlinear.hessian_vector_product(client.head, client.parameters, z, client.labels, direction)
    ).backward()
    actual, backbone.weight.grad = backbone.weight.grad, None
    loss(lambda z: autograd_hessian(flat_head(client)[0])(vector, z) @ direction).backward()
    assert_close(actual, backbone.weight.grad)


@pytest.mark.parametrize("chunk", [1, 5, 14, 1000])
def test_the_size_of_a_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    client = network_client(4, 2)
    signs = sketches.draw_signs(0, 1, 7, torch.Size((14,))).double()
    whole = nonlinear.hessian(*client)
    monkeypatch.setattr(nonlinear, "CHUNK", chunk)
    assert_close(nonlinear.hessian(*client), whole)
    assert_close(nonlinear.hessian_diagonal(*client), whole.diagonal())
    assert_close(nonlinear.hutchinson_diagonal(*client, signs), (signs * (signs @ whole)).mean(0))


def test_scale_gradient_of_a_network_head_is_not_the_inner_product_of_head_and_gradient() -> None:
    client = network_client(0, 3)
    _, vector = flat_head(client)
    assert (nonlinear.scale_gradient(*client) - vector @ nonlinear.gradient(*client)).abs() > 0.01


@pytest.mark.parametrize("classes", [1, 3])
def test_a_torch_module_with_relu_in_place_is_a_head(classes: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, classes)).double()
    parameters = dict(module.named_parameters())
    features, labels = make_data(0, classes, 6, 3)
    features.requires_grad_()
    client = Client(lambda own, z: functional_call(module, own, (z,)), parameters, features, labels)
    risk, vector = flat_head(client)
    whole = autograd_hessian(risk)(vector, features)
    assert_close(nonlinear.hessian(*client), whole)
    slopes = [
        torch.autograd.grad(value.diagonal().square().sum(), [features, *parameters.values()], retain_graph=True)
        for value in (nonlinear.hessian(*client), whole)
    ]
    for actual, expected in zip(*slopes, strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("name", [*NAMES, "feature_mean", "feature_covariance", "accuracy"])
def test_each_statistic_can_be_measured_without_a_graph(name: str) -> None:
    client = network_client(1, 2)
    live = client._replace(features=client.features.clone().requires_grad_())
    with torch.no_grad():
        value = getattr(nonlinear, name)(*live)
    assert not value.requires_grad
    assert_close(value, getattr(nonlinear, name)(*client))


def test_accuracy_counts_the_largest_logit_and_for_one_logit_its_sign() -> None:
    features = torch.tensor([[2.0], [-2.0], [0.0], [1.0]])
    assert nonlinear.accuracy(linear, {"weight": torch.ones(1, 1)}, features, torch.tensor([1, 0, 0, 0])) == 0.75
    two = {"weight": torch.tensor([[-1.0], [1.0]])}
    assert nonlinear.accuracy(linear, two, features, torch.tensor([1, 0, 0, 0])) == 0.75


@pytest.mark.parametrize("name", [*NAMES, "feature_mean", "feature_covariance", "accuracy"])
def test_each_statistic_says_what_is_wrong_with_its_input(name: str) -> None:
    client = network_client(0, 3)
    nobody = client._replace(features=client.features[:0], labels=client.labels[:0])
    with pytest.raises(ValueError, match="a statistic needs at least one example, got 0; check the domain's data"):
        getattr(nonlinear, name)(*nobody)
    with pytest.raises(ValueError, match="there are 5 feature rows but 4 labels; pass one label a row"):
        getattr(nonlinear, name)(*client._replace(labels=client.labels[:4]))


@pytest.mark.parametrize("name", [*NAMES, "accuracy"])
def test_a_head_that_gives_no_logits_is_refused(name: str) -> None:
    client = network_client(0, 3)._replace(head=lambda parameters, features: features.sum() * parameters["in.bias"])
    with pytest.raises(ValueError, match=r"the head gave 5 examples logits of shape \(2,\); expected \[n, C\]"):
        getattr(nonlinear, name)(*client)


def test_directions_of_another_length_are_refused() -> None:
    client = network_client(0, 3)
    with pytest.raises(ValueError, match=r"shape \(16,\) but this head takes \[17\] or \[m, 17\]"):
        nonlinear.hessian_vector_product(*client, torch.ones(16).double())
    with pytest.raises(ValueError, match=r"shape \(2, 16\) but this head takes \[17\] or \[m, 17\]"):
        nonlinear.hessian_vector_product(*client, torch.ones(2, 16).double())
    with pytest.raises(ValueError, match=r"shape \(17,\) but this head takes \[m, 17\]"):
        nonlinear.hutchinson_diagonal(*client, torch.ones(17).double())


def test_covariance_refuses_a_single_example() -> None:
    client = network_client(0, 3, examples=1)
    with pytest.raises(ValueError, match="a covariance needs two examples or more, got 1; raise the batch size"):
        nonlinear.feature_covariance(*client)
