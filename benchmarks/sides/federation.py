"""The problem that all sides of the cohort benchmark train: MNIST dealt to clients of 60 images, and a small MLP."""

from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

INPUTS, HIDDEN, CLASSES = 784, 200, 10
EXAMPLES, BATCH, RATE = 60, 10, 0.1  # of a client; of its step; of its SGD
DOMAINS = 10
TARGET = "target"


def write(folder: Path, population: int, mnist: Path | None) -> str:
    """Write the population's examples as `DOMAINS` archives, and a target that nobody trains on.

    Args:
        folder: Where.
        population: Number of clients, a multiple of `DOMAINS`, at most 1,000.
        mnist: The folder of MNIST's files; None: random numbers of the same shape instead.

    Returns:
        One line: what was written.
    """
    inputs, labels = _random() if mnist is None else _mnist(mnist)
    share = population * EXAMPLES // DOMAINS
    parts = {f"domain-{place}": slice(place * share, (place + 1) * share) for place in range(DOMAINS)}
    for name, rows in {**parts, TARGET: slice(-100, None)}.items():
        numpy.savez(folder / f"{name}.npz", inputs=inputs[rows].numpy(), labels=labels[rows].numpy())
    kind = "random numbers in MNIST's shape" if mnist is None else "MNIST"
    return f"{kind}: {population:,} clients with {EXAMPLES} images each, {DOMAINS} domains"


def read(folder: Path) -> tuple[Tensor, Tensor]:
    """Inputs [n, 784] and labels [n] of all domains in order; client k has rows 60 k to 60 k + 60."""
    archives = [numpy.load(folder / f"domain-{place}.npz") for place in range(DOMAINS)]
    inputs = numpy.concatenate([one["inputs"] for one in archives])
    return torch.from_numpy(inputs), torch.from_numpy(numpy.concatenate([one["labels"] for one in archives]))


def network() -> nn.Sequential:
    """784-200-10, initialised from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


def _random() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.rand(60_000, INPUTS, generator=draws), torch.randint(0, CLASSES, (60_000,), generator=draws)


def _mnist(folder: Path) -> tuple[Tensor, Tensor]:
    from fedha.data import idx, mnist  # here: a peer's interpreter may not have fedha

    images, digits = (idx.read(file, folder, False, ()) for file in mnist.TRAIN)
    return images.reshape(-1, INPUTS).float() / 255, digits.long()
