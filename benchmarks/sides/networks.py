"""Networks and random images of the step benchmarks."""

import torch
from torch import Tensor, nn

from fedha.data.domain import Domain, Examples
from fedha.models import SplitModel
from fedha.models.split import MixedPrecision

CLASSES = 10


def mlp(inputs: int, width: int = 390) -> SplitModel:
    """Two hidden layers."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return SplitModel(nn.Sequential(*layers), nn.Linear(width, CLASSES))


def cnn(channels: int = 3) -> SplitModel:
    """Three convolutions."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1)]
    layers += [nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return SplitModel(nn.Sequential(*layers, nn.Flatten()), nn.Linear(128, CLASSES))


def frozen(input_shape: tuple[int, ...], classes: int, width: int = 1_280) -> SplitModel:
    """A frozen layer that makes features of an image, whatever the run's seed, and an mlp of 32 behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Linear(torch.Size(input_shape).numel(), width).requires_grad_(False)
    trained = [nn.Linear(width, 32), nn.ReLU()]
    return SplitModel(nn.Sequential(nn.Flatten(), body, nn.ReLU(), *trained), nn.Linear(32, classes))


def residual(architecture: str, *, mixed: bool = False, channels_last: bool = False) -> SplitModel:
    """timm's resnet18 or resnet50 with random weights, its batch norm frozen; torchvision's where timm is not there.

    Args:
        architecture: Its name.
        mixed: Whether its products are computed in bfloat16.
        channels_last: Whether its weights lie that way, and with them all that it computes.
    """
    torch.manual_seed(0)
    try:
        import timm

        network = timm.create_model(architecture, pretrained=False, num_classes=CLASSES)
    except ImportError:
        from torchvision import models

        network = getattr(models, architecture)(weights=None, num_classes=CLASSES)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):  # as if it had seen images: a new layer's own would normalise nothing
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.8, 1.2)
    model = SplitModel.of(network, "fc")
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return SplitModel(MixedPrecision(model.featurizer), model.head) if mixed else model


def images(domains: int, count: int, shape: tuple[int, ...], device: torch.device | str = "cpu") -> list[Domain]:
    """Domains of random numbers in an image's shape, with random labels."""
    found = []
    for place in range(domains):
        draws = torch.Generator(device).manual_seed(place + 1)
        inputs: Tensor = torch.rand(count, *shape, generator=draws, device=device)
        labels = torch.randint(0, CLASSES, (count,), generator=draws, device=device)
        some = Examples(inputs, labels)
        found.append(Domain(f"d{place}", some, some.select(slice(0, 2))))
    return found
