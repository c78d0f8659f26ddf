"""A pretrained network with the preprocessing that it was trained with, inside: whoever has it feeds it pixels."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

Interpolation = Literal["nearest", "bilinear", "bicubic"]


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants of its inputs.

    Attributes:
        size: Pixels a side.
        mean: Of each channel, of inputs between 0 and 1.
        std: Likewise.
        interpolation: How images of another size are resized.
        fixed: Whether the network takes no other size.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation
    fixed: bool = False


class Prepared(nn.Module):
    """A trunk behind its preprocessing.

    Args:
        trunk: Maps normalised images [n, c, size, size] to features [n, D - 1].
        wanted: By the trunk; mean and std are repeated where it has more channels.
        channels: Of its inputs; grey images are laid on all of them.
        size: To which inputs of another size are resized, with antialias; None: they stay as they come.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: nn.Module, wanted: Preprocessing, channels: int, size: int | None) -> None:
        super().__init__()
        self.trunk = trunk
        self.size, self.interpolation = size, wanted.interpolation
        for name, values in (("mean", wanted.mean), ("std", wanted.std)):
            repeated = [values[place % len(values)] for place in range(channels)]
            self.register_buffer(name, torch.tensor(repeated)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Features of images [n, c, height, width] between 0 and 1."""
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            smooth = self.interpolation != "nearest"
            images = interpolate(images, (self.size, self.size), mode=self.interpolation, antialias=smooth)
        features: Tensor = self.trunk((images - self.mean) / self.std)  # grey ones are spread by the subtraction
        return features
