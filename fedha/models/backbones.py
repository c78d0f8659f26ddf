"""Pretrained networks by name: ``model: {name: timm, architecture: resnet18, weights: pretrained, frozen: true}``."""

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from fedha.errors import FedhaError, brief
from fedha.inputs import nested
from fedha.models.libraries import (
    timm_preprocessing,
    timm_trunk,
    torchvision_preprocessing,
    torchvision_trunk,
)
from fedha.models.prepared import Prepared, Preprocessing
from fedha.models.split import MixedPrecision, SplitModel
from fedha.models.weights import NONE, PRETRAINED, Adapt, fill
from fedha.schema import nearest

Weights = Literal["pretrained", "none"] | Path
Frozen = bool | str | list[str]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Share = Annotated[float, Field(ge=0, lt=1)]
Widths = list[Annotated[int, Field(ge=1)]]
Precision = Literal["float32", "mixed"]


@dataclass(frozen=True)
class Trunk:
    """A network without its classifier.

    Attributes:
        network: Maps normalised images to features.
        wanted: What it wants of them.
        called: As errors call it.
        loaded: Whether its weights come from somewhere.
        remark: What of them was missing or left over; "" for nothing.
        channels: That it takes as it is; for another number its first layer is made anew.
        spreads: Whether grey images are laid on all its channels instead.
    """

    network: nn.Module
    wanted: Preprocessing
    called: str
    loaded: bool
    remark: str = ""
    channels: int = 3
    spreads: bool = True


@dataclass(frozen=True)
class Behind:
    """What is made of a trunk.

    Attributes:
        frozen: What of it is not trained: all, nothing, or the parts of these names.
        size: Pixels a side to which images are resized; None: they stay as they come.
        drop: Share of the features that dropout leaves out in training.
        hidden: Widths of trained layers between it and the head.
        precision: Of its products.
    """

    frozen: Frozen
    size: int | None
    drop: float
    hidden: Sequence[int]
    precision: Precision


def timm_network(
    input_shape: Any,
    classes: int,
    architecture: str,
    weights: Weights = "pretrained",
    frozen: Frozen = False,
    image: Pixels | None = None,
    drop: Share = 0.0,
    hidden: Widths = [],  # noqa: B006  # as a config writes it
    precision: Precision = "float32",
) -> SplitModel:
    """A network of timm's, without its classifier, and a linear head.

    Args:
        input_shape: [channels, height, width] of images between 0 and 1.
        classes: C.
        architecture: As ``timm.list_models()`` has it, with or without a tag, as in ``resnet18.a1_in1k``.
        weights: pretrained (fetched by timm), none, or a file of safetensors or of a state dict.
        frozen: true: all of it; or the names of its parts, such as ``[conv1, layer1]``.
        image: Pixels a side as the network sees them; default: as the data are, or what the architecture takes alone.
        drop: Share of the features that dropout leaves out in training, before the head.
        hidden: Widths of trained layers between the network and the head.
        precision: mixed: the network's products in bfloat16.

    Raises:
        FedhaError: There is no such architecture, its weights cannot be had or are of another one, or it does not take
            such images.
    """
    wanted = timm_preprocessing(architecture)
    size = image or (wanted.size if wanted.fixed else None)
    built = size if wanted.fixed and size != wanted.size else None
    network = timm_trunk(architecture, pretrained=weights == PRETRAINED, size=built)
    head = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    adapt: Adapt | None = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    remark = weights_into(network, weights, (head,) if isinstance(head, str) else tuple(head), adapt)
    trunk = Trunk(network, wanted, f"timm's {architecture}", weights != NONE, remark)
    return assembled(trunk, input_shape, classes, Behind(frozen, size, drop, hidden, precision))


def torchvision_network(
    input_shape: Any,
    classes: int,
    architecture: str,
    weights: Weights = "pretrained",
    frozen: Frozen = False,
    image: Pixels | None = None,
    drop: Share = 0.0,
    hidden: Widths = [],  # noqa: B006
    precision: Precision = "float32",
) -> SplitModel:
    """A classifier of torchvision's, without its last layer, and a linear head; the rest as in `timm_network`."""
    wanted = torchvision_preprocessing(architecture)
    size = image or (wanted.size if wanted.fixed else None)
    built = size if architecture.startswith("vit_") and size != wanted.size else None
    network, head = torchvision_trunk(architecture, pretrained=weights == PRETRAINED, size=built)
    remark = weights_into(network, weights, (head, "AuxLogits", "aux1", "aux2"))
    trunk = Trunk(network, wanted, f"torchvision's {architecture}", weights != NONE, remark)
    return assembled(trunk, input_shape, classes, Behind(frozen, size, drop, hidden, precision))


