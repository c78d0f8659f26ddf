"""Under example-level privacy a layer keeps examples apart, or is refused by its name; what is taken is right."""

import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from fedha.errors import FedhaError
from fedha.models import SplitModel
from fedha.privacy.beyond import refuse_beyond_examples
from fedha.privacy.dpsgd import private_gradient
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.noise import seeded
from fedha.privacy.surrogate import risk_loss
from tests.privacy.test_dpsgd import plain_gradient

SHAPE = (5, 8)  # a sequence of five, or five channels


class Recurrent(nn.Module):
    """The last of a recurrent layer's outputs."""

    def __init__(self, layer: nn.Module, *, first: bool = True) -> None:
        super().__init__()
        self.layer, self.first = layer, first

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs if self.first else inputs.transpose(0, 1))[0]
        return outputs[:, -1] if self.first else outputs[-1]


class Stepwise(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, inputs: Tensor) -> Tensor:
        state = None
        for step in inputs.unbind(1):
            state = self.cell(step, state)
        return state[0] if isinstance(state, tuple) else state


class Attention(nn.Module):
    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=first)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.attention(inputs, inputs, inputs)[0]
        return outputs.flatten(1)


class Words(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.words = layer

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.words((inputs > 0).long().flatten(1))
        return outputs.flatten(1)


class Centred(nn.Module):
    """Takes the mean over the batch away, which no layer's kind would tell."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.norm(inputs)
        return (outputs - outputs.mean(0)).flatten(1)


class Gated(nn.Module):
    """A branch that begins with a factor of zero, or next to it (ReZero, LayerScale), and goes over the batch."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((8,), factor))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs + self.factor * inputs.mean(0)).flatten(1)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(40, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs.flatten(1))
        return outputs if inputs.sum().item() > 0 and len(inputs) == 1 else 1 * outputs


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.layer = nn.Linear(40, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += len(inputs)
        outputs: Tensor = self.layer(inputs.flatten(1))
        return outputs


def flat(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten())


TAKEN = {
    "GRU": lambda: Recurrent(nn.GRU(8, 4, batch_first=True)),
    "GRU, time first": lambda: Recurrent(nn.GRU(8, 4), first=False),
    "GRU, two ways, two layers": lambda: Recurrent(nn.GRU(8, 4, 2, bidirectional=True, batch_first=True)),
    "LSTM": lambda: Recurrent(nn.LSTM(8, 4, batch_first=True)),
    "LSTM with a projection": lambda: Recurrent(nn.LSTM(8, 4, proj_size=3, batch_first=True)),
    "RNN": lambda: Recurrent(nn.RNN(8, 4, batch_first=True)),
    "GRUCell": lambda: Stepwise(nn.GRUCell(8, 4)),
    "LSTMCell's kin": lambda: Stepwise(nn.RNNCell(8, 4)),
    "attention": lambda: Attention(first=True),
    "transformer": lambda: flat(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)),
    "embedding": lambda: Words(nn.Embedding(3, 4)),
    "sparse embedding": lambda: Words(nn.Embedding(3, 4, sparse=True)),
    "embedding bag": lambda: Words(nn.EmbeddingBag(3, 4)),
    "a branch on numbers": Branching,
    "convolution": lambda: flat(nn.Conv1d(5, 4, 3), nn.PReLU(4)),
    "layer norm": lambda: flat(nn.LayerNorm(8)),
    "batch norm, frozen": lambda: flat(nn.BatchNorm1d(5)).eval(),
    "spectral norm, frozen": lambda: nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(40, 6))
    ).eval(),
}

