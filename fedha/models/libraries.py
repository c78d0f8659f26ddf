"""What timm and torchvision say of their networks, and fetch; both are imported where a config asks for them."""

import importlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

from torch import nn

from fedha.errors import FedhaError, brief
from fedha.models.prepared import Interpolation, Preprocessing
from fedha.schema import nearest

_ONE_SIZE = ("vit_", "maxvit_")  # torchvision's that take no other
_SCHEMES = {"http": 80, "https": 443}


def package(name: str) -> ModuleType:
    """An imported package of the extra.

    Raises:
        FedhaError: It is not installed, or not for this torch.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise FedhaError(f"model.name is {name}, which needs a package; pip install 'fedha[vision]'") from error
    except (ImportError, RuntimeError, OSError) as error:
        raise FedhaError(
            f"{name} is installed and cannot be imported: {brief(error)}; take the torchvision that is made for this "
            "torch, from the same index"
        ) from error


def timm_preprocessing(architecture: str) -> Preprocessing:
    """What one of timm's networks wants.

    Raises:
        FedhaError: There is no such network; names the nearest.
    """
    timm = package("timm")
    bare, _, tag = architecture.partition(".")
    if not timm.is_model(bare):
        raise _unknown(architecture, "timm", timm.list_models())
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{bare}.*")] if tag else []
    if tag not in ("", *tags):
        raise _unknown(architecture, "timm", [f"{bare}.{one}" for one in tags] or [bare])
    found = timm.models.get_pretrained_cfg(architecture)
    config = {} if found is None else found.to_dict()
    size = (config.get("input_size") or (3, 224, 224))[1]
    mean = config.get("mean") or timm.data.IMAGENET_DEFAULT_MEAN
    std = config.get("std") or timm.data.IMAGENET_DEFAULT_STD
    how = _interpolation(str(config.get("interpolation")))
    return Preprocessing(size, tuple(mean), tuple(std), how, bool(config.get("fixed_input_size")))


def torchvision_preprocessing(architecture: str) -> Preprocessing:
    """What one of torchvision's classifiers wants; arguments and errors as in `timm_preprocessing`."""
    models = package("torchvision").models
    known = models.list_models(module=models)
    if architecture not in known:
        raise _unknown(architecture, "torchvision", known)
    wanted = models.get_model_weights(architecture).DEFAULT.transforms()
    how, fixed = _interpolation(wanted.interpolation.value), architecture.startswith(_ONE_SIZE)
    return Preprocessing(wanted.crop_size[0], tuple(wanted.mean), tuple(wanted.std), how, fixed)


def _interpolation(name: str) -> Interpolation:
    """As torch has it; timm's "random" and what torch cannot do are bicubic."""
    return "nearest" if name == "nearest" else "bilinear" if name == "bilinear" else "bicubic"


def timm_trunk(architecture: str, *, pretrained: bool, size: int | None) -> nn.Module:
    """One of timm's networks without its classifier.

    Args:
        architecture: A known one.
        pretrained: Whether timm fetches its weights, or finds them where it has kept them.
        size: Pixels a side, for one that is built for them; None: as it comes.

    Raises:
        FedhaError: The weights cannot be had, or it cannot be built so.
    """
    timm = package("timm")
    more = {} if size is None else {"img_size": size}
    if not pretrained:
        with _said(f"cannot build timm's {architecture}", "take another model.image"):
            made: nn.Module = timm.create_model(architecture, num_classes=0, **more)
            return made
    config = timm.models.get_pretrained_cfg(architecture)
    place = "" if config is None else config.hf_hub_id or config.url or ""
    if not place:
        raise FedhaError(f"timm has no weights for {architecture}; give a file in model.weights, or none")
    hub = package("huggingface_hub")
    kept = config.hf_hub_id and hub.try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
    page = f"{hub.constants.ENDPOINT}/{place}" if config.hf_hub_id else place
    remedy = (
        f"on a machine with a network get model.safetensors from {page}, and give the file in model.weights, or set "
        "model.weights: none"
    )
    with _said(f"cannot fetch the weights of timm's {architecture}", remedy):
        if not kept:
            _check_reachable(page)
        made = timm.create_model(architecture, num_classes=0, pretrained=True, **more)
    return made


def torchvision_trunk(
    architecture: str, *, pretrained: bool, size: int | None = None, version: str = "DEFAULT"
) -> tuple[nn.Module, str]:
    """One of torchvision's networks without its last layer and the dropout before it, and that layer's name.

    Args:
        architecture: A known one.
        pretrained: Whether torchvision fetches its weights, or finds them where it has kept them.
        size: Pixels a side, for one that is built for them; None: as it comes.
        version: Which weights, such as ``IMAGENET1K_V1``.

    Raises:
        FedhaError: The weights cannot be had, or it has no linear last layer.
    """
    models = package("torchvision").models
    weights = models.get_model_weights(architecture)[version] if pretrained else None
    more: dict[str, Any] = {} if size is None else {"image_size": size}
    if architecture in ("googlenet", "inception_v3"):  # of which training gives several outputs
        more |= {"init_weights": True} if weights is None else {}
        more |= {"aux_logits": weights is not None}
    remedy = "give a file in model.weights, or none"
    if weights is not None:
        remedy = f"on a machine with a network get {weights.url}, and give the file in model.weights, or none"
    with _said(f"cannot make torchvision's {architecture}", remedy):
        network = models.get_model(architecture, weights=weights, **more)
    layers = dict(network.named_modules())
    last = next((name for name in reversed(layers) if isinstance(layers[name], nn.Linear)), "")
    after = [one for name, one in layers.items() if list(layers).index(name) > list(layers).index(last)] if last else []
    if not last or any(next(one.parameters(), None) is not None for one in after):
        raise FedhaError(f"torchvision's {architecture} does not end with a linear layer; take another architecture")
    owner, _, name = last.rpartition(".")
    parent = network.get_submodule(owner)
    setattr(parent, name, nn.Identity())
    for label, one in parent.named_children():
        if isinstance(one, nn.Dropout) and owner:
            setattr(parent, label, nn.Identity())
    return network, last


@contextmanager
def _said(what: str, remedy: str) -> Iterator[None]:
    """Turn what a library raises into a sentence: hubs and networks raise dozens of kinds."""
    try:
        yield
    except FedhaError:
        raise
    except Exception as error:
        raise FedhaError(f"{what}: {brief(error)}; {remedy}") from error


def _check_reachable(page: str) -> None:
    """Ask for a host's address: a hub's client repeats what fails for most of a minute.

    Raises:
        OSError: There is none.
    """
    place = urlparse(page)
    if not any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        socket.getaddrinfo(place.hostname, place.port or _SCHEMES.get(place.scheme, 443))


def _unknown(architecture: str, library: str, known: list[str]) -> FedhaError:
    told = nearest(architecture, known)
    if "did you mean" not in told and len(known) > 20:
        told = f"; it has {len(known):,}, such as {', '.join(known[:3])}"
    return FedhaError(f"model.architecture is {architecture!r}, which {library} does not have{told}")
