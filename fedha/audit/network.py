"""A network at given parameters, seen from outside: features, logits, loss."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from fedha.models.split import SplitModel, with_bias


def features_of(model: SplitModel, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Features with the column of ones, [n, D]; differentiable in inputs and parameters."""
    own = {k.removeprefix("featurizer."): v for k, v in parameters.items() if k.startswith("featurizer.")}
    return with_bias(functional_call(model.featurizer, own, (inputs,)))


def logits_of(model: SplitModel, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Logits, [n, C], in chunks and without a graph."""
    with torch.no_grad():
        return torch.cat([functional_call(model, dict(parameters), (part,)) for part in inputs.split(4096)])


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each label, [n], from [n, C] or from one logit, [n, 1]."""
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype), reduction="none")
    return functional.cross_entropy(logits, labels, reduction="none")
