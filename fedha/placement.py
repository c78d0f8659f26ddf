"""Examples where a network computes: on its device, in its precision, and whole numbers as it takes them."""

from dataclasses import replace

from torch import Tensor

from fedha.data.domain import Domain
from fedha.data.examples import Examples, Placement
from fedha.models.check import takes
from fedha.models.split import SplitModel


def placed(examples: Examples, model: SplitModel, like: Tensor | None = None) -> Examples:
    """Examples for a network.

    Whole numbers reach it as int64 where it takes them so (it begins with an embedding, a one-hot, …), else in its
    precision. Pixels that are divided by their range are none.

    Args:
        examples: As they are kept; tensors that are there already are not copied.
        model: The network.
        like: A parameter that it is used with; None: its own.
    """
    like = next(model.parameters()) if like is None else like
    there = examples.to(Placement(like.device, like.dtype, integers=True))
    if all(kind.is_floating_point for kind in there.form.kinds) or takes(model, there.form):
        return there
    return examples.to(Placement(like.device, like.dtype))


def placed_domain(domain: Domain, model: SplitModel) -> Domain:
    """Both parts of a domain; arguments as in `placed`."""
    return replace(domain, train=placed(domain.train, model), held_out=placed(domain.held_out, model))
