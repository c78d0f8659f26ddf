"""Networks are made from a config and a seed, in two parts that the statistics can rely on."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from fedha.config import ModelConfig
from fedha.errors import FedhaError
from fedha.models import SplitModel, build, head_matrix, with_bias
from fedha.models.check import check_inputs

CONFIGS = {
    "mlp": ModelConfig(hidden=[7, 5]),
    "mlp without a layer": ModelConfig(hidden=[]),
    "linear": ModelConfig(name="linear"),
    "cnn": ModelConfig(name="cnn", hidden=[4, 6]),
    "head of two layers": ModelConfig(hidden=[7], head_hidden=[6]),
    "one logit": ModelConfig(hidden=[7], one_logit=True),
    "xavier": ModelConfig(name="cnn", hidden=[4], init="xavier"),
    "mixed": ModelConfig(name="cnn", hidden=[4], precision="mixed"),
    "float64": ModelConfig(hidden=[7], precision="float64"),
}
SHAPE = (2, 8, 8)


def images(count: int = 5) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_network_maps_inputs_to_logits_through_its_parts(name: str) -> None:
    config = CONFIGS[name]
    model = build(config, SHAPE, 2, seed=3)
    precision = torch.float64 if config.precision == "float64" else torch.float32
    inputs = images().to(precision)
    assert model(inputs).shape == (5, 1 if config.one_logit else 2)
    assert torch.equal(model(inputs), model.head(model.featurizer(inputs)))
    assert model.featurizer(inputs).dim() == 2
    assert {value.dtype for value in model.state_dict().values()} == {precision}
    assert isinstance(model.head, nn.Linear) == (not config.head_hidden)


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    first = build(CONFIGS[name], SHAPE, 2, seed=3).state_dict()
    torch.rand(5)
    before = torch.random.get_rng_state()
    again = build(CONFIGS[name], SHAPE, 2, seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_close(again, first, rtol=0, atol=0)
    other = build(CONFIGS[name], SHAPE, 2, seed=4).state_dict()
    assert not torch.equal([*other.values()][-2], [*first.values()][-2])


def test_mixed_precision_rounds_the_featurizer_and_nothing_behind_it() -> None:
    full, mixed = (build(ModelConfig(hidden=[7], precision=one), SHAPE, 2, 0) for one in ("float32", "mixed"))
    inputs = images()
    exact, rounded = full.featurizer(inputs), mixed.featurizer(inputs)
    assert exact.dtype == rounded.dtype == torch.float32
    assert 1e-5 < float((exact - rounded).detach().abs().max()) < 0.02  # bfloat16 has eight bits
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert torch.equal(mixed.head(exact), full.head(exact))
    gradients = torch.autograd.grad(mixed(inputs).square().sum(), list(mixed.parameters()))
    assert {one.dtype for one in gradients} == {torch.float32}


def test_both_precisions_start_from_the_same_weights() -> None:
    single, double = (build(ModelConfig(hidden=[7], precision=one), SHAPE, 2, 0) for one in ("float32", "float64"))
    assert_close(
        {name: value.double() for name, value in single.state_dict().items()}, double.state_dict(), rtol=0, atol=0
    )


def test_xavier_spreads_weights_by_fan_in_and_out_and_starts_biases_at_zero() -> None:
    model = build(ModelConfig(hidden=[60], init="xavier"), SHAPE, 2, 0)
    weight, bias, *_ = model.state_dict().values()
    bound = (6 / (128 + 60)) ** 0.5
    assert 0.95 * bound < float(weight.abs().max()) <= bound
    assert not bias.any()


@pytest.mark.parametrize("name", CONFIGS)
def test_no_network_keeps_running_statistics(name: str) -> None:
    assert not [*build(CONFIGS[name], SHAPE, 2, 0).named_buffers()]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_the_head_matrix_times_features_with_bias_are_the_logits(n: int, width: int, classes: int) -> None:
    head = nn.Linear(width, classes).double()
    features = torch.randn(n, width, dtype=torch.float64)
    matrix = head_matrix(head.weight, head.bias)
    assert matrix.shape == (classes, width + 1)
    assert_close(with_bias(features) @ matrix.T, head(features))


def test_your_own_network_is_a_split_model() -> None:
    model = SplitModel(nn.Flatten(), nn.Linear(4, 3))
    assert model(torch.ones(2, 2, 2)).shape == (2, 3)
    assert [name for name, _ in model.named_parameters()] == ["head.weight", "head.bias"]


class Ends(nn.Module):
    """A network whose forward does something with what its last layer gives."""

    def __init__(self, end: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.fc, self.end = nn.Linear(4, 3), nn.Linear(3, 3), end

    def forward(self, inputs: Tensor) -> Tensor:
        return self.end(self.fc, self.body(inputs))


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda fc, z: fc(z).softmax(1), "'fc': it works on what it gives"),
        (lambda fc, z: fc(z) * 0.5, "'fc': it works on what it gives"),
        (lambda fc, z: fc(z) + fc(2 * z), "'fc': it uses it more than once"),
        (lambda fc, z: z, "'fc': it does not use it"),
    ],
)
def test_a_network_that_goes_on_behind_its_head_is_not_split_there(end: Callable[..., Tensor], said: str) -> None:
    with pytest.raises(FedhaError, match=said):
        check_inputs(SplitModel.of(Ends(end), head="fc"), "a", (4,))


def test_a_network_that_ends_with_its_head_is_split_into_the_same_network() -> None:
    whole = Ends(lambda fc, z: fc(z).flatten(1))
    made, inputs = SplitModel.of(whole, head="fc"), torch.randn(3, 4)
    assert check_inputs(made, "a", (4,)) == 3
    assert torch.equal(made(inputs), whole(inputs))


@pytest.mark.parametrize(
    ("config", "shape", "classes", "message"),
    [
        (ModelConfig(one_logit=True), SHAPE, 3, "one_logit is for two classes but the data have 3"),
        (ModelConfig(name="cnn"), (13,), 2, r"takes images .* has shape \(13,\); use mlp"),
        (ModelConfig(name="cnn", hidden=[4] * 4), SHAPE, 2, "halves the image 4 times but it is only 8 x 8"),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_refused(
    config: ModelConfig, shape: tuple[int, ...], classes: int, message: str
) -> None:
    with pytest.raises(FedhaError, match=message):
        build(config, shape, classes, 0)
