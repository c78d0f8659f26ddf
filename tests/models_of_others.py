"""Networks as somebody else writes them, named in configs of the tests as tests.models_of_others:function."""

from typing import Any

import torch
from torch import nn

from fedha.models import SplitModel


def make(width: int = 16) -> SplitModel:
    return SplitModel(nn.Sequential(nn.Flatten(), nn.Linear(128, width), nn.Tanh()), nn.Linear(width, 2))


def fitted(input_shape: tuple[int, ...], classes: int, width: int = 4) -> SplitModel:
    size = torch.Size(input_shape).numel()
    return SplitModel(nn.Sequential(nn.Flatten(), nn.Linear(size, width)), nn.Linear(width, classes))


class Whole(nn.Module):
    """A network that is not split, its last layer within a block."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 5)
        self.top = nn.ModuleDict({"fc": nn.Linear(5, 3)})

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.top["fc"](self.body(inputs).relu())


def unsplit() -> Whole:
    return Whole()


def fails() -> SplitModel:
    raise KeyError("weights.bin")


def titled(title: str, width=8, bias=True, mode="1") -> tuple[object, ...]:
    return title, width, bias, mode


def counted(layers=2, sizes=(3,), many: list[int] | None = None) -> SplitModel:
    return range(layers)[many]


def too_narrow() -> SplitModel:
    return SplitModel(nn.Linear(7, 4), nn.Linear(4, 2))


class Words(nn.Module):
    """Mean of embeddings; refuses what is no token id."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens).mean(1)


def reads_words(vocabulary: int = 20, width: int = 5) -> SplitModel:
    return SplitModel(Words(vocabulary, width), nn.Linear(width, 2))


class Both(nn.Module):
    """Words and numbers, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.numbers = Words(20, 5), nn.Linear(3, 4)

    def forward(self, tokens: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.words(tokens), self.numbers(numbers).tanh()], 1)


def reads_both(input_shape: object) -> SplitModel:
    assert input_shape in ({"tokens": (6,), "numbers": (3,)}, ((6,), (3,)))
    return SplitModel(Both(), nn.Linear(9, 2))


def normed(
    input_shape: tuple[int, ...], classes: int, *, freeze: bool = False, batch_norm: str = "frozen"
) -> SplitModel:
    """With batch norm whose statistics say something; its body frozen or not."""
    size = torch.Size(input_shape).numel()
    body = nn.Sequential(nn.Flatten(), nn.Linear(size, 6), nn.BatchNorm1d(6), nn.ReLU())
    body[2].running_mean.add_(0.1)
    body.requires_grad_(not freeze)
    return SplitModel(body, nn.Linear(6, classes), batch_norm=batch_norm)


class Attending(nn.Module):
    """Rows of an example attend to each other, by chance."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, dropout=dropout, batch_first=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.attention(inputs, inputs, inputs, need_weights=False)[0].flatten(1)


class DropPath(nn.Module):
    """As timm's: leaves out a whole example's branch, by chance."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return inputs
        return inputs * (torch.rand(len(inputs), *(1,) * (inputs.dim() - 1), device=inputs.device) > 0.3)


class Last(nn.Module):
    """The last state of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs)[0][:, -1]


class Rounded(nn.Module):
    """The mean of tokens' vectors; tokens are what an input rounds to."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.unused = nn.Embedding(9, 6), nn.Linear(6, 6)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.words((inputs.flatten(1) * 2).long().clamp(0, 8)).mean(1)


BODIES = {
    "lstm": lambda rows, wide: (Last(nn.LSTM(wide, 5, 2, dropout=0.4, batch_first=True)), 5),
    "attention": lambda rows, wide: (Attending(wide, 0.4), rows * wide),
    "words": lambda rows, wide: (Rounded(), 6),
    "dropout": lambda rows, wide: (nn.Sequential(nn.Flatten(), nn.Dropout(0.4), nn.Linear(rows * wide, 6)), 6),
    "drop path": lambda rows, wide: (nn.Sequential(nn.Flatten(), nn.Linear(rows * wide, 6), DropPath()), 6),
}


def shaped(input_shape: tuple[int, ...], classes: int, kind: str = "lstm") -> SplitModel:
    """A network of a kind of `BODIES`, for inputs [rows, wide]."""
    rows, wide = torch.Size(input_shape[:-1]).numel(), input_shape[-1]
    body, width = BODIES[kind](rows, wide)
    return SplitModel(nn.Sequential(nn.Flatten(1, -2), body), nn.Linear(width, classes))


class Spoilt(torch.autograd.Function):
    """A product whose gradient in the weights is infinite where an input is beyond 50."""

    @staticmethod
    def forward(ctx: Any, weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weights, inputs)
        return inputs @ weights.T

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, inputs = ctx.saved_tensors
        own = gradients[0].T @ inputs
        return own * (torch.inf if inputs.max() > 50 else 1), gradients[0] @ weights


class Spoils(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, inputs) / 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(Spoilt.apply(self.weight, inputs))


def spoils(input_shape: tuple[int, ...], classes: int) -> SplitModel:
    return SplitModel(Spoils(*input_shape), nn.Linear(4, classes))


def wide(input_shape: tuple[int, ...], outputs: int = 30) -> SplitModel:
    """With its own number of classes, as a pretrained head has."""
    return SplitModel(nn.Sequential(nn.Flatten(), nn.Linear(*input_shape, 4)), nn.Linear(4, outputs))


def mostly_still(input_shape: tuple[int, ...], classes: int) -> SplitModel:
    """A frozen body, the same in all runs, with one tensor under two names, and a head that is trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second, third = (nn.Linear(one, 128) for one in (torch.Size(input_shape).numel(), 128, 128))
    third.weight = second.weight
    body = nn.Sequential(nn.Flatten(), first, second, third).requires_grad_(False)
    return SplitModel(body, nn.Linear(128, classes))
