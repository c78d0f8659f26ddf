"""The table of statistics: each is a row, and its row holds its functions."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fedha.statistic import Formula, Mean, Owner, Statistic

if TYPE_CHECKING:
    from torch import Tensor

    from fedha.measurement import Piece

Named = Mapping[str, Any]


def _own(name: str) -> "Callable[[Piece], Tensor]":
    """A function of the head's own kind, of `fedha.statistics` or `fedha.nonlinear`."""
    return lambda piece: piece.call(name)


def _small(name: str, statistic: str, advice: str) -> "Callable[[Piece], Tensor]":
    """As `_own`, for heads whose whole Hessian can be held."""

    def value(piece: "Piece") -> "Tensor":
        piece.refuse_large(statistic, advice)
        return piece.call(name)

    return value


def _hessian(statistic: str) -> "Callable[[Piece], Tensor]":
    return _small(statistic, statistic, "use hessian_diagonal or gradient_hessian_product")


def _probed(owner: Owner) -> "Callable[[Piece], Tensor]":
    return lambda piece: piece.probed(owner)


def _scalar(name: str) -> Callable[[Named, float], Any]:
    return lambda means, examples: means[name].reshape(())


def _covariance(means: Named, examples: float) -> Any:
    return _corrected(means["centred_square"], examples)


def _released_covariance(means: Named, examples: float) -> Any:
    square, mean = means["feature_square"], means["feature_mean"]
    # both triangles carry their own noise; their average is as good a matrix as any, with half of it
    return _corrected((square + square.T) / 2 - mean.T @ mean, examples)


def _corrected(square: Any, examples: float) -> Any:
    if examples < 2:
        raise ValueError(f"a covariance needs two examples or more, got {examples:g}; raise the batch size")
    return (examples / (examples - 1)) * square


def _energy(means: Named, examples: float) -> Any:
    full = means["whole_hessian"]
    return full.square().sum() - full.diagonal().square().sum()


def _variance(means: Named, examples: float) -> Any:
    return means["squared_gradient"] - means["gradient"].square()


def _one(classes: int, width: int) -> int:
    return 1


RISK = Mean("risk", _own("risk"), outer=lambda at: (at.losses, at.ones))
ACCURACY = Mean("accuracy", _own("accuracy"), outer=lambda at: (at.hits, at.ones))
GRADIENT = Mean("gradient", _own("gradient"), outer=lambda at: (at.residuals, at.features))
DIAGONAL = Mean(
    "hessian_diagonal",
    _own("hessian_diagonal"),
    outer=lambda at: (at.weights * (at.probabilities - at.probabilities * at.probabilities), at.squares),
)
POOLED_PRODUCT = Mean(
    "pooled_gradient_hessian_product",
    lambda piece: piece.call("hessian_vector_product", piece.around.references["gradient"]),
    outer=lambda at: (at.changes, at.features),
)
OWN_PRODUCT = Mean(
    "gradient_hessian_product",
    lambda piece: piece.call("hessian_vector_product", piece.directions["gradient"]),
    along=GRADIENT,
    symmetric=True,
)
SQUARED_GRADIENT = Mean(
    "squared_gradient", _own("squared_gradient"), outer=lambda at: (at.residuals.square(), at.squares)
)
SCALE_GRADIENT = Mean(
    "scale_gradient",
    _own("scale_gradient"),
    outer=lambda at: ((at.residuals * at.logits).sum(1, keepdim=True), at.ones),
)
FEATURE_MEAN = Mean("feature_mean", _own("feature_mean"), outer=lambda at: (at.ones, at.features[:, :-1]))
CENTRED_SQUARE = Mean(
    "centred_square", lambda piece: piece.call("feature_square", piece.directions["feature_mean"]), along=FEATURE_MEAN
)
FEATURE_SQUARE = Mean(
    "feature_square",
    lambda piece: piece.call("feature_square", piece.features.new_zeros(())),
    outer=lambda at: (at.features[:, :-1], at.features[:, :-1]),
)
FEATURE_SIZE = Mean("feature_size", lambda piece: piece.feature_size())
WHOLE_HESSIAN = Mean(
    "whole_hessian",
    _small(
        "hessian",
        "off_diagonal_energy",
        "with more examples than go through the network at once; give a smaller batch_size, raise training.chunk, or "
        "take another recipe",
    ),
)

_NO_PROBE = (
    "a probe's term is no outer product, and the probes add noise without adding privacy; align hessian_diagonal, "
    "their expectation, instead"
)
_NO_HESSIAN = "noise on (C D)^2 entries drowns it; align hessian_diagonal instead"


def _hutchinson(name: str, owner: Owner, whose: str) -> Statistic:
    return Statistic(
        name,
        (Mean(name, _probed(owner)),),
        summary=f"Hutchinson's diagonal, {whose} signs",
        order=2,
        signs=owner,
        unreleasable=_NO_PROBE,
        each=lambda space: space.probes * space.classes,
        once=lambda space: space.probes * space.weights,
        degree=2,
    )


def _whole(name: str, summary: str) -> Statistic:
    return Statistic(
        name,
        (Mean(name, _hessian(name)),),
        summary=summary,
        order=2,
        unreleasable=_NO_HESSIAN,
        once=lambda space: space.weights**2,
        size=lambda classes, width: (classes * width) ** 2,
        degree=2,
    )


