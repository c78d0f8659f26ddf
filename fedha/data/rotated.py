"""Digits that are turned, by another angle in every domain: Rotated MNIST, and the same of scikit-learn's digits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedha.data import digits, mnist
from fedha.data.about import about
from fedha.data.domain import Domain, DomainSet, Examples, split
from fedha.data.idx import read
from fedha.data.sides import Cut
from fedha.data.wanted import check_unseen
from fedha.errors import FedhaError
from fedha.randomness import generator

ANGLES = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0)
Angles = Annotated[list[Annotated[float, Field(gt=-360, lt=360)]], Field(min_length=2)]


@about(
    "MNIST turned by another angle in every domain, as DomainBed builds it",
    needs="data.root with MNIST's four files (`fedha data fetch mnist`)",
    domains="0, 15, 30, 45, 60, 75",
    classes=10,
)
def rotated_mnist(
    root: Path | None,
    cut: Cut,
    target: str | list[str] | None = None,
    angles: Angles = list(ANGLES),  # noqa: B006
    images: Annotated[int, Field(ge=2)] | None = None,
) -> DomainSet:
    """The 70,000 images of both of MNIST's parts, shuffled once: every sixth to an angle, from the first on.

    Args:
        root: The folder of MNIST's four files.
        cut: Its seed shuffles; decides what is held out.
        target: The unseen angles; required.
        angles: Degrees, against the clock, a domain each.
        images: How many of the shuffled ones are used; None: all.

    Returns:
        Inputs [n, 1, 28, 28] of bytes, turned about the middle, bilinear, black outside; ten classes.

    Raises:
        FedhaError: No root, a file that is missing or broken, no target, an angle twice, fewer images than angles.

    Source:
        Gulrajani, Lopez-Paz, "In Search of Lost Domain Generalization" (2021) and its datasets.py.
    """
    if root is None:
        raise FedhaError("data.root is not set; name the folder of MNIST's four files (`fedha data fetch mnist`)")
    check_unseen(_names(angles), target)  # before a second of reading
    parts = [[read(file, root, False, ()) for file in files] for files in (mnist.TRAIN, mnist.TEST)]
    pixels, labels = (torch.cat([part[place] for part in parts]) for place in (0, 1))
    return _turned("rotated MNIST", pixels, labels.long(), cut, target, angles, images)


@about(
    "1,797 real digits of scikit-learn, turned by another angle in every domain",
    needs="",
    domains="0, 15, 30, 45, 60, 75",
    classes=10,
)
def rotated_digits(
    cut: Cut,
    target: str | list[str] | None = None,
    angles: Angles = list(ANGLES),  # noqa: B006
    images: Annotated[int, Field(ge=2)] | None = None,
) -> DomainSet:
    """The same of the digits that scikit-learn ships, [n, 1, 8, 8]; arguments, result and errors as `rotated_mnist`.

    Source:
        E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998),
        its test part.
    """
    check_unseen(_names(angles), target)
    pixels, labels = digits.as_bytes()
    return _turned("rotated digits of scikit-learn", pixels, labels, cut, target, angles, images)


def _turned(
    what: str,
    pixels: Tensor,
    labels: Tensor,
    cut: Cut,
    target: str | list[str] | None,
    angles: Sequence[float],
    images: int | None,
) -> DomainSet:
    names, count = _names(angles), len(labels) if images is None else images
    if not len(angles) <= count <= len(labels):
        raise FedhaError(f"data.images is {images}; give {len(angles)}, one an angle, to {len(labels):,}, or leave it")
    order = torch.randperm(len(labels), generator=generator(cut.seed, "data", "shuffle"))[:count]
    parts = [order[first :: len(angles)] for first in range(len(angles))]
    domains = [
        _domain(name, pixels[part], labels[part], angle, cut)
        for name, angle, part in zip(names, angles, parts, strict=True)
    ]
    return DomainSet(tuple(domains), (), 10, f"{what}, {count:,} images, an angle a domain")


def _domain(name: str, pixels: Tensor, labels: Tensor, angle: float, cut: Cut) -> Domain:
    return split(name, Examples(torch.from_numpy(turned(pixels.numpy(), angle))[:, None], labels), cut)


def turned(pixels: NDArray[numpy.uint8], angle: float) -> NDArray[numpy.uint8]:
    """Grey images turned about their middle, bilinear, black outside.

    Args:
        pixels: [n, h, w].
        angle: Degrees, against the clock.

    Returns:
        [n, h, w], contiguous.
    """
    from PIL import Image

    if angle == 0:
        return numpy.ascontiguousarray(pixels)
    pictures = (Image.fromarray(one).rotate(angle, Image.Resampling.BILINEAR) for one in pixels)
    return numpy.stack([numpy.asarray(one) for one in pictures])


def _names(angles: Sequence[float]) -> list[str]:
    names = [f"{angle:g}" for angle in angles]
    if len(set(names)) < len(names):
        raise FedhaError(f"data.angles is {', '.join(names)}; give every angle once")
    return names