def weights_into(
    network: nn.Module, weights: str | Path, classifier: Sequence[str] = (), adapt: Adapt | None = None
) -> str:
    """Put a file's weights into a network, and say what was missing or left over; as `fedha.models.weights.fill`."""
    if weights in (NONE, PRETRAINED):
        return ""
    return fill(network, Path(weights).expanduser(), classifier, adapt)


def assembled(trunk: Trunk, input_shape: Any, classes: int, behind: Behind) -> SplitModel:
    """A trunk with its preprocessing, what is trained behind it, and a linear head.

    Args:
        trunk: Its weights are in it.
        input_shape: [channels, height, width].
        classes: C.
        behind: The rest.

    Raises:
        FedhaError: It does not take such images, or has no part of a name that is to be frozen.
    """
    if nested(input_shape) or len(input_shape) != 3:
        raise FedhaError(f"{trunk.called} takes images [channels, height, width] but an input has shape {input_shape}")
    channels = trunk.channels if input_shape[0] == 1 and trunk.spreads else input_shape[0]
    if channels != trunk.channels:
        _take_channels(trunk, channels)
    backbone: nn.Module = Prepared(trunk.network, trunk.wanted, channels, behind.size)
    width = _width(trunk, backbone.eval(), input_shape)
    _freeze(trunk, backbone.train(), behind.frozen)
    if behind.precision == "mixed":
        backbone = MixedPrecision(backbone)
    parts: OrderedDict[str, nn.Module] = OrderedDict(backbone=backbone)
    widths = [width, *behind.hidden]
    for place, (before, after) in enumerate(pairwise(widths)):
        parts |= {f"hidden{place}": nn.Linear(before, after), f"relu{place}": nn.ReLU()}
    if behind.drop:
        parts["drop"] = nn.Dropout(behind.drop)
    made = SplitModel(nn.Sequential(parts), nn.Linear(widths[-1], classes))
    made.remarks = (trunk.remark,) if trunk.remark else ()
    return made


def _width(trunk: Trunk, backbone: nn.Module, input_shape: Sequence[int]) -> int:
    """How many features there are, tried on an image of zeros."""
    try:
        with torch.no_grad():
            features = backbone(torch.zeros(1, *input_shape))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        size = trunk.wanted.size
        raise FedhaError(
            f"{trunk.called} cannot take images of shape {tuple(input_shape)}: {brief(error)}; set model.image to "
            f"{size}, or data.size"
        ) from error
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        kind = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise FedhaError(f"{trunk.called} gives no row of features an image, but {kind}; take another architecture")
    return int(features.shape[1])


def _take_channels(trunk: Trunk, channels: int) -> None:
    """Give the first layer this many channels: its weights, repeated (as DomainBed does), or new ones."""
    name, first = next(
        ((name, one) for name, one in trunk.network.named_modules() if isinstance(one, nn.Conv2d)), ("", None)
    )
    if first is None or first.in_channels != 3 or first.groups != 1:
        raise FedhaError(f"{trunk.called} takes colour images, and an input has {channels} channels; give it 1 or 3")
    made = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    if trunk.loaded:
        with torch.no_grad():
            made.weight.copy_(first.weight[:, [place % 3 for place in range(channels)]])
            if made.bias is not None and first.bias is not None:
                made.bias.copy_(first.bias)
    owner, _, label = name.rpartition(".")
    setattr(trunk.network.get_submodule(owner), label, made)


def _freeze(trunk: Trunk, backbone: nn.Module, frozen: Frozen) -> None:
    """Take what is frozen out of training: no gradients, and evaluation mode."""
    if isinstance(frozen, bool):
        backbone.requires_grad_(not frozen).train(not frozen)
        return
    parts = {name for name, _ in trunk.network.named_modules() if name} | set(dict(trunk.network.named_parameters()))
    for wanted in [frozen] if isinstance(frozen, str) else frozen:
        if wanted not in parts:
            told = nearest(wanted, parts)
            if "did you mean" not in told:
                told = f"; its parts are {', '.join(name for name, _ in trunk.network.named_children())}"
            raise FedhaError(f"model.frozen names {wanted!r}, which {trunk.called} does not have{told}")
        for name, value in trunk.network.named_parameters():
            if name == wanted or name.startswith(f"{wanted}."):
                value.requires_grad_(False)
        for name, module in trunk.network.named_modules():
            if name == wanted:
                module.eval()
