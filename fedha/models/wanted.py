"""What the images of a data set should be for the network that a config names."""

from typing import NamedTuple

from fedha.config import Config, DataConfig, ModelConfig
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


def resolved(config: Config, *, alone: bool = False) -> tuple[DataConfig, str]:
    """The data's config with the size, channels and interpolation of images that the network is usually given.

    Args:
        config: One that names them itself is not changed.
        alone: Whether it is for a site, or for a deployment's server: there size and channels must be named.

    Returns:
        The config, and what nobody asked for, in a sentence's end; "" for nothing.

    Raises:
        FedhaError: There is no such network.
    """
    data = config.data
    left = [key for key in ("size", "channels", "interpolation") if getattr(data, key) is None]
    if data.name != "folder" or not left or (wanted := wanted_input(config.model)) is None:
        return data, ""
    keys = [key for key in left if getattr(wanted, key) is not None and not (alone and key != "interpolation")]
    name = config.model.options.get("architecture", config.model.name)
    told = f"{' and '.join(keys)} of images as {name} is usually given" if keys else ""
    return data.model_copy(update={key: getattr(wanted, key) for key in keys}), told
