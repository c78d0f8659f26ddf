"""Which axes of a user's inputs are an image's, where its channels are, and what its values are divided by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from fedha.config import DataConfig
from fedha.errors import FedhaError

_CHANNELS = 4  # gray, gray with alpha, three colours, colours with alpha
_RANGES = {"uint8": 255.0, "uint16": 65535.0}


@dataclass(frozen=True)
class Layout:
    """How a file's inputs become the network's.

    Attributes:
        axes: Which axis of the file comes first, second, …; the first stays the first.
        divisor: What the values are divided by; 1 leaves them as they are.
        note: What was done, a sentence; "" for nothing.
    """

    axes: tuple[int, ...]
    divisor: float
    note: str


def layout_of(origin: str, dtype: numpy.dtype[Any], shape: Sequence[int], config: DataConfig) -> Layout:
    """What is to be done with inputs of this type and shape.

    Args:
        origin: What errors call them.
        dtype: Theirs, in the file.
        shape: [n, ...], in the file.
        config: Its layout and scale.

    Raises:
        FedhaError: Four axes that could be an image either way, and data.layout does not say which; or others, and it
            does.
    """
    if config.layout == "channels_last" and len(shape) != 4:
        raise FedhaError(
            f"data.layout is 'channels_last' but inputs of {origin} have shape {[*shape]}, not [n, height, width, "
            "channels]; leave it out"
        )
    axes, done = tuple(range(len(shape))), []
    if len(shape) == 4 and _has_channels_last(origin, shape[1:], config):
        axes = (0, 3, 1, 2)
        done.append("channels moved from last to first")
    divisor = config.scale or (_RANGES.get(dtype.name, 1.0) if len(shape) in (3, 4) else 1.0)
    if divisor != 1:
        done.append(f"divided by {divisor:g}" + ("" if config.scale else f", the range of {dtype.name}"))
    told = f"inputs {dtype.name} {list(shape[1:])}: {'; '.join(done)}" if done else ""
    return Layout(axes, divisor, told)


def _has_channels_last(origin: str, shape: Sequence[int], config: DataConfig) -> bool:
    """Whether the last of three axes has the channels: they are few, or the other two are alike; or the first has."""
    if config.layout != "auto":
        return config.layout == "channels_last"
    first, middle, last = shape
    could_be_first = first <= _CHANNELS or middle == last
    could_be_last = last <= _CHANNELS or first == middle
    for_first = (first <= _CHANNELS) + (middle == last) + (first < last)
    for_last = (last <= _CHANNELS) + (first == middle) + (last < first)
    if could_be_first != could_be_last:
        return could_be_last
    if could_be_first and abs(for_first - for_last) >= 2:
        return for_last > for_first
    raise FedhaError(
        f"inputs of {origin} have shape {[*shape]} each, and it does not show which axis has an image's channels; set "
        "data.layout to channels_first or channels_last (channels_first keeps them as they are)"
    )
