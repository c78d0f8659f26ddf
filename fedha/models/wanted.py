"""What the images of a data set should be for the network that a config names."""

from typing import NamedTuple

from fedha.config import ModelConfig
from fedha.models.prepared import Interpolation
from fedha.signature import meant


class WantedInput(NamedTuple):
    """What a network is usually given.

    Attributes:
        size: Pixels a side.
        channels: 3: in colour; None: as the images are.
        interpolation: How images of another size are resized.
    """

    size: int
    channels: int | None
    interpolation: Interpolation


def wanted_input(config: ModelConfig) -> WantedInput | None:
    """What the network of a config wants of its inputs; None where it takes what there is.

    Nothing heavy is imported but for a network of timm's or torchvision's.

    Args:
        config: The model section.

    Raises:
        FedhaError: There is no such architecture.
    """
    image = meant(config.options.get("image"))
    if config.name == "domainbed_mnist_cnn":
        return WantedInput(image or 28, None, "bilinear")
    if config.name in ("domainbed_resnet18", "domainbed_resnet50"):
        return WantedInput(image or 224, 3, "bilinear")
    if config.name not in ("timm", "torchvision") or "architecture" not in config.options:
        return None
    from fedha.models import libraries  # what it imports takes seconds

    known = libraries.timm_preprocessing if config.name == "timm" else libraries.torchvision_preprocessing
    wanted = known(str(config.options["architecture"]))
    return WantedInput(image or wanted.size, 3, wanted.interpolation)
