"""The alignment penalty as a loss of each example: exact where released, unbiased around it, bounded anywhere."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close

from fedha import statistics
from fedha.config import ModelConfig
from fedha.errors import FedhaError
from fedha.models import SplitModel, build, head_matrix, with_bias
from fedha.privacy.clipping import private_means
from fedha.privacy.dpsgd import private_gradient
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.moments import Batch, measure
from fedha.privacy.noise import seeded
from fedha.privacy.releasable import derive, required
from fedha.privacy.surrogate import aligned_loss, pulls
from tests.privacy.test_dpsgd import flat, problem

Distance = Callable[[Tensor], Tensor]

# statistics with what is done to their difference to the reference: as the table of recipes does
PENALTIES: Mapping[str, Mapping[str, Distance]] = {
    "gradient and exact diagonal": {
        "gradient": lambda difference: 3.0 * difference.square().sum(),
        "hessian_diagonal": lambda difference: 2.0 * difference.square().sum(),
    },
    "hgp with the pooled gradient": {
        "gradient": lambda difference: difference.square().sum(),
        "pooled_gradient_hessian_product": lambda difference: 5.0 * difference.square().sum(),
    },
    "irm": {"scale_gradient": lambda difference: 4.0 * difference.square().sum()},
    "vrex": {"risk": lambda difference: 4.0 * difference.square().sum()},
    "fishr": {"gradient_variance": lambda difference: 10.0 * difference.square().mean()},
    "coral": {
        "feature_mean": lambda difference: difference.square().mean(),
        "feature_covariance": lambda difference: difference.square().mean(),
    },
    "an inner product": {"gradient": lambda difference: -2.0 * difference.cumsum(0).sum()},
}
AFFINE_PULL = [name for name in PENALTIES if name not in ("fishr", "coral")]  # statistics linear in their moments


def reference(statistic: str, shape: torch.Size) -> Tensor:
    draws = torch.Generator().manual_seed(len(statistic))
    return 0.1 * torch.randn(shape, generator=draws, dtype=torch.float64)


def start(name: str, model_name: str) -> tuple[SplitModel, dict[str, Tensor], Tensor, Tensor, Tensor]:
    model, parameters, inputs, labels = problem(model_name)
    rows = parameters["head.weight"].shape
    vector = reference("vector", torch.Size((rows[0], rows[1] + 1)))
    return model, parameters, inputs, labels, vector


def batch_at(model: SplitModel, parameters: Mapping[str, Tensor], inputs: Tensor, labels: Tensor, vector: Tensor):
    own = {key.removeprefix("featurizer."): value for key, value in parameters.items() if key.startswith("featurizer.")}
    features = with_bias(functional_call(model.featurizer, own, (inputs,)))
    return Batch.at(head_matrix(parameters["head.weight"], parameters["head.bias"]), features, labels, vector)


def penalty_of(name: str, examples: int) -> Callable[[dict[str, Tensor]], Tensor]:
    """As a function of the moments' means."""

    def penalty(means: dict[str, Tensor]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for statistic, distance in PENALTIES[name].items():
            value = derive(statistic, means, examples)
            total = total + distance(value - reference(statistic, value.shape))
        return total

    return penalty


def exact_gradient(name: str, model: SplitModel, parameters: Mapping[str, Tensor], *data: Tensor) -> Tensor:
    """Of risk plus penalty, the penalty made by fedha.statistics, through autograd: nothing of fedha.privacy."""
    live = {key: value.clone().requires_grad_() for key, value in parameters.items()}
    batch = batch_at(model, live, *data)
    client = (head_matrix(live["head.weight"], live["head.bias"]), batch.features, batch.labels)
    loss = statistics.risk(*client)
    for statistic, distance in PENALTIES[name].items():
        if statistic == "pooled_gradient_hessian_product":
            value = statistics.hessian_vector_product(*client, batch.vector)
        else:
            value = getattr(statistics, statistic)(*client)
        loss = loss + distance(value - reference(statistic, value.shape))
    slopes = torch.autograd.grad(loss, list(live.values()), materialize_grads=True)
    return flat(dict(zip(live, slopes, strict=True)))


def plain_means(name: str, batch: Batch) -> dict[str, Tensor]:
    moments = measure(required(PENALTIES[name]), batch)
    return private_means(moments, Mechanism(math.inf, 0.0, len(batch.features)), seeded(0))


def surrogate_gradient(
    name: str,
    model: SplitModel,
    parameters: Mapping[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    vector: Tensor,
    released: Mapping[str, Tensor],
) -> Tensor:
    loss = aligned_loss(model, pulls(penalty_of(name, len(inputs)), released), vector)
    mechanism = Mechanism(math.inf, 0.0, len(inputs))
    return flat(private_gradient(loss, parameters, inputs, labels, mechanism, seeded(0)))


@pytest.mark.parametrize("model_name", ["mlp", "cnn", "one logit"])
@pytest.mark.parametrize("name", PENALTIES)
def test_where_the_release_is_exact_the_mean_gradient_is_that_of_the_exact_penalty(name: str, model_name: str) -> None:
    model, parameters, *data = start(name, model_name)
    released = plain_means(name, batch_at(model, parameters, *data))
    exact = exact_gradient(name, model, parameters, *data)
    assert_close(surrogate_gradient(name, model, parameters, *data, released), exact, rtol=1e-9, atol=1e-12)
    without = flat(
        private_gradient(aligned_loss(model, {}), parameters, *data[:2], Mechanism(math.inf, 0, 6), seeded(0))
    )
    assert float((exact - without).abs().max()) > 1e-4  # the penalty pulls at all


@pytest.mark.parametrize("name", AFFINE_PULL)
def test_noise_of_the_release_leaves_the_gradient_exact_on_average(name: str) -> None:
    """Noise and its opposite are as likely: over each such pair the mean is the exact gradient."""
    model, parameters, *data = start(name, "mlp")
    plain = plain_means(name, batch_at(model, parameters, *data))
    noise = {key: torch.randn_like(value) for key, value in plain.items()}
    sides = [
        surrogate_gradient(
            name, model, parameters, *data, {key: value + sign * noise[key] for key, value in plain.items()}
        )
        for sign in (1, -1)
    ]
    assert_close((sides[0] + sides[1]) / 2, exact_gradient(name, model, parameters, *data), rtol=1e-8, atol=1e-10)
    if name != "an inner product":  # whose pull is constant
        assert float((sides[0] - sides[1]).abs().max()) > 1e-3


def test_the_squared_distance_pulls_twice_the_weight_along_the_difference() -> None:
    means = {"gradient": torch.randn(3, 4, dtype=torch.float64)}
    target = torch.randn(3, 4, dtype=torch.float64)
    found = pulls(lambda own: 7.0 * (own["gradient"] - target).square().sum(), means)
    assert_close(found["gradient"], 14.0 * (means["gradient"] - target))


def test_with_a_pull_of_any_size_one_example_adds_no_more_than_the_norm() -> None:
    model, parameters, inputs, labels, _ = start("irm", "mlp")
    directions = {"gradient": 1e6 * torch.ones(3, 5, dtype=torch.float64)}
    loss, mechanism = aligned_loss(model, directions), Mechanism(0.3, 0.0, 1.0)
    total = flat(private_gradient(loss, parameters, inputs, labels, mechanism, seeded(0)))
    for gone in range(len(inputs)):
        rest = torch.arange(len(inputs)) != gone
        fewer = flat(private_gradient(loss, parameters, inputs[rest], labels[rest], mechanism, seeded(0)))
        assert float((total - fewer).norm()) == pytest.approx(0.3, rel=1e-6)


@pytest.mark.parametrize("head", [nn.Linear(4, 3, bias=False), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))])
def test_a_head_without_closed_forms_is_refused(head: nn.Module) -> None:
    with pytest.raises(FedhaError, match="alignment with example-level privacy needs a linear head with a bias"):
        aligned_loss(SplitModel(nn.Identity(), head), {})


def test_mixed_precision_is_taken() -> None:
    model = build(ModelConfig(name="mlp", hidden=[4], precision="mixed"), (6,), 3, seed=0)
    loss = aligned_loss(model, {"gradient": torch.ones(3, 5)})
    inputs, labels = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    parameters = dict(model.named_parameters())
    gradient = private_gradient(loss, parameters, inputs, labels, Mechanism(1.0, 0.0, 4), seeded(0))
    assert 0 < float(flat(gradient).norm()) <= 1 + 1e-6
