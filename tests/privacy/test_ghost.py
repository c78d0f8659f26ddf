"""Clipped sums from activations are those of the example gradients themselves, which torch.func makes."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import weight_norm
from torch.testing import assert_close

from fedha.config import ModelConfig
from fedha.inputs import Form
from fedha.models import SplitModel, build
from fedha.privacy import dpsgd, ghost
from fedha.privacy.dpsgd import private_gradient
from fedha.privacy.loss import Loss
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.noise import Source, cryptographic, seeded
from fedha.privacy.surrogate import aligned_loss, risk_loss
from fedha.registry import moments

SHAPE, EXAMPLES = (2, 3, 3), 12


def _without_bias() -> SplitModel:
    layers = (nn.Flatten(), nn.Linear(18, 7, bias=False), nn.Tanh(), nn.Linear(7, 4), nn.GELU())
    return SplitModel(nn.Sequential(*layers), nn.Linear(4, 3))


def _activation_called_twice() -> SplitModel:
    again = nn.ReLU(inplace=True)
    layers = (nn.Flatten(), nn.Linear(18, 7), again, nn.Sequential(nn.Linear(7, 4), again), nn.Identity())
    return SplitModel(nn.Sequential(*layers), nn.Linear(4, 3))


MODELS: dict[str, Callable[[], SplitModel]] = {
    "mlp": lambda: build(ModelConfig(name="mlp", hidden=[7, 4]), SHAPE, 3, seed=1),
    "one logit": lambda: build(ModelConfig(name="mlp", hidden=[7], one_logit=True), SHAPE, 2, seed=1),
    "no hidden layer": lambda: build(ModelConfig(name="linear"), SHAPE, 3, seed=1),
    "without bias": _without_bias,
    "an activation called twice": _activation_called_twice,
}
HEADS_OF_THEIR_OWN: dict[str, Callable[[], SplitModel]] = {
    "deep head": lambda: build(ModelConfig(name="mlp", hidden=[7], head_hidden=[4]), SHAPE, 3, seed=1),
    "head without bias": lambda: SplitModel(nn.Flatten(), nn.Linear(18, 3, bias=False)),
}


def make(name: str) -> SplitModel:
    torch.manual_seed(0)
    return (MODELS | HEADS_OF_THEIR_OWN)[name]()


def examples(model: SplitModel, count: int = EXAMPLES) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, *SHAPE, generator=draws).to(next(model.parameters()).dtype)
    classes = max(2, model(inputs[:0]).shape[1])
    return inputs, torch.randint(0, classes, (count,), generator=draws)


def aligned(model: SplitModel, names: tuple[str, ...]) -> Loss:
    """A pull on these moments, and on all examples alike."""
    draws = torch.Generator().manual_seed(5)
    classes, width = model.head.out_features, model.head.in_features
    shapes = {
        **dict.fromkeys(moments(), (classes, width + 1)),
        **dict.fromkeys(("risk", "accuracy", "scale_gradient"), (1, 1)),
        "feature_mean": (1, width),
        "feature_square": (width, width),
    }
    directions = {name: torch.randn(shapes[name], generator=draws) for name in names}
    return aligned_loss(model, directions, torch.randn(classes, width + 1, generator=draws))


def both_ways(
    monkeypatch: pytest.MonkeyPatch,
    loss: Loss,
    inputs: Tensor,
    labels: Tensor,
    clip: float,
    source: Source | None = None,
    memory_bytes: int = dpsgd.MEMORY_BYTES,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The sums from activations, and those of torch.func."""
    parameters = dict(loss.model.named_parameters())
    mechanism, source = Mechanism(clip, 0.0, len(inputs) or 1), source or seeded(0)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("example gradients were made")

    with monkeypatch.context() as patch:
        patch.setattr(dpsgd, "vmap", refuse)
        fast = private_gradient(loss, parameters, inputs, labels, mechanism, source, memory_bytes)
    with monkeypatch.context() as patch:
        patch.setattr(ghost, "unsuited", lambda *_: "it is what the other is held to")
        patch.setattr(ghost, "add_clipped", refuse)
        return fast, private_gradient(loss, parameters, inputs, labels, mechanism, source)


