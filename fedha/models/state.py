"""A network's state by name, and what becomes of each part in a round.

- trained: parameters that take a gradient. Sent each round, trained, clipped, disturbed, averaged.
- frozen: parameters that take none. Constants of a run, never touched; a client that comes with others is sent them
  once.
- buffer: what `register_buffer` keeps with the state. Constants too.
- averaged: running statistics, where `SplitModel.batch_norm` is averaged. Sent each round; a client's steps move them,
  and the server takes the mean of what they became.
- local: running statistics, weight and bias of such layers, where it is local. Each client keeps its own; the server
  has their mean, for targets and for clients that come new.
- tied to NAME: a second name of another tensor.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor, nn

from fedha.errors import FedhaError
from fedha.models.split import SplitModel
from fedha.objects import digest_of

TRAINED, FROZEN, BUFFER, AVERAGED, LOCAL, TIED = "trained", "frozen", "buffer", "averaged", "local", "tied to "
CONSTANT, MOVED = (FROZEN, BUFFER), (AVERAGED, LOCAL)
RUNNING = "buffers/"  # before the name of a part in a reply: how it moved

Tensors = dict[str, Tensor]
Part = TypeVar("Part")


@dataclass(frozen=True)
class State:
    """A network's state, by what becomes of it.

    Attributes:
        trained: Parameters.
        running: Averaged and local parts.
        constants: Frozen parameters, and buffers.
        kinds: Of every name, in the order of ``state_dict()``.
    """

    trained: Tensors
    running: Tensors = field(default_factory=dict)
    constants: Tensors = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)

    def whole(self) -> Tensors:
        """All of it, as ``load_state_dict`` takes it strictly."""
        return whole(self.trained | self.running | self.constants, self.kinds)


def whole(parts: Mapping[str, Part], kinds: Mapping[str, str]) -> dict[str, Part]:
    """The parts of a state, such as tensors or their arrays, in its order and under all of its names.

    Args:
        parts: By name, in any order; of what is tied the first name's alone.
        kinds: As in `State`; empty: all there is, as it is.
    """
    if not kinds:
        return dict(parts)
    return {name: parts[kind.removeprefix(TIED) if kind.startswith(TIED) else name] for name, kind in kinds.items()}


def state_of(model: nn.Module) -> State:
    """The state of a network as it is now; the tensors are its own."""
    kinds = kinds_of(model)
    return divided({name: value.detach() for name, value in named_state(model).items()}, kinds)


def divided(tensors: Mapping[str, Tensor], kinds: Mapping[str, str]) -> State:
    """A state from its tensors: of those that `kinds` names; all of them are trained where it names none."""
    if not kinds:
        return State(dict(tensors))
    parts: tuple[Tensors, Tensors, Tensors] = ({}, {}, {})
    for name, kind in kinds.items():
        if name in tensors and not kinds.get(name, "").startswith(TIED):
            parts[0 if kind == TRAINED else 1 if kind in MOVED else 2][name] = tensors[name]
    return State(*parts, {name: kind for name, kind in kinds.items() if name in tensors})


def kinds_of(model: nn.Module) -> dict[str, str]:
    """What becomes of each part of a network's state, by name, in the order of ``state_dict()``."""
    moved = _moved(model)
    kinds: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, value in named_state(model).items():
        owner = first.setdefault(id(value), name)
        if owner != name:
            kinds[name] = f"{TIED}{owner}"
        elif isinstance(value, nn.Parameter):
            kinds[name] = moved.get(name, TRAINED) if value.requires_grad else FROZEN
        else:
            kinds[name] = moved.get(name, BUFFER)
    return kinds


def named_state(model: nn.Module) -> Tensors:
    """``state_dict()`` with the tensors themselves."""
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def trained_parameters(model: nn.Module) -> Tensors:
    """The parameters that take a gradient, detached."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def moving_layers(model: nn.Module) -> dict[str, nn.modules.batchnorm._NormBase]:
    """The layers whose running statistics training moves."""
    if not isinstance(model, SplitModel) or model.batch_norm == "frozen":
        return {}
    found = ((name, one) for name, one in model.named_modules() if isinstance(one, nn.modules.batchnorm._NormBase))
    return {name: one for name, one in found if one.running_mean is not None and one.training}


def mixing_layers(model: nn.Module) -> list[str]:
    """The layers that make statistics of a batch as the network is now, so that an example's numbers hold others'."""
    found = ((name, one) for name, one in model.named_modules() if isinstance(one, nn.modules.batchnorm._NormBase))
    return [
        name
        for name, one in found
        if not isinstance(one, nn.modules.instancenorm._InstanceNorm) and (one.training or one.running_mean is None)
    ]


def new_statistics(constants: Mapping[str, Tensor]) -> list[str]:
    """Layers whose running statistics never move and are those of a new layer, which normalises nothing."""
    means = {
        name.removesuffix(".running_mean"): one for name, one in constants.items() if name.endswith("running_mean")
    }
    return [
        name
        for name, mean in means.items()
        if not bool(mean.any()) and bool((constants.get(f"{name}.running_var", mean) == 1).all())
    ]


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """A digest of each tensor."""
    return {name: digest_of([(name, value)]) for name, value in tensors.items()}


def constants_name(found: Mapping[str, str]) -> str:
    """One name for constants, made of their digests, whatever their order; "" of none."""
    told = json.dumps(sorted(found.items())).encode()
    return hashlib.sha256(told).hexdigest()[:32] if found else ""


def _moved(model: nn.Module) -> dict[str, str]:
    local = isinstance(model, SplitModel) and model.batch_norm == LOCAL
    found: dict[str, str] = {}
    for name, layer in moving_layers(model).items():
        parts = [
            *layer.named_buffers(name, recurse=False),
            *(layer.named_parameters(name, recurse=False) if local else ()),
        ]
        found |= {part: LOCAL if local else AVERAGED for part, _ in parts}
    return found


def introduced(
    kinds: Mapping[str, str], own: Mapping[str, str], announced: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """What a client says of its network's state when it introduces itself.

    Args:
        kinds: Of its network.
        own: Digests of its constants.
        announced: Digests of the constants that the server starts from; empty where it does not say.

    Returns:
        What becomes of each part, with the digest of constants that the server does not have; and the constants that
        have another digest there.
    """
    alone = own.keys() - announced.keys() if announced else set()
    said = {name: f"{kind} {own[name]}" if name in alone else kind for name, kind in kinds.items()}
    return said, tuple(name for name, value in own.items() if announced.get(name, value) != value)


def take_constants(model: nn.Module, constants: Mapping[str, Tensor]) -> None:
    """Put the server's constants in the place of a network's own.

    Args:
        model: Changed in place.
        constants: By name.

    Raises:
        FedhaError: They are not this network's.
    """
    state = state_of(model)
    for name, value in constants.items():
        own = state.constants.get(name)
        if own is None or (own.shape, own.dtype) != (value.shape, value.dtype):
            what = "nothing that is constant" if own is None else f"{own.dtype} of shape {tuple(own.shape)}"
            raise FedhaError(
                f"the server's {name!r} is {value.dtype} of shape {tuple(value.shape)} and never trained, and in the "
                f"client's network it is {what}; let both make the network with one function"
            )
    for name, value in constants.items():  # only now that nothing can be refused any more
        state.constants[name].copy_(value)
