"""Private gradients: the batch's own without bounds, bounded in each example, and as noisy as they say."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.testing import assert_close

from fedha.config import ModelConfig
from fedha.data.examples import Examples
from fedha.errors import FedhaError
from fedha.models import SplitModel, build
from fedha.privacy.beyond import refuse_beyond_examples
from fedha.privacy.dpsgd import descend, private_gradient
from fedha.privacy.loss import Loss
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.noise import cryptographic, grid, seeded
from fedha.privacy.surrogate import risk_loss
from fedha.steps import LocalSteps
from tests.privacy.chance import variance_bounds

SHAPE = (2, 6, 6)
MODELS = {
    "mlp": ModelConfig(name="mlp", hidden=[5, 4], precision="float64"),
    "cnn": ModelConfig(name="cnn", hidden=[3, 4], precision="float64"),
    "one logit": ModelConfig(name="mlp", hidden=[5], one_logit=True, precision="float64"),
    "deep head": ModelConfig(name="mlp", hidden=[5], head_hidden=[4], precision="float64"),
}


def problem(name: str, examples: int = 6, seed: int = 0) -> tuple[SplitModel, dict[str, Tensor], Tensor, Tensor]:
    classes = 2 if name == "one logit" else 3
    model = build(MODELS[name], SHAPE, classes, seed=1)
    draws = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, *SHAPE, generator=draws, dtype=torch.float64)
    labels = torch.randint(0, classes, (examples,), generator=draws)
    return model, {key: value.detach() for key, value in model.named_parameters()}, inputs, labels


def batch_risk(model: SplitModel, inputs: Tensor, labels: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    logits = functional_call(model, parameters, (inputs,))
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.double())
    return functional.cross_entropy(logits, labels)


def plain_gradient(model: SplitModel, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    live = {key: value.detach().clone().requires_grad_() for key, value in model.named_parameters()}
    values = torch.autograd.grad(batch_risk(model, inputs, labels, live), list(live.values()))
    return dict(zip(live, values, strict=True))


def flat(gradient: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in gradient.values()])


@pytest.mark.parametrize("name", MODELS)
def test_without_clip_and_noise_it_is_the_batchs_gradient(name: str) -> None:
    model, parameters, inputs, labels = problem(name)
    mechanism = Mechanism(math.inf, 0.0, len(inputs))
    gradient = private_gradient(risk_loss(model), parameters, inputs, labels, mechanism, seeded(0))
    assert_close(gradient, plain_gradient(model, inputs, labels), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("memory_bytes", [1, 5000, 2**26])
def test_each_example_is_clipped_by_itself_however_the_batch_is_cut(name: str, memory_bytes: int) -> None:
    model, parameters, inputs, labels = problem(name)
    each = torch.stack(
        [flat(plain_gradient(model, row[None], label[None])) for row, label in zip(inputs, labels, strict=True)]
    )
    norm = float(each.norm(dim=1).median())  # some are cut, some are not
    expected = (norm / each.norm(dim=1)).clamp(max=1) @ each / 10
    gradient = private_gradient(
        risk_loss(model), parameters, inputs, labels, Mechanism(norm, 0.0, 10), seeded(0), memory_bytes
    )
    assert_close(flat(gradient), expected, rtol=1e-10, atol=1e-13)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(1e-3, 10), st.integers(0, 5))
def test_removing_an_example_moves_the_sum_by_at_most_the_norm(seed: int, norm: float, gone: int) -> None:
    model, parameters, inputs, labels = problem("mlp", seed=seed)
    rest = torch.arange(len(inputs)) != gone
    mechanism = Mechanism(norm, 0.0, 4)

    def total(rows: Tensor) -> Tensor:
        return 4 * flat(
            private_gradient(risk_loss(model), parameters, inputs[rows], labels[rows], mechanism, seeded(0))
        )

    moved = float((total(torch.arange(len(inputs))) - total(rest)).norm())
    own = float(flat(plain_gradient(model, inputs[gone : gone + 1], labels[gone : gone + 1])).norm())
    assert moved <= norm * (1 + 1e-9)
    assert moved == pytest.approx(min(norm, own), rel=1e-6)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_an_example_that_is_not_finite_adds_nothing_and_raises_nothing(broken: float) -> None:
    model, parameters, inputs, labels = problem("mlp")
    spoilt = inputs.clone()
    spoilt[2] = broken
    rest = torch.arange(len(inputs)) != 2
    mechanism = Mechanism(0.5, 0.0, 6)
    assert_close(
        private_gradient(risk_loss(model), parameters, spoilt, labels, mechanism, seeded(0)),
        private_gradient(risk_loss(model), parameters, inputs[rest], labels[rest], mechanism, seeded(0)),
    )


@pytest.mark.parametrize("examples", [0, 4])
def test_noise_has_its_deviation_even_where_the_batch_is_empty(examples: int) -> None:
    """Divided by the expected batch, 8, whoever was drawn; some 20,000 entries, seeded."""
    head = nn.Linear(100, 200, dtype=torch.float64)
    model = SplitModel(nn.Identity(), head)
    parameters = dict(model.named_parameters())
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, 100, generator=draws, dtype=torch.float64)
    labels = torch.randint(0, 200, (examples,), generator=draws)

    def at(noise: float) -> Tensor:
        mechanism = Mechanism(0.5, noise, 8)
        return flat(private_gradient(risk_loss(model), parameters, inputs, labels, mechanism, seeded(0)))

    noise = (at(3.0) - at(0.0)) / (3.0 * 0.5 / 8)
    low, high = variance_bounds(len(noise), 1e-9)
    assert low < float(noise.square().sum()) < high
    assert not torch.equal(noise[:200], noise[200:400])


class Scale(nn.Module):
    """One number, times the input."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.number * inputs


