"""Statistics as functions of means over examples, which is what lets them be taken in pieces.

A mean of a batch is the mean of its pieces' means, weighed by their rows. Where a statistic is ``s = derive(means)``, a
penalty ``P(s)`` has in the network's parameters the gradient of ``<pull, means>`` with the constant
``pull = dP / d means``: each piece of the batch adds its part. n examples, C classes, D features.

Two statistics are two means deep. A covariance is the mean around the mean, whose own derivative vanishes there. HGP's
``H g`` is the Hessian along the batch's own gradient: with u the pull on it, ``d <u, H g> = <u, dH g> + <H u, dg>``,
and as H is symmetric, ``H u`` is one more such mean, which joins g's pull.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedha import statistics
from fedha.errors import FedhaError
from fedha.measurement import LARGEST_HESSIAN, Circumstances, HeadView, measure, refuse_chance
from fedha.pieces import Batch

Named = Mapping[str, Tensor]


@dataclass(frozen=True)
class Piece:
    """Some rows of a batch, at a head.

    Attributes:
        view: The head.
        features: The view's prepared features, [n, D].
        labels: Class indices, [n].
        around: Signs, and references of earlier exchanges.
        directions: Means of the whole batch along which others are taken.
    """

    view: HeadView
    features: Tensor
    labels: Tensor
    around: Circumstances
    directions: Named = field(default_factory=dict)

    def mean(self, name: str) -> Tensor:
        """One of the means that formulas name."""
        return MEANS[name](self) if name in MEANS else self.measure(name)

    def measure(self, name: str) -> Tensor:
        """A statistic of these rows."""
        return measure(name, self.view, self.features, self.labels, self.around)

    def call(self, name: str, *extra: Tensor) -> Tensor:
        """A function of the head's own kind, `fedha.statistics` or `fedha.nonlinear`, on these rows."""
        refuse_chance(name, self.view)
        value: Tensor = getattr(self.view.functions, name)(*self.view.arguments, self.features, self.labels, *extra)
        return value


def _whole_hessian(piece: Piece) -> Tensor:
    if torch.Size(piece.view.shape).numel() > LARGEST_HESSIAN:
        raise FedhaError(
            "statistic 'off_diagonal_energy' of a head this large needs all examples of a batch in one piece; give a "
            "smaller batch_size, raise training.chunk, or take another recipe"
        )
    return piece.measure("hessian")


# Statistics that are means themselves are measured by their own names; these are the others.
MEANS: Mapping[str, Callable[[Piece], Tensor]] = {
    "gradient_hessian_product": lambda piece: piece.call("hessian_vector_product", piece.directions["gradient"]),
    "squared_gradient": lambda piece: piece.call("squared_gradient"),
    "feature_square": lambda piece: piece.call("feature_square", piece.directions["feature_mean"]),
    "whole_hessian": _whole_hessian,
}

# Means that are taken along, or around, another one, which must be whole before.
AFTER: Mapping[str, str] = {"gradient_hessian_product": "gradient", "feature_square": "feature_mean"}


@dataclass(frozen=True)
class Formula:
    """How a statistic comes from means.

    Attributes:
        means: Their names.
        derive: The function of them, and of n. A mean of two axes that stands for fewer is cut to its shape.
    """

    means: tuple[str, ...]
    derive: Callable[[Named, float], Tensor]


def mean_of(name: str) -> Formula:
    """The formula of a statistic that is a mean over examples."""
    return Formula((name,), lambda means, _: means[name])


def _scalar(name: str) -> Formula:
    return Formula((name,), lambda means, _: means[name].reshape(()))


def _covariance(means: Named, examples: float) -> Tensor:
    if examples < 2:
        raise ValueError(f"a covariance needs two examples or more, got {examples:g}; raise the batch size")
    return (examples / (examples - 1)) * means["feature_square"]


def _off_diagonal_energy(means: Named, examples: float) -> Tensor:
    full = means["whole_hessian"]
    return full.square().sum() - full.diagonal().square().sum()


FORMULAS: Mapping[str, Formula] = {
    "risk": _scalar("risk"),
    "accuracy": _scalar("accuracy"),
    "gradient": mean_of("gradient"),
    "hessian_diagonal": mean_of("hessian_diagonal"),
    "pooled_gradient_hessian_product": mean_of("pooled_gradient_hessian_product"),
    "gradient_hessian_product": Formula(
        ("gradient", "gradient_hessian_product"), lambda means, _: means["gradient_hessian_product"]
    ),
    "hutchinson_diagonal": mean_of("hutchinson_diagonal"),
    "hutchinson_diagonal_shared": mean_of("hutchinson_diagonal_shared"),
    "hessian": mean_of("hessian"),
    "hessian_off_diagonal": mean_of("hessian_off_diagonal"),
    "off_diagonal_energy": Formula(("whole_hessian",), _off_diagonal_energy),
    "gradient_variance": Formula(
        ("gradient", "squared_gradient"), lambda means, _: means["squared_gradient"] - means["gradient"].square()
    ),
    "scale_gradient": _scalar("scale_gradient"),
    "feature_mean": Formula(("feature_mean",), lambda means, _: means["feature_mean"].reshape(-1)),
    "feature_covariance": Formula(("feature_mean", "feature_square"), _covariance),
}


def means_of(batch: Batch, wanted: Iterable[str], around: Circumstances) -> dict[str, Tensor]:
    """The means that some statistics of a batch are made of, without a graph.

    Args:
        batch: Of n rows, n >= 1.
        wanted: Statistics, keys of `FORMULAS`.
        around: Signs, and references of earlier exchanges.

    Raises:
        FedhaError: A statistic is too large for this head.
    """
    names = list(dict.fromkeys(mean for name in wanted for mean in FORMULAS[name].means))
    first = _merged(batch, [name for name in names if name not in AFTER], around, {})
    return first | _merged(batch, [name for name in names if name in AFTER], around, first)


def derived(wanted: Iterable[str], means: Named, examples: int) -> dict[str, Tensor]:
    """Statistics of a batch of n examples from its means, differentiable in them."""
    return {name: FORMULAS[name].derive(means, examples) for name in wanted}


def curvature_along(batch: Batch, direction: Tensor, around: Circumstances) -> Tensor:
    """The batch's Hessian times a direction in head space, shaped like it."""
    return _merged(batch, ["gradient_hessian_product"], around, {"gradient": direction})["gradient_hessian_product"]


def _merged(batch: Batch, names: Iterable[str], around: Circumstances, directions: Named) -> dict[str, Tensor]:
    names = list(names)
    total: dict[str, Tensor] = {}
    for seen in batch.measured() if names else ():
        piece = Piece(seen.view, seen.features, seen.labels, around, directions)
        with torch.no_grad(), statistics.shared():
            for name in names:
                value = piece.mean(name) * seen.share
                total[name] = total[name].add_(value) if name in total else value
    return total
