"""Colored digits: real handwritten digits that scikit-learn ships, coloured as in Colored MNIST; no download."""

import gzip
import importlib.util
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedha.config import DataConfig
from fedha.data.colored import colored_examples, source_names, targets
from fedha.data.domain import DomainSet, split
from fedha.data.sides import Cut
from fedha.randomness import generator


def load(config: DataConfig, seed: int, cut: Cut) -> DomainSet:
    """1,797 images of 8x8 in equal disjoint parts, one for every source and one for the target.

    Args:
        config: Its color_flips (a source each), target_color_flip, label_noise and grayscale_target.
        seed: Decides which images a domain gets, the label noise and the colours.
        cut: Decides what is held out.

    Returns:
        Inputs [n, 2, 8, 8] in 0..1, two classes. With k sources the 1,797 images fall into k + 1 parts whose sizes
        differ by one at most (599 each for two sources). Labels and colours are flipped in exactly the given shares.

    Source:
        E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998),
        its test part; coloured as by Arjovsky et al. (2019).
    """
    images, digits = _read()
    order = torch.randperm(len(digits), generator=generator(seed, "data", "shuffle"))
    *parts, target = order.tensor_split(len(config.color_flips) + 1)
    sources = [
        split(name, colored_examples(images[part], digits[part], flip, config, seed, name, exact=True), cut)
        for name, flip, part in zip(source_names(config.color_flips), config.color_flips, parts, strict=True)
    ]
    return DomainSet(
        sources=tuple(sources),
        targets=targets(images[target], digits[target], config, seed, exact=True),
        classes=2,
        description=(
            f"colored digits: {len(digits):,} handwritten digits (scikit-learn, 2x8x8), label noise "
            f"{config.label_noise:g}, color flips {', '.join(f'{flip:g}' for flip in config.color_flips)}, "
            f"unseen target {config.target_color_flip:g}"
        ),
    )


def _read() -> tuple[Tensor, Tensor]:
    table = _table()
    return torch.from_numpy(table[:, :-1]).float().reshape(-1, 8, 8) / 16, torch.from_numpy(table[:, -1]).long()


def as_bytes() -> tuple[Tensor, Tensor]:
    """The images [1797, 8, 8] in 0 to 255, of their 17 levels, and the digits."""
    images, digits = _read()
    return (images * 255).round().to(torch.uint8), digits


def _table() -> NDArray[numpy.float64]:
    """64 pixels and the digit a row: scikit-learn's own file, or its import, which takes a second, where that moved."""
    found = importlib.util.find_spec("sklearn")
    for folder in (found.submodule_search_locations if found else None) or ():
        if (path := Path(folder) / "datasets" / "data" / "digits.csv.gz").is_file():
            with gzip.open(path, "rt", encoding="ascii") as file:
                return numpy.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    values, digits = load_digits(return_X_y=True)
    return numpy.column_stack([values, digits])
