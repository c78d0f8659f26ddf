"""The networks that a config can name."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from fedha import plugins
from fedha.config import ModelConfig
from fedha.errors import FedhaError
from fedha.inputs import nested
from fedha.models.gaussian import gaussian
from fedha.models.split import MixedPrecision, SplitModel
from fedha.named import call, invoke, is_own
from fedha.objects import NAME, get_object
from fedha.randomness import generator


def build(config: ModelConfig, input_shape: Any, classes: int, seed: int, *, bare: bool = False) -> SplitModel:
    """Make the network a config describes, initialised from the seed alone.

    Args:
        config: The model section. Somebody's own function gets its options and, where its signature names them,
            ``input_shape``, ``classes`` and ``precision``; what it draws is drawn from the run's seed.
        input_shape: Shape of one input; of several, a tuple of shapes or shapes by name.
        classes: C, the number of classes.
        seed: The run's seed.
        bare: Whether its state comes from elsewhere, a finished run or a server: then no weights are read or fetched.

    Raises:
        FedhaError: The model does not fit the data, or what the function makes is no `SplitModel`.
    """
    if config.representation == "gaussian":
        point = build(config.model_copy(update={"representation": None}), input_shape, classes, seed, bare=bare)
        with _seeded(seed, "representation"):
            return gaussian(point)
    if is_own(plugins.location(plugins.MODELS, config.name)) or config.name == NAME:
        if bare and config.name in plugins.BUILT_IN[plugins.MODELS]:
            config = config.model_copy(update={"options": {**config.options, "weights": "none"}})
        return _own(config, input_shape if nested(input_shape) else tuple(input_shape), classes, seed)
    if nested(input_shape):
        raise FedhaError(
            f"model {config.name!r} takes one input but an example has several ({input_shape}); bring a network of "
            "your own, whose featurizer takes them"
        )
    if config.one_logit and classes != 2:
        raise FedhaError(f"model.one_logit is for two classes but the data have {classes}; set it to false")
    if config.name == "cnn" and len(input_shape) != 3:
        raise FedhaError(
            f"model 'cnn' takes images [channels, height, width] but an input has shape {tuple(input_shape)}; use mlp"
        )
    if config.name == "cnn" and min(input_shape[1:]) < 2 ** len(config.hidden):
        raise FedhaError(
            f"model 'cnn' halves the image {len(config.hidden)} times but it is only "
            f"{input_shape[1]} x {input_shape[2]}; give fewer channels in model.hidden"
        )
    with _seeded(seed):
        featurizer, width = _FEATURIZERS[config.name](config, tuple(input_shape))
        head = _layers([width, *config.head_hidden, 1 if config.one_logit else classes], last_activation=False)
        model = SplitModel(MixedPrecision(featurizer) if config.precision == "mixed" else featurizer, head)
        if config.init == "xavier":
            model.apply(_xavier)
    return model.to(torch.float64 if config.precision == "float64" else torch.float32)


def _own(config: ModelConfig, input_shape: Any, classes: int, seed: int) -> SplitModel:
    offered = {"input_shape": input_shape, "classes": classes}
    if config.precision != "float32":  # a function that asks for it sees to it itself
        offered["precision"] = config.precision
    with _seeded(seed):
        if config.name == NAME:
            made = invoke("model", "the function", get_object("network", config.options.get("digest")), {}, offered)
        else:
            made = call("model.name", plugins.location(plugins.MODELS, config.name), config.options, offered)
    if not isinstance(made, SplitModel):
        raise FedhaError(
            f"model.name is {config.name!r}, which makes a {type(made).__name__}; let it return "
            "fedha.models.SplitModel(featurizer, head), or SplitModel.of(network, head='fc')"
        )
    if config.batch_norm is not None:
        made.set_batch_norm(config.batch_norm)
    if config.precision == "float64":
        return made.to(torch.float64)
    if config.precision == "mixed" and not any(isinstance(one, MixedPrecision) for one in made.modules()):
        made.featurizer = MixedPrecision(made.featurizer)
    return made


@contextmanager
def _seeded(seed: int, what: str = "model") -> Iterator[None]:
    """Draw from torch's global generator as the run's seed says, and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, what).initial_seed())
        yield


def _layers(widths: list[int], last_activation: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    if not last_activation:
        layers.pop()
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def _flat_width(input_shape: tuple[int, ...]) -> int:
    return int(torch.Size(input_shape).numel())


def _mlp(config: ModelConfig, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    widths = [_flat_width(input_shape), *config.hidden]
    return nn.Sequential(nn.Flatten(), _layers(widths, last_activation=True)), widths[-1]


def _linear(config: ModelConfig, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    return nn.Flatten(), _flat_width(input_shape)


def _cnn(config: ModelConfig, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    channels = [input_shape[0], *config.hidden]
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(1, after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels[-1]


_FEATURIZERS = {"mlp": _mlp, "linear": _linear, "cnn": _cnn}


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
