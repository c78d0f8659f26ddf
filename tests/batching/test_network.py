"""k networks at once give what each gives alone."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from fedha.batching.network import Network, beyond_examples, forward, take_apart
from fedha.models import SplitModel

LAYERS = {
    "linear": (nn.Linear(6, 3), (6,)),
    "linear without a bias": (nn.Linear(6, 3, bias=False), (6,)),
    "linear on more than rows": (nn.Linear(6, 3), (4, 6)),
    "convolution": (nn.Conv2d(2, 4, 3, padding=1), (2, 5, 6)),
    "strided convolution": (nn.Conv2d(4, 6, (3, 2), stride=2, dilation=(1, 2), groups=2, bias=False), (4, 7, 8)),
    "reflected convolution": (nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), (2, 5, 6)),
    "group norm": (nn.GroupNorm(2, 4), (4, 3, 5)),
    "group norm without weights": (nn.GroupNorm(2, 4, affine=False), (4, 3, 5)),
    "max pool": (nn.MaxPool2d(2), (3, 4, 6)),
    "average pool": (nn.AdaptiveAvgPool2d(1), (3, 4, 6)),
    "flatten": (nn.Flatten(), (3, 4)),
    "flatten in part": (nn.Flatten(2), (3, 4, 5)),
    "relu": (nn.ReLU(inplace=True), (6,)),
    "nested": (nn.Sequential(nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.LayerNorm(5), nn.Linear(5, 2)), (6,)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_of_many_clients_give_what_each_gives_alone(layer: str) -> None:
    module, shape = LAYERS[layer]
    model = SplitModel(module, nn.Identity()).double()
    torch.manual_seed(0)
    own = {name: torch.randn(3, *value.shape).double() for name, value in model.named_parameters()}
    inputs = torch.randn(3, 5, *shape).double()
    before = inputs.clone()
    network = take_apart(model)
    together = forward((*network.featurizer, *network.head), own, inputs)
    assert torch.equal(inputs, before)
    for k in range(3):
        alone = functional_call(model, {name: value[k] for name, value in own.items()}, (before[k].clone(),))
        assert_close(together[k], alone)


def test_a_layer_with_a_hook_keeps_it() -> None:
    module = nn.Linear(6, 3).double()
    module.register_forward_hook(lambda module, inputs, outputs: outputs * 2)
    own = {name: value.detach()[None].expand(2, *value.shape) for name, value in module.named_parameters("featurizer")}
    network = take_apart(SplitModel(module, nn.Identity()))
    inputs = torch.randn(2, 5, 6).double()
    assert_close(forward(network.featurizer, own, inputs), module(inputs))


@pytest.mark.parametrize(
    ("featurizer", "place"),
    [
        (nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(6, 3), nn.ReLU())), 1),
        (nn.Linear(6, 3), 0),
        (nn.Sequential(nn.ReLU(), nn.Linear(6, 3)), None),
        (nn.Flatten(), None),
    ],
    ids=["mlp", "alone", "after another", "none"],
)
def test_the_leading_linear_layer_is_the_first_that_computes(featurizer: nn.Module, place: int | None) -> None:
    network: Network = take_apart(SplitModel(featurizer, nn.Linear(3, 2)))
    assert network.leading_linear() == place


def test_layers_that_look_beyond_an_example_are_named() -> None:
    featurizer = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(0.5)))
    assert beyond_examples(take_apart(SplitModel(featurizer, nn.Linear(3, 2)))) == ["BatchNorm1d", "Dropout"]
    assert beyond_examples(take_apart(SplitModel(nn.LayerNorm(3), nn.Linear(3, 2)))) == []
