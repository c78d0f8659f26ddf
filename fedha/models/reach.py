"""What a network's structure alone decides: which parameters its output is made of, and whether vmap can take it.

Found on inputs of ones, so that nothing is told of any example, and every client finds the same.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from fedha.inputs import Form, Inputs, each
from fedha.models.random_layers import kept_apart, untouched
from fedha.models.split import SplitModel
from fedha.models.state import trained_parameters


def unreached(model: SplitModel, form: Form | Sequence[int]) -> tuple[str, ...]:
    """The trained parameters that no loss can move, such as a pooler's that nothing reads behind; in the model's order.

    Args:
        model: Any.
        form: Of its inputs, or the shape of one.

    Raises:
        Exception: What the network raises for such inputs.
    """
    return _unreached(model, Form.of(form, next(model.parameters()).dtype))


@lru_cache(maxsize=8)
def _unreached(model: SplitModel, form: Form) -> tuple[str, ...]:
    own = {name: value.requires_grad_() for name, value in trained_parameters(model).items()}
    device = next(iter(own.values())).device
    inputs = form.ones(2, device=device)
    with torch.enable_grad(), untouched(device):
        logits: Tensor = functional_call(model, own | kept_apart(model), (inputs,))
    slopes = torch.autograd.grad(logits.sum(), list(own.values()), allow_unused=True)
    return tuple(name for name, slope in zip(own, slopes, strict=True) if slope is None)


def stackable(model: SplitModel, form: Form | Sequence[int]) -> bool:
    """Whether ``vmap(grad(...))`` can take the network; some layers, such as nn.GRU, have no rule for it."""
    return _stackable(model, Form.of(form, next(model.parameters()).dtype))


@lru_cache(maxsize=8)
def _stackable(model: SplitModel, form: Form) -> bool:
    own = trained_parameters(model)
    device = next(iter(own.values())).device
    inputs = form.ones(2, device=device)

    def alone(parameters: dict[str, Tensor], example: Inputs) -> Tensor:
        state = parameters | kept_apart(model)
        total: Tensor = functional_call(model, state, (each(lambda one: one[None], example),)).sum()
        return total

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of rules that are slow, where others are missing
            with untouched(device):
                vmap(grad(alone), in_dims=(None, 0))(own, inputs)
    except RuntimeError:  # what torch raises where a rule is missing
        return False
    return True
