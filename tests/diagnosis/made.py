"""Domains of a softmax head, made from a seed, for tests of the diagnosis."""

import torch
from torch import Tensor

from fedha.diagnosis.sample import Sample, probabilities
from fedha.randomness import generator


def head_of(classes: int, width: int, seed: int) -> Tensor:
    """A random head, [C, D]; C = 1 is the binary logistic one."""
    return torch.randn(classes, width, dtype=torch.float64, generator=generator(seed, "head"))


def sample(head: Tensor, seed: int, *, count: int = 70, shift: float = 0.5, name: str = "") -> Sample:
    """Features with a spread and a mean of their own, and labels of a head that is somewhat another."""
    drawn = generator(seed, "sample")
    outputs, width = head.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=drawn)

    features = normal(count, width - 1) * (0.4 * normal(width - 1)).exp() + shift * normal(width - 1)
    features = torch.cat([features, torch.ones(count, 1, dtype=torch.float64)], 1)
    known = probabilities(features @ (head + 0.5 * normal(outputs, width)).T)
    if outputs == 1:
        labels = (torch.rand(count, dtype=torch.float64, generator=drawn) < known[:, 0]).long()
    else:
        labels = torch.multinomial(known, 1, generator=drawn)[:, 0]
    return Sample(name or f"made {seed}", features, labels, head, max(2, outputs))
