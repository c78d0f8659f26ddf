"""Which statistics can be sent with example-level privacy, and how each is made of moments.

A statistic that is a function of means over examples is computed from their released, noisy means: what is computed
from a release costs no privacy. Those that are no such function are refused, each with its reason.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from fedha.errors import FedhaError
from fedha.recipes import UNRELEASABLE, Recipe


@dataclass(frozen=True)
class Releasable:
    """How a statistic comes from moments.

    Attributes:
        moments: Keys of `MOMENTS`.
        value: The function of their means and of n.
    """

    moments: tuple[str, ...]
    value: Callable[[Mapping[str, Tensor], float], Tensor]


def required(statistics: Iterable[str]) -> tuple[str, ...]:
    """The moments that must be released so that these statistics can be made.

    Args:
        statistics: Names as in `fedha.recipes.STATISTICS`, or of a reference there.

    Raises:
        FedhaError: A statistic is no function of means over examples that could be clipped; says why and what instead.
    """
    wanted = list(statistics)
    for name in wanted:
        if name not in RELEASABLE:
            raise FedhaError(
                f"statistic {name!r} cannot be sent with example-level privacy: "
                f"{UNRELEASABLE.get(name, 'nobody has bounded what one example adds to it')}; "
                f"those that can are {', '.join(RELEASABLE)}"
            )
    return tuple(dict.fromkeys(moment for name in wanted for moment in RELEASABLE[name].moments))


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


def derive(statistic: str, means: Mapping[str, Tensor], examples: float) -> Tensor:
    """A statistic from the means of its moments, released or plain; differentiable in them.

    Args:
        statistic: A key of `RELEASABLE`.
        means: By moment, [U, V] each.
        examples: n, the public number that the means were divided by.

    Returns:
        The shape that `fedha.statistics` gives it.

    Raises:
        ValueError: A covariance of fewer than two examples.
    """
    return RELEASABLE[statistic].value(means, examples)


def _covariance(means: Mapping[str, Tensor], examples: float) -> Tensor:
    if examples < 2:
        raise ValueError(f"a covariance needs two examples or more, got {examples:g}; raise the batch size")
    square, mean = means["feature_square"], means["feature_mean"]
    # both triangles carry their own noise; their average is as good a matrix as any, with half of it
    return (examples / (examples - 1)) * ((square + square.T) / 2 - mean.T @ mean)


RELEASABLE: Mapping[str, Releasable] = {
    "risk": Releasable(("risk",), lambda means, _: means["risk"].reshape(())),
    "accuracy": Releasable(("accuracy",), lambda means, _: means["accuracy"].reshape(())),
    "gradient": Releasable(("gradient",), lambda means, _: means["gradient"]),
    "hessian_diagonal": Releasable(("hessian_diagonal",), lambda means, _: means["hessian_diagonal"]),
    "pooled_gradient_hessian_product": Releasable(
        ("pooled_gradient_hessian_product",), lambda means, _: means["pooled_gradient_hessian_product"]
    ),
    "gradient_variance": Releasable(
        ("gradient", "squared_gradient"), lambda means, _: means["squared_gradient"] - means["gradient"].square()
    ),
    "scale_gradient": Releasable(("scale_gradient",), lambda means, _: means["scale_gradient"].reshape(())),
    "feature_mean": Releasable(("feature_mean",), lambda means, _: means["feature_mean"].reshape(-1)),
    "feature_covariance": Releasable(("feature_mean", "feature_square"), _covariance),
}
