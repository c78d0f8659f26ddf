"""Folders of small images, as people have them."""

from pathlib import Path

import numpy
from PIL import Image


def picture(seed: int, width: int = 12, height: int = 9, mode: str = "RGB") -> Image.Image:
    """An image with smooth colours of its own."""
    draws = numpy.random.default_rng(seed)
    small = draws.integers(0, 256, (3, 3, 3), dtype=numpy.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR).convert(mode)


def image_folder(
    root: Path,
    domains: tuple[str, ...] = ("art", "photo", "sketch"),
    classes: tuple[str, ...] = ("cat", "dog"),
    count: int = 5,
    mode: str = "RGB",
    ending: str = "png",
) -> Path:
    """``root/domain/class/<number>.<ending>``, each image another one."""
    for first, domain in enumerate(domains):
        for second, name in enumerate(classes):
            folder = root / domain / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = picture(1000 * first + 100 * second + number, 12 + first, 9 + number, mode)
                image.save(folder / f"{number}.{ending}")
    return root
