"""A network at given parameters, seen from outside: features and logits."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import functional_call

from fedha.models.split import SplitModel, with_bias
from fedha.pieces import in_pieces


def features_of(model: SplitModel, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Features with the column of ones, [n, D]; differentiable in inputs and parameters."""
    own = {k.removeprefix("featurizer."): v for k, v in parameters.items() if k.startswith("featurizer.")}
    return with_bias(functional_call(model.featurizer, own, (inputs,)))


def logits_of(model: SplitModel, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Logits, [n, C], without a graph."""
    return in_pieces(model, model, parameters, inputs)


def precision(state: Mapping[str, Tensor]) -> torch.dtype:
    """Of a network's numbers, some of whose buffers may be whole."""
    return next(value.dtype for value in state.values() if value.is_floating_point())
