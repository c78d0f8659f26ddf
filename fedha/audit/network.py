"""A network at given parameters, seen from outside: features and logits."""

from collections.abc import Mapping

from torch import Tensor
from torch.func import functional_call

from fedha.data.examples import Examples
from fedha.models.split import SplitModel, with_bias
from fedha.pieces import in_pieces
from fedha.placement import placed


def features_of(model: SplitModel, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Features with the column of ones, [n, D]; differentiable in inputs and parameters."""
    own = {k.removeprefix("featurizer."): v for k, v in parameters.items() if k.startswith("featurizer.")}
    return with_bias(functional_call(model.featurizer, own, (inputs,)))


def features_at(model: SplitModel, parameters: Mapping[str, Tensor], examples: Examples) -> Tensor:
    """The same without a graph, in the parameters' precision, a piece at a time."""
    own = {k.removeprefix("featurizer."): v for k, v in parameters.items() if k.startswith("featurizer.")}
    return with_bias(in_pieces(model, model.featurizer, own, placed(examples, model, some_of(parameters))))


def logits_of(model: SplitModel, parameters: Mapping[str, Tensor], examples: Examples) -> Tensor:
    """Logits, [n, C], without a graph, in the parameters' precision."""
    return in_pieces(model, model, parameters, placed(examples, model, some_of(parameters)))


def some_of(parameters: Mapping[str, Tensor]) -> Tensor:
    """One of a network's tensors, in its precision: some of its buffers may be whole numbers."""
    return next(value for value in parameters.values() if value.is_floating_point())
