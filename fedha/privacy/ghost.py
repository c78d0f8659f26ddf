"""Clipped sums of example gradients without the example gradients, where every parameter is a linear layer's.

Let ``y_i = W x_i + b`` be such a layer at example i, and d_i the derivative of the example's loss in y_i. Its gradient
is the outer product ``d_i ⊗ x_i`` in W and d_i in b, of norm ``|d_i| sqrt(|x_i|^2 + 1)``: known from the activations.
With the norms over all layers come the factors ``f_i = min(1, clip / r_i)``, and the clipped sum is one product a
layer, ``sum_i f_i d_i ⊗ x_i``. One forward and one backward pass through the activations serve both.

The d_i are taken for all examples at once, from the sum of their losses. That is right only where no example's loss
depends on another's row, so the layers are called from a list of those that are known to keep rows apart.

Source:
    Goodfellow, "Efficient per-example gradient computations" (2015), for the norms; Li et al., "Large language models
    can be strong differentially private learners" (ICLR 2022), for the name; Bu et al., "Differentially private
    optimization on large model at small cost" (ICML 2023), for the weighted product that needs no second pass.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional

from fedha.inputs import Form
from fedha.models.split import SplitModel
from fedha.privacy.clipping import factors
from fedha.privacy.loss import Loss
from fedha.privacy.moments import vanished

Named = Mapping[str, Tensor]

# Without parameters, and each row of what they give is made of that row alone. Dropout that draws is refused before
# (`beyond.refuse_beyond_examples`).
_ROWWISE = {
    *(nn.Identity, nn.Dropout, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Softplus),
    *(nn.Tanh, nn.Sigmoid),
}


def unsuited(model: SplitModel, parameters: Named, form: Form) -> str:
    """Why example gradients are not the outer products of activations that are found here; "" where they are.

    Args:
        model: Any.
        parameters: What is trained, by name.
        form: Of an example's inputs.
    """
    if not form.alone:
        return "an example has several inputs"
    if any(one._forward_hooks or one._forward_pre_hooks for one in model.modules()):
        return "the model has hooks, which may change what a layer gives"
    dimensions, linear = len(form.shapes[0]) + 1, set()
    for name, layer in _layers(model):
        if type(layer) is nn.Linear:
            if dimensions != 2:
                return f"layer {name!r} (Linear) is applied to more than one row an example"
            linear |= {f"{name}.{own}" for own, value in layer.named_parameters() if value.requires_grad}
            if layer.bias is not None and layer.bias.requires_grad and not layer.weight.requires_grad:
                return f"layer {name!r} (Linear) has a bias that is trained and a weight that is not"
        elif type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
            dimensions = 2
        elif type(layer) not in _ROWWISE:
            return f"layer {name!r} ({type(layer).__name__}) is neither linear nor known to keep rows apart"
    if others := linear ^ set(parameters):
        return f"parameters {sorted(others)} are not those of one linear layer each, trained with the rest"
    return ""


def add_clipped(total: Named, loss: Loss, parameters: Named, inputs: Tensor, labels: Tensor, clip: float) -> None:
    """Add a batch's clipped example gradients to the sums.

    Args:
        total: Like the parameters, in the precision to sum in; changed.
        loss: Of a model that is not `unsuited`.
        parameters: By name.
        inputs: [n, ...], n >= 1.
        labels: [n].
        clip: Largest norm that an example may add; may be infinite. One whose norm is not finite adds nothing.
    """
    layers = {
        name: (taken.to(total[f"{name}.weight"].dtype), slope.to(total[f"{name}.weight"].dtype))
        for name, (taken, slope) in _passes(loss, parameters, inputs, labels).items()
    }
    norms = [_norms(taken, slope, f"{name}.bias" in total) for name, (taken, slope) in layers.items()]
    out, weights = factors(torch.linalg.vector_norm(torch.stack(norms), dim=0), clip)
    for name, (taken, slope) in layers.items():
        if out is not None:
            taken, slope = taken.masked_fill(out[:, None], 0), slope.masked_fill(out[:, None], 0)
        weighted = slope * weights[:, None]
        total[f"{name}.weight"].addmm_(weighted.T, taken)
        if f"{name}.bias" in total:
            total[f"{name}.bias"].add_(weighted.sum(0))


def row_bytes(total: Named) -> int:
    """About what one example takes: twice the numbers that go into the layers and come out, in the sums' precision."""
    return sum(2 * sum(value.shape) * value.element_size() for value in total.values() if value.dim() == 2)


def _passes(loss: Loss, parameters: Named, inputs: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """By linear layer: x, [n, in], and d, [n, out]."""
    own = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    taken: dict[str, Tensor] = {}
    given: dict[str, GradientEdge] = {}

    def through(module: nn.Module, place: str, value: Tensor) -> Tensor:
        for name, layer in _layers(module, place):
            if type(layer) is nn.Linear and f"{name}.weight" in own:
                taken[name] = value.detach()
                bias = own.get(f"{name}.bias", layer.bias)
                value = functional.linear(value, own[f"{name}.weight"], bias)
                given[name] = get_gradient_edge(value)  # not the tensor, which an activation may change in place
            else:
                value = layer(value)
        return value

    with torch.enable_grad():
        features = through(loss.model.featurizer, "featurizer", inputs)
        losses = loss.of(features, through(loss.model.head, "head", features), labels)
    slopes = torch.autograd.grad(losses.sum(), list(given.values()))
    return {name: (taken[name], slope) for name, slope in zip(given, slopes, strict=True)}


def _norms(taken: Tensor, slope: Tensor, bias: bool) -> Tensor:
    """Of one layer's example gradients, [n], with what may have vanished of the squares: never too little."""
    squares = taken.square().sum(1)
    lost = [vanished(one.shape[1], one.dtype) for one in (slope, taken)]
    slopes = torch.linalg.vector_norm(slope, dim=1) + lost[0]
    norms: Tensor = slopes * ((squares + 1 if bias else squares).sqrt() + lost[1])
    return norms


def _layers(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """What a model calls one after the other, each as often as it is called."""
    if type(module) in (SplitModel, nn.Sequential):
        for own, child in module._modules.items():  # named_children would leave out what is called twice
            if child is not None:
                yield from _layers(child, f"{name}.{own}" if name else own)
    else:
        yield name, module
