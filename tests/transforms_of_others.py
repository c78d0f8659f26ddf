"""Transforms as people write them, for data.augment."""

import random
from collections.abc import Callable

import numpy
import torch
from PIL import Image


def mirrored(image: Image.Image) -> Image.Image:
    """A function of an image, which draws from nothing."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def noisy(image: Image.Image, most: float = 20.0) -> torch.Tensor:
    """Draws from all global generators; gives a tensor."""
    shift = most * (random.random() + numpy.random.rand() + float(torch.rand(1)))
    return torch.from_numpy(numpy.asarray(image).astype(numpy.float32) + shift).clamp(0, 255).permute(2, 0, 1) / 255


def own_draws(image: Image.Image, generator: torch.Generator) -> Image.Image:
    """Draws from what it is handed."""
    return image.rotate(90 * int(torch.randint(0, 4, (1,), generator=generator)))


def made(size: int, channels: int, strength: int = 1) -> Callable[[Image.Image], Image.Image]:
    """Makes a transform of what every image becomes."""
    return lambda image: image.resize((size, size)).convert("L" if channels == 1 else "RGB")


def failing(image: Image.Image) -> Image.Image:
    """Fails on small images alone."""
    if image.width < 13:
        raise ValueError(f"no image of {image.width} pixels")
    return image


def nothing(image: Image.Image) -> str:
    """No image."""
    return "done"


def cropped_away(image: Image.Image) -> Image.Image:
    """No pixel."""
    return image.crop((0, 0, 0, 0))


def beyond(image: Image.Image) -> torch.Tensor:
    """Normalised, as networks want it and bytes cannot be."""
    return torch.full((3, 8, 8), -1.5)