def test_a_parameter_may_be_a_single_number() -> None:
    loss = Loss(SplitModel(Scale(), nn.Identity()), lambda features, logits, labels: logits[:, 0])
    inputs = torch.tensor([[3.0], [-0.5]], dtype=torch.float64)
    parameters = dict(loss.model.named_parameters())
    gradient = private_gradient(loss, parameters, inputs, torch.zeros(2), Mechanism(1.0, 0.0, 2), seeded(0))
    assert float(gradient["featurizer.number"]) == pytest.approx((1.0 - 0.5) / 2)


def test_a_sites_gradient_is_on_the_grid_and_in_the_models_precision() -> None:
    model = build(ModelConfig(name="mlp", hidden=[4]), SHAPE, 3, seed=0)
    inputs, labels = torch.randn(5, *SHAPE), torch.tensor([0, 1, 2, 0, 1])
    mechanism = Mechanism(1.0, 1.0, 5)
    gradient = private_gradient(
        risk_loss(model), dict(model.named_parameters()), inputs, labels, mechanism, cryptographic()
    )
    for name, value in model.named_parameters():
        steps = gradient[name] / grid(mechanism.deviation())
        assert gradient[name].dtype == value.dtype
        assert torch.equal(steps, steps.round())


def test_descending_without_clip_and_noise_is_torchs_training() -> None:
    model, parameters, inputs, labels = problem("mlp")
    rows = [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5]), torch.tensor([1, 3, 5])]
    ends = []
    for private in (True, False):
        live = {key: value.clone().requires_grad_() for key, value in parameters.items()}
        optimizer = torch.optim.SGD(list(live.values()), lr=0.1, momentum=0.9)
        if private:
            batches = [Examples(inputs[some], labels[some]) for some in rows]
            mechanism = Mechanism(math.inf, 0.0, 3)
            steps = LocalSteps(live, optimizer, [0.1] * len(batches))
            descend(risk_loss(model), steps, batches, mechanism, seeded(0), weight_decay=0.01)
        else:
            for some in rows:
                optimizer.zero_grad()
                loss = batch_risk(model, inputs[some], labels[some], live)
                (loss + 0.01 * sum(value.square().sum() for value in live.values())).backward()
                optimizer.step()
        ends.append({key: value.detach() for key, value in live.items()})
    assert_close(ends[0], ends[1], rtol=1e-10, atol=1e-13)


def test_each_step_has_noise_of_its_own() -> None:
    model, parameters, inputs, labels = problem("mlp")
    live = {key: value.clone().requires_grad_() for key, value in parameters.items()}
    places = [flat(live).detach().clone()]

    class Seen(torch.optim.SGD):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            super().step(closure)
            places.append(flat(live).detach().clone())

    empty = [Examples(inputs[:0], labels[:0])] * 2
    steps = LocalSteps(live, Seen(list(live.values()), lr=1.0), [1.0, 1.0])
    descend(risk_loss(model), steps, empty, Mechanism(1.0, 1.0, 4), seeded(0))
    first, second = places[1] - places[0], places[2] - places[1]
    assert float((first - second).abs().min()) > 0


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm2d(2), r"layer 'featurizer.0' \(BatchNorm2d\) makes statistics of the batch"),
        (nn.BatchNorm2d(2, track_running_stats=False).eval(), "makes statistics of the batch"),
        (nn.InstanceNorm2d(2, track_running_stats=True), "take model.batch_norm frozen"),
        (nn.Dropout(0.5), r"layer 'featurizer.0' \(Dropout\) draws at random"),
    ],
)
def test_layers_that_look_beyond_an_example_are_refused(layer: nn.Module, message: str) -> None:
    model = SplitModel(nn.Sequential(layer, nn.Flatten()), nn.Linear(72, 3), batch_norm="averaged")
    with pytest.raises(FedhaError, match=message):
        refuse_beyond_examples(model, SHAPE)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(2),
        nn.InstanceNorm2d(2),
        nn.InstanceNorm2d(2, track_running_stats=True).eval(),
        nn.GroupNorm(1, 2),
        nn.Dropout(0.5).eval(),
        nn.Dropout(0.0),
    ],
)
def test_layers_that_do_not_are_taken_and_each_example_stays_alone(layer: nn.Module) -> None:
    model = SplitModel(nn.Sequential(layer, nn.Flatten()), nn.Linear(72, 3)).double()
    refuse_beyond_examples(model, SHAPE)
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, *SHAPE, generator=draws, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])
    mechanism = Mechanism(math.inf, 0.0, 4)
    gradient = private_gradient(risk_loss(model), dict(model.named_parameters()), inputs, labels, mechanism, seeded(0))
    assert_close(gradient, plain_gradient(model, inputs, labels), rtol=1e-10, atol=1e-13)