def median_norm(loss: Loss, inputs: Tensor, labels: Tensor) -> float:
    """A clip that cuts half of the examples."""
    parameters = dict(loss.model.named_parameters())
    norms = [
        torch.cat(
            [one.flatten() for one in torch.autograd.grad(loss.each(parameters, x, y).sum(), parameters.values())]
        )
        for x, y in zip(inputs.split(1), labels.split(1), strict=True)
    ]
    return float(torch.stack([one.norm() for one in norms]).median())


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("name", [*MODELS, *HEADS_OF_THEIR_OWN])
def test_the_sum_of_clipped_risks_is_torch_funcs(name: str, cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = risk_loss(model := make(name))
    inputs, labels = examples(model)
    clip = median_norm(loss, inputs, labels) if cut else math.inf
    fast, slow = both_ways(monkeypatch, loss, inputs, labels, clip)
    assert_close(fast, slow, rtol=1e-5, atol=1e-6)
    assert fast.keys() == dict(model.named_parameters()).keys()
    assert float(torch.cat([one.flatten() for one in slow.values()]).norm()) > 1e-2


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize(
    "moments", [*((one,) for one in moments()), tuple(moments()), ()], ids=lambda own: "+".join(own)
)
@pytest.mark.parametrize("name", MODELS)
def test_so_is_that_of_every_moments_pull(
    name: str, moments: tuple[str, ...], cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = aligned(model := make(name), moments).over(3.0)
    inputs, labels = examples(model)
    clip = median_norm(loss, inputs, labels) if cut else math.inf
    fast, slow = both_ways(monkeypatch, loss, inputs, labels, clip)
    assert_close(fast, slow, rtol=1e-5, atol=1e-6)
    if name == "mlp" and moments not in ((), ("accuracy",)):  # which has no slope
        unpulled, _ = both_ways(monkeypatch, risk_loss(model).over(3.0), inputs, labels, clip)
        assert any(float((fast[key] - unpulled[key]).abs().max()) > 1e-4 for key in fast)


@pytest.mark.parametrize("memory_bytes", [1, 2000])
def test_however_the_batch_is_cut(memory_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = aligned(model := make("mlp"), ("gradient", "hessian_diagonal"))
    inputs, labels = examples(model)
    fast, slow = both_ways(monkeypatch, loss, inputs, labels, 1.0, memory_bytes=memory_bytes)
    assert_close(fast, slow, rtol=1e-5, atol=1e-6)


def test_without_rows_the_sum_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = risk_loss(model := make("mlp"))
    for found in both_ways(monkeypatch, loss, *examples(model, 0), 1.0):
        assert all(not one.any() and one.shape == model.get_parameter(name).shape for name, one in found.items())


@pytest.mark.parametrize("clip", [0.5, math.inf])
@pytest.mark.parametrize("broken", [math.nan, math.inf, 3e38])
def test_an_example_that_is_not_finite_adds_nothing(
    broken: float, clip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = aligned(model := make("mlp"), ("gradient",))
    inputs, labels = examples(model)
    spoilt, rest = inputs.clone(), torch.arange(EXAMPLES) != 4
    spoilt[4] = broken  # the largest is finite, its gradient is not
    parameters, mechanism = dict(model.named_parameters()), Mechanism(clip, 0.0, 5)
    expected = private_gradient(loss, parameters, inputs[rest], labels[rest], mechanism, seeded(0))
    assert_close(private_gradient(loss, parameters, spoilt, labels, mechanism, seeded(0)), expected)


def test_a_site_sums_in_float64_what_it_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise a cryptographic source settles nothing, so that what it summed can be seen in a wide sum."""
    loss = aligned(model := make("mlp"), ("gradient", "hessian_diagonal"))
    inputs, labels = examples(model)
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in parameters.items()}
    for x, y in zip(inputs.split(1), labels.split(1), strict=True):
        alone = {name: torch.zeros_like(value) for name, value in total.items()}
        ghost.add_clipped(alone, loss, parameters, x, y, 1e-3)
        own = torch.cat([one.flatten() for one in alone.values()]).norm()
        assert float(own) == pytest.approx(1e-3, rel=1e-12)  # every example is cut, to the norm of what is summed
        ghost.add_clipped(total, loss, parameters, x, y, 1e-3)
    fast, slow = both_ways(monkeypatch, loss, inputs, labels, 1e-3, cryptographic())
    assert_close({name: value.double() * EXAMPLES for name, value in fast.items()}, total, rtol=1e-6, atol=1e-9)
    assert_close(fast, slow, rtol=1e-5, atol=1e-9)
    assert all(value.dtype == torch.float32 for value in fast.values())


def test_in_float64_both_ways_agree_to_its_last_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = aligned_loss(model := make("mlp").double(), {"gradient": torch.ones(3, 5, dtype=torch.float64)})
    fast, slow = both_ways(monkeypatch, loss, *examples(model), 0.3)
    assert_close(fast, slow, rtol=1e-12, atol=1e-15)


def test_the_same_batch_gives_the_same_bits_and_leaves_the_model_alone() -> None:
    loss = aligned(model := make("mlp"), tuple(moments()))
    inputs, labels = examples(model)
    parameters = dict(model.named_parameters())
    before = {name: value.detach().clone() for name, value in parameters.items()}
    mechanism = Mechanism(0.1, 1.0, 5)
    first, again = (private_gradient(loss, parameters, inputs, labels, mechanism, seeded(0)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(before[name], value) and value.grad is None for name, value in parameters.items())


class _Tied(nn.Module):
    """A linear layer's weight used a second time, which its call does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(18, 18)

    def forward(self, inputs: Tensor) -> Tensor:
        value: Tensor = self.layer(inputs.flatten(1)) @ self.layer.weight
        return value


class _Doubled(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


def _same_layer_twice() -> SplitModel:
    layer = nn.Linear(18, 18)
    return SplitModel(nn.Sequential(nn.Flatten(), layer, nn.Tanh(), layer), nn.Linear(18, 3))


def _same_weight_twice() -> SplitModel:
    first, second = nn.Linear(18, 18), nn.Linear(18, 18)
    second.weight = first.weight
    return SplitModel(nn.Sequential(nn.Flatten(), first, nn.Tanh(), second), nn.Linear(18, 3))


def _hooked() -> SplitModel:
    layer = nn.Linear(18, 4)
    layer.register_forward_hook(lambda module, taken, given: 2 * given)
    return SplitModel(nn.Sequential(nn.Flatten(), layer), nn.Linear(4, 3))


def _rows_within_an_example() -> SplitModel:
    return SplitModel(nn.Sequential(nn.Linear(3, 2), nn.Flatten()), nn.Linear(12, 3))


OTHERS: dict[str, tuple[Callable[[], SplitModel], str]] = {
    "convolution": (lambda: build(ModelConfig(name="cnn", hidden=[3]), SHAPE, 3, seed=1), r"\(Conv2d\) is neither"),
    "normalisation": (
        lambda: SplitModel(nn.Sequential(nn.Flatten(), nn.LayerNorm(18)), nn.Linear(18, 3)),
        r"\(LayerNorm\) is neither linear",
    ),
    "softmax over the rows": (
        lambda: SplitModel(nn.Sequential(nn.Flatten(), nn.Softmax(dim=0)), nn.Linear(18, 3)),
        r"\(Softmax\) is neither linear nor known to keep rows apart",
    ),
    "own network": (lambda: SplitModel(_Tied(), nn.Linear(18, 3)), r"layer 'featurizer' \(_Tied\) is neither"),
    "own linear layer": (
        lambda: SplitModel(nn.Sequential(nn.Flatten(), _Doubled(18, 4)), nn.Linear(4, 3)),
        r"layer 'featurizer.1' \(_Doubled\) is neither",
    ),
    "same layer twice": (_same_layer_twice, r"parameters \['featurizer.3.bias', 'featurizer.3.weight'\] are not"),
    "same weight twice": (_same_weight_twice, r"parameters \['featurizer.3.weight'\] are not"),
    "weight norm": (
        lambda: SplitModel(nn.Flatten(), weight_norm(nn.Linear(18, 3))),
        "hooks, which may change what a layer gives",
    ),
    "hook": (_hooked, "hooks, which may change what a layer gives"),
    "rows within an example": (_rows_within_an_example, r"layer 'featurizer.0' \(Linear\) is applied to more than one"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", OTHERS)
def test_any_other_network_goes_through_torch_func(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, reason = OTHERS[name]
    torch.manual_seed(0)
    model = made()
    inputs, labels = examples(model)
    loss, parameters = risk_loss(model), dict(model.named_parameters())
    with monkeypatch.context() as patch:
        patch.setattr(ghost, "add_clipped", None)
        gradient = private_gradient(loss, parameters, inputs, labels, Mechanism(math.inf, 0.0, EXAMPLES), seeded(0))
    assert re.search(reason, ghost.unsuited(model, parameters, Form.like(inputs)))
    assert gradient.keys() == parameters.keys()


def test_a_part_of_the_parameters_goes_through_torch_func() -> None:
    model = make("mlp")
    inputs, _ = examples(model)
    head = {name: value for name, value in model.named_parameters() if name.startswith("head.")}
    assert ghost.unsuited(model, head, Form.like(inputs)).startswith("parameters ['featurizer.1.0.bias'")
