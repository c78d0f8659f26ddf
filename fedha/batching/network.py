"""A network with other parameters for every client: k copies of each layer as one operation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import vmap
from torch.nn import functional

from fedha.models.calls import call_with
from fedha.models.split import SplitModel

Own = Mapping[str, Tensor]
Rule = Callable[..., Tensor]


@dataclass(frozen=True)
class Layer:
    """One module of a network.

    Attributes:
        name: Prefix of its parameters' names in the whole model.
        module: What it computes, its settings, and what of it is frozen; its trained parameters are not read.
    """

    name: str
    module: nn.Module

    def own(self, parameters: Own, clients: int) -> dict[str, Tensor]:
        """Its part of the model's parameters, under the module's names; what is frozen is the same for all clients."""
        found = {}
        for key, value in self.module.named_parameters():
            name = f"{self.name}.{key}"
            found[key] = parameters[name] if name in parameters else value.detach().expand(clients, *value.shape)
        return found


@dataclass(frozen=True)
class Network:
    """A model as two lists of layers, each applied after the other.

    Attributes:
        featurizer: Up to the features.
        head: From the features to the logits.
    """

    featurizer: tuple[Layer, ...]
    head: tuple[Layer, ...]

    def leading_linear(self) -> int | None:
        """Place of the featurizer's first layer if it is linear in the flattened inputs and trained, else None."""
        for place, layer in enumerate(self.featurizer):
            if type(layer.module) is nn.Linear:
                return place if all(value.requires_grad for value in layer.module.parameters()) else None
            if type(layer.module) not in (nn.Flatten, nn.Identity):
                return None
        return None


def take_apart(model: SplitModel) -> Network:
    """The layers of a model, nested `nn.Sequential` opened."""
    return Network(tuple(_opened("featurizer", model.featurizer)), tuple(_opened("head", model.head)))


def forward(layers: Sequence[Layer], parameters: Own, inputs: Tensor) -> Tensor:
    """Apply layers with parameters of their own for each of k clients.

    Args:
        layers: In order.
        parameters: What is trained of the whole model, by name, each [k, ...].
        inputs: [k, b, ...].

    Returns:
        [k, b, ...].
    """
    for layer in layers:
        own = layer.own(parameters, len(inputs))
        rule = _RULES.get(type(layer.module))
        if rule is None or not _plain(layer.module):
            inputs = vmap(_called, in_dims=(None, 0, 0))(layer.module, own, inputs)
        else:
            inputs = rule(layer.module, own, inputs)
    return inputs


def beyond_examples(network: Network) -> list[str]:
    """The kinds of layers that look beyond one example: buffers (batch statistics) or chance (dropout)."""
    modules = [part for layer in (*network.featurizer, *network.head) for part in layer.module.modules()]
    noted = [part for part in modules if list(part.buffers(recurse=False)) or "Dropout" in type(part).__name__]
    return list(dict.fromkeys(type(part).__name__ for part in noted))


def _opened(name: str, module: nn.Module) -> list[Layer]:
    if type(module) is not nn.Sequential:
        return [Layer(name, module)]
    return [layer for key, child in module.named_children() for layer in _opened(f"{name}.{key}", child)]


def _plain(module: nn.Module) -> bool:
    """Whether a module with a rule is used as the rule expects: no hooks, no wrapped or reflected borders."""
    hooked = bool(module._forward_hooks or module._forward_pre_hooks)
    bordered = isinstance(module, nn.Conv2d) and module.padding_mode != "zeros"
    flat = isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1)
    return not (hooked or bordered or flat)


def _called(module: nn.Module, own: dict[str, Tensor], inputs: Tensor) -> Tensor:
    value: Tensor = call_with(module, own, (inputs,))
    return value


def _linear(module: nn.Linear, own: Own, inputs: Tensor) -> Tensor:
    outputs: Tensor = _Rows.apply(own["weight"], own.get("bias"), inputs.flatten(1, -2))  # type: ignore[no-untyped-call]
    return outputs.view(*inputs.shape[:-1], -1)


class _Rows(torch.autograd.Function):
    """``x W^T + b`` of every client, [k, b, F] to [k, b, H], once differentiable.

    Autograd's own rule lays either the outputs or the weight's gradient across, and what follows reads it by columns:
    slower, for small layers, than the products. Here everything lies as its reader takes it.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
        """Apply the layer."""
        ctx.save_for_backward(weight, rows)
        columns = weight.transpose(1, 2)
        return torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias[:, None], rows, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """Derivatives in what `forward` was given."""
        weight, rows = ctx.saved_tensors
        slope = slopes[0].contiguous()
        needs_weight, needs_bias, needs_rows = ctx.needs_input_grad
        return (
            torch.bmm(slope.transpose(1, 2), rows) if needs_weight else None,
            slope.sum(1) if needs_bias else None,
            torch.bmm(slope, weight) if needs_rows else None,
        )


def _wide(images: Tensor) -> Tensor:
    """[k, b, C, h, w] to [b, k * C, h, w]: clients side by side as channels. No copy after `_narrow`."""
    return images.transpose(0, 1).flatten(1, 2)


def _narrow(images: Tensor, clients: int) -> Tensor:
    return images.view(len(images), clients, -1, *images.shape[2:]).transpose(0, 1)


def _conv(module: nn.Conv2d, own: Own, images: Tensor) -> Tensor:
    clients = len(images)
    bias = None if module.bias is None else own["bias"].flatten()
    moved = functional.conv2d(
        _wide(images),
        own["weight"].flatten(0, 1),
        bias,
        module.stride,
        module.padding,
        module.dilation,
        clients * module.groups,
    )
    return _narrow(moved, clients)


def _group_norm(module: nn.GroupNorm, own: Own, images: Tensor) -> Tensor:
    clients = len(images)
    weight, bias = (own[key].flatten() if key in own else None for key in ("weight", "bias"))
    normed = functional.group_norm(_wide(images), clients * module.num_groups, weight, bias, module.eps)
    return _narrow(normed, clients)


def _pool(module: nn.Module, own: Own, images: Tensor) -> Tensor:
    return _narrow(module(_wide(images)), len(images))


# What is not here goes through torch.func.vmap, which is as fast for what works entry by entry. These are faster:
# linear layers by how their numbers lie, image layers by staying side by side. ReLU, because one in place, on a
# leaf, would be an error.
_RULES: Mapping[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.GroupNorm: _group_norm,
    nn.MaxPool2d: _pool,
    nn.AdaptiveAvgPool2d: _pool,
    nn.Flatten: lambda module, own, inputs: inputs.flatten(2),
    nn.ReLU: lambda module, own, inputs: inputs.relu(),
}