REFUSED = {
    "GRU over examples": (lambda: Recurrent(nn.GRU(8, 4)), r"'featurizer.layer' \(GRU\) mixes examples"),
    "attention over examples": (lambda: Attention(first=False), r"\(MultiheadAttention\) mixes examples"),
    "transformer over examples": (
        lambda: flat(nn.TransformerEncoderLayer(8, 2, 16, 0.0)),
        r"'featurizer.0.self_attn' \(MultiheadAttention\) mixes examples",
    ),
    "softmax over examples": (lambda: flat(nn.Softmax(0)), r"'featurizer.0' \(Softmax\) mixes"),
    "a mean over examples": (Centred, r"'featurizer' \(Centred\) mixes"),
    "a branch that is shut as yet": (lambda: Gated(0.0), r"'featurizer' \(Gated\) mixes"),
    "a branch that is nearly shut": (lambda: Gated(1e-6), r"'featurizer' \(Gated\) mixes"),
    "batch norm": (lambda: flat(nn.BatchNorm1d(5)), r"'featurizer.0' \(BatchNorm1d\) makes statistics"),
    "dropout between layers": (
        lambda: Recurrent(nn.GRU(8, 4, 2, dropout=0.5, batch_first=True)),
        r"'featurizer.layer' \(GRU\) draws",
    ),
    "dropout inside": (
        lambda: flat(nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)),
        r"'featurizer.0.\w+' \(\w+\) draws",
    ),
    "random slopes": (lambda: flat(nn.RReLU()), r"'featurizer.0' \(RReLU\) draws"),
    "random pooling": (
        lambda: flat(nn.Unflatten(1, (1, 5)), nn.FractionalMaxPool2d(2, output_size=3)),
        r"'featurizer.1' \(FractionalMaxPool2d\) draws",
    ),
    "a counter": (Counting, r"'featurizer' \(Counting\) changes its buffer 'seen'"),
    "spectral norm": (
        lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(40, 6))),
        "changes its buffer",
    ),
    "shortened embedding": (lambda: Words(nn.Embedding(3, 4, max_norm=1.0)), r"'featurizer.words' \(Embedding\) short"),
}


def network(featurizer: nn.Module) -> SplitModel:
    with torch.no_grad():
        width = featurizer.double()(torch.ones(2, *SHAPE, dtype=torch.float64)).shape[1]
    return SplitModel(featurizer, nn.Linear(width, 3), batch_norm="averaged").double()


def batch(examples: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    inputs = torch.randn(examples, *SHAPE, generator=draws, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (examples,), generator=draws)


@pytest.mark.parametrize("name", TAKEN)
def test_a_layer_that_keeps_examples_apart_is_taken_and_each_is_clipped_by_itself(name: str) -> None:
    torch.manual_seed(0)
    model = network(TAKEN[name]())
    refuse_beyond_examples(model, SHAPE)
    inputs, labels = batch(4)
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    loss = risk_loss(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # vmap is slow for some
        whole = private_gradient(loss, parameters, inputs, labels, Mechanism(math.inf, 0.0, 4), seeded(0))
        clipped = private_gradient(loss, parameters, inputs, labels, Mechanism(0.3, 0.0, 1), seeded(0))
    assert_close(whole, dense(plain_gradient(model, inputs, labels)), rtol=1e-9, atol=1e-12)
    total = {key: torch.zeros_like(value) for key, value in parameters.items()}
    for row in range(4):
        alone = dense(plain_gradient(model, inputs[row : row + 1], labels[row : row + 1]))
        factor = min(1.0, 0.3 / float(torch.cat([value.flatten() for value in alone.values()]).norm()))
        total = {key: value + factor * alone[key] for key, value in total.items()}
    assert_close(clipped, total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_looks_beyond_is_refused_by_its_name_and_left_as_it_was(name: str) -> None:
    make, message = REFUSED[name]
    torch.manual_seed(0)
    model = network(make())
    before, chance = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    with pytest.raises(FedhaError, match=message):
        refuse_beyond_examples(model, SHAPE)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), chance)
    assert not any(one._forward_hooks for one in model.modules())


def test_a_network_that_cannot_be_tried_says_so() -> None:
    model = SplitModel(nn.Flatten(), nn.Linear(7, 3))
    with pytest.raises(FedhaError, match="cannot be tried"):
        refuse_beyond_examples(model, SHAPE)


def dense(gradient: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to_dense() for name, value in gradient.items()}
