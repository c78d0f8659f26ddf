"""Which part of a network never changes: what it makes of an example needs to be computed but once."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedha.inputs import Form, arguments
from fedha.models.random_layers import generator_state, kept_apart, untouched
from fedha.models.split import SplitModel, evaluating

BLOCK = (
    32  # examples that go through a trunk at once, always as many: the bits of a row do not depend on its neighbours
)


@dataclass(frozen=True)
class Divided:
    """A network in two.

    Attributes:
        trunk: The part in front, which nothing trains, moves or draws in. Its numbers are the network's own.
        rest: What is trained behind it; its parameters have the network's names.
        width: Features that the trunk gives for an example.
    """

    trunk: nn.Module
    rest: SplitModel
    width: int


_found: WeakKeyDictionary[SplitModel, dict[Form, Divided | None]] = WeakKeyDictionary()


def divided(model: SplitModel, form: Form) -> Divided | None:
    """A network behind the largest part of it that is constant and gives a row of features an example.

    The whole featurizer, or the first layers of one that is an `nn.Sequential`.

    Args:
        model: Tried once on two examples of zeros, layer by layer; it stays as it is.
        form: Of its inputs.

    Returns:
        None where there is no such part.
    """
    known = _found.setdefault(model, {})
    if form not in known:
        known[form] = _divided(model, form) if form.alone else None
    return known[form]


def computed(trunk: nn.Module, inputs: Tensor) -> Tensor:
    """Features of any number of examples, [n, D], in blocks of one shape; what fills the last one is repeated."""
    found = []
    with torch.no_grad(), evaluating(trunk):
        for start in range(0, len(inputs), BLOCK):
            block = inputs[start : start + BLOCK]
            count = len(block)
            if count < BLOCK:
                block = torch.cat([block, block[-1:].expand(BLOCK - count, *block.shape[1:])])
            found.append(trunk(block)[:count])
    return torch.cat(found)


def _divided(model: SplitModel, form: Form) -> Divided | None:
    featurizer = model.featurizer
    if featurizer._forward_hooks or featurizer._forward_pre_hooks:  # somebody's, who wants to see it called
        return None
    layers = OrderedDict(featurizer.named_children()) if type(featurizer) is nn.Sequential else {"": featurizer}
    best, width = 0, 0
    for place, features in enumerate(_constant(model, list(layers.values()), form), 1):
        if features.ndim == 2 and _holds_parameters(list(layers.values())[:place]):
            best, width = place, features.shape[1]
    if not best:
        return None
    names = list(layers)
    if names == [""]:
        return Divided(featurizer, _behind(model, nn.Flatten()), width)
    trunk = nn.Sequential(OrderedDict((name, layers[name]) for name in names[:best]))
    trunk.training = featurizer.training
    rest = OrderedDict((name, layers[name]) for name in names[best:])
    return Divided(trunk, _behind(model, nn.Sequential(rest) if rest else nn.Flatten()), width)


def _constant(model: SplitModel, layers: list[nn.Module], form: Form) -> Iterator[Tensor]:
    """What each layer gives, as long as all so far are constant."""
    device = next(model.parameters()).device
    seen, by_name = arguments(form.zeros(2, device=device))
    for layer in layers:
        frozen = not any(one.requires_grad for one in layer.parameters())
        if not frozen or _moves(layer) or by_name or not all(isinstance(one, Tensor) for one in seen):
            return
        with untouched(device), torch.no_grad():
            before = generator_state(device)
            made = functional_call(layer, kept_apart(layer), seen)
            if not isinstance(made, Tensor) or not torch.equal(before, generator_state(device)):
                return
        seen = (made,)
        yield made


def _moves(layer: nn.Module) -> bool:
    """Whether it makes statistics of a batch, so that an example's numbers hold others'."""
    kinds = nn.modules.batchnorm._NormBase
    return any(isinstance(one, kinds) and (one.training or one.running_mean is None) for one in layer.modules())


def _holds_parameters(layers: list[nn.Module]) -> bool:
    return any(next(one.parameters(), None) is not None for one in layers)


def _behind(model: SplitModel, featurizer: nn.Module) -> SplitModel:
    featurizer.training = model.featurizer.training
    made = SplitModel(featurizer, model.head, batch_norm=model.batch_norm)
    made.training = model.training
    return made
