"""One image file as the bytes of a square, as networks take them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fedha.errors import brief

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
MOST_PIXELS = 89_478_485  # of a file: beyond it Pillow warns of a decompression bomb
MOST_SLENDER = 200  # how often one side may be longer than the other
Interpolation = Literal["nearest", "bilinear", "bicubic"]
_GREY = ("1", "L", "LA", "La", "F")


class BrokenImageError(Exception):
    """A file is no image that can be used; the message says why, in a few words."""


@dataclass(frozen=True)
class Square:
    """What every image becomes.

    Attributes:
        size: Pixels a side.
        channels: 1: grey; 3: red, green, blue.
        interpolation: How it is resized, with antialias where it is not the nearest.
        scaled: Whether JPEG files are decoded at a half, a quarter or an eighth where that is enough: faster, and
            other pixels.
    """

    size: int
    channels: int
    interpolation: Interpolation = "bilinear"
    scaled: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """[channels, size, size]."""
        return (self.channels, self.size, self.size)

    def __str__(self) -> str:
        how = "" if self.interpolation == "bilinear" else f", {self.interpolation}"
        how += ", JPEG files decoded scaled" if self.scaled else ""
        return f"{self.size} × {self.size} pixels, {'grey' if self.channels == 1 else 'colour'}{how}"


def pixels(path: Path | BinaryIO, square: Square) -> NDArray[numpy.uint8]:
    """An image, decoded whole, turned upright by its EXIF, then resized.

    Args:
        path: The file, or its content.
        square: What it becomes.

    Returns:
        [channels, size, size].

    Raises:
        BrokenImageError: As in `picture`.
    """
    return squared(picture(path, square), square)


def picture(path: Path | BinaryIO, square: Square) -> Image.Image:
    """An image as it is seen, turned upright by its EXIF, opaque, in 8 bits.

    What is transparent is laid on white; 16 bits become 8 by their range; of an animation the first picture is taken.

    Args:
        path: The file, or its content.
        square: What it will become; a JPEG that may be decoded at a fraction of its size stays twice as large, or more.

    Raises:
        BrokenImageError: It is no image, is damaged, or has too many pixels, or too slender a shape, to be one.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(*image.size)
            if square.scaled:
                image.draft(None, (2 * square.size, 2 * square.size))  # of JPEG alone
            ImageOps.exif_transpose(image, in_place=True)
            return _plain(image, square.channels)
    except (BrokenImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise a dozen kinds
        raise BrokenImageError(_reason(path, error)) from error


def squared(image: Image.Image, square: Square) -> NDArray[numpy.uint8]:
    """A picture's bytes, resized where it has another size, [channels, size, size]."""
    found = numpy.asarray(image.resize((square.size, square.size), Image.Resampling[square.interpolation.upper()]))
    return found[None] if square.channels == 1 else found.transpose(2, 0, 1)


def channels_of(path: Path | BinaryIO) -> int:
    """How many channels an image has, by its header alone: 1 of a grey one, else 3.

    Raises:
        BrokenImageError: It is no image.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(*image.size)
            return 1 if image.mode in _GREY or image.mode.startswith("I") else 3
    except (BrokenImageError, MemoryError):
        raise
    except Exception as error:
        raise BrokenImageError(_reason(path, error)) from error


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise BrokenImageError(f"it is {width:,} × {height:,} pixels, more than {MOST_PIXELS:,} in all")
    if max(width, height) > MOST_SLENDER * min(width, height):
        raise BrokenImageError(
            f"it is {width:,} × {height:,} pixels, one side more than {MOST_SLENDER} times the other"
        )


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """The same in 8 bits, opaque, grey or in colours."""
    if image.mode == "F":
        raise BrokenImageError("its pixels are floating numbers, whose range nobody knows")
    if image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(numpy.asarray(image)))
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image.convert("L" if channels == 1 else "RGB")


def _eight_bits(array: NDArray[Any]) -> NDArray[numpy.uint8]:
    if array.min() < 0 or array.max() > 65535:
        raise BrokenImageError(f"its pixels run from {array.min()} to {array.max()}, beyond 16 bits")
    eight: NDArray[numpy.uint8] = ((array.astype(numpy.int64) + 128) // 257).astype(numpy.uint8)
    return eight


def _reason(path: Path | BinaryIO, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * MOST_PIXELS:,} pixels"
    if isinstance(error, UnidentifiedImageError):
        empty = (os.path.getsize(path) if isinstance(path, Path) else path.seek(0, os.SEEK_END)) == 0
        return "it is empty" if empty else "it is no JPEG, PNG, WebP, BMP, GIF, PPM or TIFF image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return brief(error) or type(error).__name__
