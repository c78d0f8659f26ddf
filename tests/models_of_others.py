"""Networks as somebody else writes them, named in configs of the tests as tests.models_of_others:function."""

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
