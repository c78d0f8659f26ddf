"""The networks of DomainBed (Gulrajani and Lopez-Paz, ICLR 2021; facebookresearch/DomainBed, domainbed/networks.py)."""

from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from fedha.models.backbones import (
    Behind,
    Frozen,
    Pixels,
    Precision,
    Share,
    Trunk,
    Weights,
    assembled,
    weights_into,
)
from fedha.models.libraries import torchvision_trunk
from fedha.models.prepared import Preprocessing
from fedha.models.split import SplitModel
from fedha.models.weights import NONE, PRETRAINED

IMAGENET = Preprocessing(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")
PIXELS = Preprocessing(28, (0.0,), (1.0,), "bilinear")  # its MNIST networks see images as they are


class MnistCNN(nn.Module):
    """Four convolutions with group norm behind each, and the mean over all pixels: 128 features.

    Args:
        channels: Of its inputs.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, 1, padding=1)
        self.conv2 = nn.Conv2d(64, 128, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(128, 128, 3, 1, padding=1)
        self.conv4 = nn.Conv2d(128, 128, 3, 1, padding=1)
        self.bn0 = nn.GroupNorm(8, 64)
        self.bn1 = nn.GroupNorm(8, 128)
        self.bn2 = nn.GroupNorm(8, 128)
        self.bn3 = nn.GroupNorm(8, 128)

    def forward(self, images: Tensor) -> Tensor:
        """Features, [n, 128]; the norm follows the ReLU."""
        seen = images
        for convolution, norm in (
            (self.conv1, self.bn0),
            (self.conv2, self.bn1),
            (self.conv3, self.bn2),
            (self.conv4, self.bn3),
        ):
            seen = norm(convolution(seen).relu())
        return seen.mean(dim=(2, 3))


def domainbed_mnist_cnn(
    input_shape: Any,
    classes: int,
    weights: Literal["none"] | Path = "none",
    frozen: Frozen = False,
    image: Pixels | None = None,
    drop: Share = 0.0,
    precision: Precision = "float32",
) -> SplitModel:
    """DomainBed's MNIST_CNN, for RotatedMNIST and ColoredMNIST; arguments as in `timm_network`."""
    channels = input_shape[0] if isinstance(input_shape, tuple) and len(input_shape) == 3 else 1
    network = MnistCNN(channels)
    remark = weights_into(network, weights)
    trunk = Trunk(network, PIXELS, "domainbed_mnist_cnn", weights != NONE, remark, channels)
    return assembled(trunk, input_shape, classes, Behind(frozen, image, drop, (), precision))


def domainbed_resnet18(
    input_shape: Any,
    classes: int,
    weights: Weights = "pretrained",
    frozen: Frozen = False,
    image: Pixels | None = None,
    drop: Share = 0.0,
    precision: Precision = "float32",
) -> SplitModel:
    """As `domainbed_resnet50`, with 18 layers."""
    return _resnet("resnet18", input_shape, classes, weights, Behind(frozen, image, drop, (), precision))


def domainbed_resnet50(
    input_shape: Any,
    classes: int,
    weights: Weights = "pretrained",
    frozen: Frozen = False,
    image: Pixels | None = None,
    drop: Share = 0.0,
    precision: Precision = "float32",
) -> SplitModel:
    """DomainBed's ResNet: torchvision's first ImageNet weights, batch norm frozen, dropout before the head.

    Inputs of another number of channels than three see the first layer's weights of channel i mod 3. Arguments as in
    `timm_network`.
    """
    return _resnet("resnet50", input_shape, classes, weights, Behind(frozen, image, drop, (), precision))


def _resnet(architecture: str, input_shape: Any, classes: int, weights: str | Path, behind: Behind) -> SplitModel:
    network, head = torchvision_trunk(architecture, pretrained=weights == PRETRAINED, version="IMAGENET1K_V1")
    remark = weights_into(network, weights, (head,))
    trunk = Trunk(network, IMAGENET, f"domainbed_{architecture}", weights != NONE, remark, spreads=False)
    return assembled(trunk, input_shape, classes, behind)