def _of_gaussian(name: str, value: "Callable[[Piece], Tensor]", summary: str) -> Statistic:
    return Statistic(
        name,
        (Mean(name, value),),
        _scalar(name),
        summary=summary,
        unreleasable="nobody has bounded what one example's Gaussian adds; align feature_mean and feature_covariance "
        "instead (recipe coral)",
        size=_one,
        representation="gaussian",
    )


def _sampled(name: str, value: "Callable[[Piece], Tensor]", kernels: int, summary: str) -> Statistic:
    return Statistic(
        name,
        (Mean(name, value),),
        summary=summary,
        unreleasable="noise drowns its many entries; align feature_mean and feature_covariance instead (recipe coral)",
        each=lambda space: 4 * kernels * space.probes,
        once=lambda space: kernels * space.probes * space.width,
        size=lambda classes, width: 2 * kernels,
        sampled=True,
    )


_ROWS = (
    Statistic("risk", (RISK,), _scalar("risk"), summary="mean negative log-likelihood", size=_one),
    Statistic("gradient", (GRADIENT,), summary="head gradient", order=1, degree=1),
    Statistic(
        "hessian_diagonal",
        (DIAGONAL,),
        summary="exact Hessian diagonal",
        order=2,
        once=lambda space: space.weights if space.closed else 256 * space.weights,
        degree=2,
    ),
    Statistic(
        "gradient_hessian_product",
        (GRADIENT, OWN_PRODUCT),
        lambda means, examples: means["gradient_hessian_product"],
        summary="Hessian times gradient",
        order=2,
        reference="pooled_gradient_hessian_product",
        needs=("gradient",),
        local="pooled_gradient_hessian_product",
        at_once=_own("gradient_hessian_product"),
        unreleasable="the product of two means is no mean over examples; "
        "align pooled_gradient_hessian_product, the Hessian times the pooled gradient, instead",
        degree=3,
    ),
    Statistic(
        "pooled_gradient_hessian_product",
        (POOLED_PRODUCT,),
        summary="Hessian times the mean gradient",
        order=2,
        needs=("gradient",),
        degree=3,
    ),
    _hutchinson("hutchinson_diagonal", "client", "a client's own"),
    _hutchinson("hutchinson_diagonal_shared", "round", "the round's"),
    _whole("hessian", "whole Hessian"),
    _whole("hessian_off_diagonal", "off-diagonal Hessian"),
    Statistic(
        "off_diagonal_energy",
        (WHOLE_HESSIAN,),
        _energy,
        summary="size of the off-diagonal Hessian",
        order=2,
        at_once=_own("off_diagonal_energy"),
        unreleasable="it is quadratic in the whole Hessian, whose entries noise would drown; "
        "align hessian_diagonal instead",
        once=lambda space: min(space.rows, space.weights) ** 2 if space.closed else 256 * space.weights,
        size=_one,
        degree=4,
    ),
    Statistic(
        "gradient_variance",
        (GRADIENT, SQUARED_GRADIENT),
        _variance,
        summary="variance of example gradients",
        order=1,
        at_once=_own("gradient_variance"),
        each=lambda space: 0 if space.closed else space.weights,
        degree=2,
    ),
    Statistic(
        "feature_mean",
        (FEATURE_MEAN,),
        lambda means, examples: means["feature_mean"].reshape(-1),
        summary="feature mean",
        size=lambda classes, width: width - 1,
        degree=1,
    ),
    Statistic(
        "feature_covariance",
        (FEATURE_MEAN, CENTRED_SQUARE),
        _covariance,
        summary="feature covariance",
        least_examples=2,
        at_once=_own("feature_covariance"),
        released=Formula((FEATURE_MEAN, FEATURE_SQUARE), _released_covariance),
        once=lambda space: space.width**2,
        size=lambda classes, width: (width - 1) ** 2,
        degree=2,
    ),
    _sampled("random_features", lambda piece: piece.random_features("representation"), 4, "random Fourier features"),
    _sampled("risk_distribution", lambda piece: piece.random_features("losses"), 5, "random features of losses"),
    _of_gaussian("representation_norm", lambda piece: piece.gaussian_norm(), "squared norm of a draw"),
    _of_gaussian("conditional_information", lambda piece: piece.gaussian_information(), "information beyond the class"),
    Statistic(
        "scale_gradient",
        (SCALE_GRADIENT,),
        _scalar("scale_gradient"),
        summary="derivative in a dummy scale",
        order=1,
        size=_one,
    ),
)

STATISTICS: Mapping[str, Statistic] = {row.name: row for row in _ROWS}

# What is measured and never aligned: it has no derivative, or is what distances are measured in.
COUNTED: Mapping[str, Statistic] = {
    "accuracy": Statistic("accuracy", (ACCURACY,), _scalar("accuracy"), size=_one),
    "feature_size": Statistic(
        "feature_size",
        (FEATURE_SIZE,),
        unreleasable="it is what distances are divided by, and noise could make that nothing; set recipe.units: raw",
        size=lambda classes, width: 2,
        degree=2,
    ),
}
