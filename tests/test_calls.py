"""Calling a network with other tensors gives what torch.func.functional_call gives, and leaves it as it was."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedha.errors import FedhaError
from fedha.models.calls import call_with


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.second(self.first(inputs).relu())
        return found


class Sequences(nn.Module):
    """A recurrent layer, which keeps a list of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(3, 4, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.layer(inputs[:, None])[0][:, -1]
        return found


def normalised() -> nn.Module:
    """Layers with buffers, one of which comes twice."""
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.BatchNorm1d(3), layer)


@pytest.mark.parametrize("make", [Tied, Sequences, normalised])
def test_it_is_the_functional_call_and_the_network_stays_as_it_was(make: Callable[[], nn.Module]) -> None:
    module, inputs = make(), torch.randn(5, 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    other = {name: torch.randn_like(value) for name, value in module.named_parameters()}
    other |= {name: value + 1 for name, value in module.named_buffers()}
    given = {name: value.clone() for name, value in other.items()}
    expected = functional_call(copy.deepcopy(module), given, (inputs,))  # which leaves a layer that comes twice changed
    assert torch.equal(call_with(module, other, (inputs,)), expected)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(isinstance(value, nn.Parameter) for value in module.parameters())


def test_what_is_left_out_is_the_networks_own_and_what_it_has_not_is_passed_over() -> None:
    module, inputs = nn.Linear(3, 2), torch.randn(5, 3)
    found = call_with(module, {"bias": torch.zeros(2), "foreign": torch.ones(1)}, (), {"input": inputs})
    torch.testing.assert_close(found, inputs @ module.weight.T)


def test_a_network_that_fails_stays_as_it_was() -> None:
    module = nn.Linear(3, 2)
    weight = module.weight
    with pytest.raises(RuntimeError):
        call_with(module, {"weight": torch.zeros(2, 4)}, (torch.randn(5, 3),))
    assert module.weight is weight


def test_a_token_id_beyond_an_embedding_is_one_sentence() -> None:
    with pytest.raises(FedhaError, match="an embedding of the network has no row for a whole number among the inputs"):
        call_with(nn.Embedding(3, 2), {}, (torch.tensor([3]),))


def test_gradients_reach_what_was_given() -> None:
    module, inputs = Tied(), torch.randn(5, 3)
    given = {name: value.detach().clone().requires_grad_() for name, value in module.named_parameters()}
    call_with(module, given, (inputs,)).sum().backward()
    assert all(value.grad is not None for value in given.values())
    assert all(value.grad is None for value in module.parameters())
