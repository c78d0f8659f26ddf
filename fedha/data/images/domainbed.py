"""DomainBed's augmentation of what is trained on, by torchvision's transforms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Generator

from fedha.errors import FedhaError

_RATIO = (3 / 4, 4 / 3)  # of a crop's width to its height
_TRIES = 10


@dataclass(frozen=True)
class DomainBed:
    """A crop, a flip, other brightness, contrast, saturation and hue, and perhaps grey.

    Each draws what torchvision's own transform draws from torch's global generator, but from one that it is handed, so
    that several threads can be at it. What is applied is torchvision's.

    Attributes:
        size: Pixels a side of the crop once it is resized.
        scale: Which share of the image's area is kept.
        flip: Probability that left and right change places.
        jitter: How far brightness, contrast and saturation go from 1, and hue from 0.
        grey: Probability that the colours go.
    """

    size: int
    scale: tuple[float, float]
    flip: float
    jitter: float
    grey: float

    def __call__(self, image: Image.Image, generator: Generator) -> Image.Image:
        """The image, changed."""
        change = _functional()
        top, left, height, width = _window(image.height, image.width, self.scale, generator)
        image = change.resized_crop(image, top, left, height, width, [self.size, self.size], antialias=True)
        if _happens(self.flip, generator):
            image = change.horizontal_flip(image)
        image = _jittered(image, self.jitter, generator)
        if _happens(self.grey, generator):
            image = change.rgb_to_grayscale(image, num_output_channels=len(image.getbands()))
        return image


def augmentation(
    size: int, scale: Sequence[float] = (0.7, 1.0), flip: float = 0.5, jitter: float = 0.3, grey: float = 0.1
) -> DomainBed:
    """DomainBed's, by its numbers; see `DomainBed`.

    Source:
        Gulrajani and Lopez-Paz, "In search of lost domain generalization" (ICLR 2021), `datasets.py`.

    Raises:
        FedhaError: A number is out of its range, or torchvision is missing.
    """
    bounds = list(scale) if isinstance(scale, list | tuple) else []
    if len(bounds) != 2 or not all(_is_number(one) for one in bounds) or not 0 < bounds[0] <= bounds[1] <= 1:
        raise FedhaError(f"data.augment.scale is {scale}; give two shares of the image's area, such as [0.7, 1]")
    for key, value, most in (("flip", flip, 1), ("grey", grey, 1), ("jitter", jitter, 0.5)):
        if not _is_number(value) or not 0 <= value <= most:
            raise FedhaError(f"data.augment.{key} is {value}; give a number from 0 to {most}")
    _functional()
    return DomainBed(size, (float(bounds[0]), float(bounds[1])), float(flip), float(jitter), float(grey))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _functional() -> Any:
    try:
        from torchvision.transforms.v2 import functional
    except ImportError as error:
        raise FedhaError(
            "data.augment is domainbed, which needs torchvision; install it with pip install 'fedha[vision]'"
        ) from error
    return functional


def _window(height: int, width: int, scale: tuple[float, float], draws: Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop: of random area and shape; the middle where none fits."""
    low, high = (torch.log(torch.tensor(_RATIO))).tolist()
    for _ in range(_TRIES):
        area = height * width * _uniform(*scale, draws)
        ratio = torch.exp(torch.empty(1).uniform_(low, high, generator=draws)).item()
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            return _whole(height - tall + 1, draws), _whole(width - wide + 1, draws), tall, wide
    ratio = min(max(width / height, _RATIO[0]), _RATIO[1])
    wide, tall = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def _jittered(image: Image.Image, most: float, draws: Generator) -> Image.Image:
    """In an order of chance, so do brightness, contrast, saturation and hue."""
    if most == 0:  # as torchvision, which draws the order all the same
        torch.randperm(4, generator=draws)
        return image
    change, order = _functional(), torch.randperm(4, generator=draws).tolist()
    factors = [_uniform(1 - most, 1 + most, draws) for _ in range(3)] + [_uniform(-most, most, draws)]
    kinds = (change.adjust_brightness, change.adjust_contrast, change.adjust_saturation, change.adjust_hue)
    for place in order:
        image = kinds[place](image, factors[place])
    return image


def _uniform(low: float, high: float, draws: Generator) -> float:
    return torch.empty(1).uniform_(low, high, generator=draws).item()


def _happens(probability: float, draws: Generator) -> bool:
    return torch.rand(1, generator=draws).item() < probability


def _whole(below: int, draws: Generator) -> int:
    return int(torch.randint(0, below, (1,), generator=draws).item())
