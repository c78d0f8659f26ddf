"""Which statistics can be sent with example-level privacy, and how each is made of moments.

A statistic that is a function of means over examples is computed from their released, noisy means: what is computed
from a release costs no privacy. Those that are no such function are refused, each with its reason.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from fedha.errors import FedhaError
from fedha.recipes import Recipe
from fedha.registry import known, statistic
from fedha.statistic import Formula


def required(statistics: Iterable[str]) -> tuple[str, ...]:
    """The moments that must be released so that these statistics can be made.

    Args:
        statistics: As in `fedha.registry.statistic`.

    Raises:
        FedhaError: A statistic is no function of means over examples that could be clipped; says why and what instead.
    """
    return tuple(dict.fromkeys(mean.name for name in statistics for mean in _release(name).means))


def private_exchanges(recipe: Recipe) -> tuple[tuple[str, ...], ...]:
    """The statistics that each of a round's releases holds, in order: one release an exchange.

    They are `Recipe.measurements` and, with the first of them, what else is made of the data: the statistics of terms
    whose target is zero (nobody averages those, but the pull towards zero is made of the client's own value, which must
    be a noisy one too, see `fedha.privacy.surrogate`), and the risk where the server weighs clients by it.

    Raises:
        FedhaError: A term's own statistic, or its reference, cannot be released.
    """
    required(term.statistic for term in recipe.terms if term.weight > 0)
    first, *later = recipe.measurements() or ((),)
    own = [term.statistic for term in recipe.terms if term.target == "zero" and term.weight > 0]
    weighed = ["risk"] if recipe.weighting == "risk" else []
    groups = [group for group in (tuple(dict.fromkeys([*first, *own, *weighed])), *later) if group]
    required(name for group in groups for name in group)
    return tuple(groups)


def derive(name: str, means: Mapping[str, Tensor], examples: float) -> Tensor:
    """A statistic from the means of its moments, released or plain; differentiable in them.

    Args:
        name: The statistic's.
        means: By moment, [U, V] each.
        examples: n, the public number that the means were divided by.

    Returns:
        The shape that `fedha.statistics` gives it.

    Raises:
        ValueError: A covariance of fewer than two examples.
    """
    return _release(name).derive(means, examples)


def releasable() -> tuple[str, ...]:
    """The statistics that can be aligned where every example is protected."""
    return tuple(name for name in known() if statistic(name).release is not None)


def _release(name: str) -> Formula:
    row = statistic(name)
    if row.release is None:
        raise FedhaError(
            f"statistic {name!r} cannot be sent with example-level privacy: {row.refusal}; those that can are "
            f"{', '.join(releasable())}"
        )
    return row.release
