"""Statistics of one domain as weighted sums over its examples: whole domains, classes and random halves alike.

A function here takes a sample and weights, [S, n], and gives S statistics, [S, k]: with 1/n for every example the mean,
with the members of a class alone the mean in the class. Everything else, chance levels and the parts of a difference,
is arithmetic on what these return.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedha.diagnosis.sample import Sample
from fedha.randomness import generator

Sums = Callable[[Sample, Tensor], Tensor]

SIGNS = 16  # shared directions that lengths of large matrices are estimated along


@dataclass(frozen=True)
class Directions:
    """Directions that all domains share.

    Attributes:
        probes: Of head space, [m, C, D]; random signs, for the length of a Hessian.
        along: One unit direction of head space, [C, D]: the pooled gradient's.
        axes: Of feature space, [k, D - 1]; every one of them, or random signs for the length of a covariance.
        exact: Whether the axes are every one of them.
    """

    probes: Tensor
    along: Tensor
    axes: Tensor
    exact: bool


def labels(sample: Sample, weights: Tensor) -> Tensor:
    """Shares of the classes, [S, classes]."""
    return weights @ _one_hot(sample)


def risks(sample: Sample, weights: Tensor) -> Tensor:
    """Risk, [S, 1]."""
    return weights @ _at_labels(sample)[0][:, None]


def hits(sample: Sample, weights: Tensor) -> Tensor:
    """Accuracy, [S, 1]."""
    return weights @ _at_labels(sample)[1][:, None]


def feature_means(sample: Sample, weights: Tensor) -> Tensor:
    """Means of the features without the bias column, [S, D - 1]."""
    return weights @ sample.features[:, :-1]


def errors(sample: Sample, weights: Tensor) -> Tensor:
    """Predicted mass minus label share, of each class, [S, C]: zero where the head is calibrated in the large."""
    return weights @ _residuals(sample)


def confidences(sample: Sample, weights: Tensor) -> Tensor:
    """Largest probability, sum of squares, and entropy of the predictions, [S, 3]."""
    known = sample.probabilities()
    if known.shape[1] == 1:
        known = torch.cat([1 - known, known], 1)
    entropy = torch.special.entr(known).sum(1)
    return weights @ torch.stack([known.amax(1), (known**2).sum(1), entropy], 1)


def gradients(sample: Sample, weights: Tensor) -> Tensor:
    """Gradients of the risk in the head, [S, C D]."""
    return _outer_sums(_residuals(sample), sample.features, weights)


def diagonals(sample: Sample, weights: Tensor) -> Tensor:
    """Diagonals of the Hessian in the head, [S, C D]."""
    known = sample.probabilities()
    return _outer_sums(known * (1 - known), sample.features, weights, square=True)


def gradient_squares(sample: Sample, weights: Tensor) -> Tensor:
    """Squares of the examples' gradients in the head, [S, C D]."""
    return _outer_sums(_residuals(sample) ** 2, sample.features, weights, square=True)


def products(directions: Tensor) -> Sums:
    """Products of the Hessian with directions, [m, C, D]: [S, m C D]."""

    def made(sample: Sample, weights: Tensor) -> Tensor:
        count, several = len(weights), len(directions)
        total = directions.new_zeros(count, *directions.shape)
        flat = directions.flatten(0, 1)
        for rows in sample.rows(count * len(flat)):
            features, known = sample.features[rows], sample.probabilities(rows)[:, None]
            moved = (features @ flat.T).view(len(features), several, -1)
            inner = (
                known * (1 - known) * moved if known.shape[-1] == 1 else known * (moved - (known * moved).sum(-1, True))
            )
            weighted = weights[:, rows, None, None] * inner
            total += (weighted.transpose(0, 1).reshape(len(features), -1).T @ features).view_as(total)
        return total.flatten(1)

    return made


def moments(axes: Tensor) -> Sums:
    """Means of the features, and of ``z (z a)`` along axes, [k, D - 1]: [S, (k + 1)(D - 1)]."""

    def made(sample: Sample, weights: Tensor) -> Tensor:
        features = sample.features[:, :-1]
        means = weights @ features
        seconds = []
        for some in weights:
            total = axes.new_zeros(axes.shape)
            for rows in sample.rows(len(axes)):
                own = features[rows]
                total += (own @ axes.T * some[rows, None]).T @ own
            seconds.append(total.flatten())
        return torch.cat([means, torch.stack(seconds)], 1)

    return made


def class_means(sample: Sample, weights: Tensor) -> Tensor:
    """Shares of the classes, and the means of the features times them: [S, classes D]."""
    members = _one_hot(sample)
    joined = torch.cat([members.new_ones(len(sample), 1), sample.features[:, :-1]], 1)
    return _outer_sums(members, joined, weights)


def shared_directions(samples: Sequence[Sample], seed: int, whole_axes: int = 64) -> Directions:
    """The directions of a diagnosis, the same for every domain.

    Args:
        samples: The sources, whose mean gradient is one of them.
        seed: Of the signs.
        whole_axes: Features up to which covariances are taken whole.
    """
    outputs, width = samples[0].head.shape
    probes = _signs((SIGNS, outputs, width), seed, "probes")
    mean = torch.stack([gradients(one, one.head.new_full((1, len(one)), 1 / len(one)))[0] for one in samples]).mean(0)
    along = (mean / mean.norm().clamp_min(1e-300)).view(outputs, width)
    exact = width - 1 <= whole_axes
    axes = torch.eye(width - 1, dtype=torch.float64) if exact else _signs((SIGNS, width - 1), seed, "axes")
    return Directions(probes, along, axes, exact)


def _signs(shape: tuple[int, ...], seed: int, purpose: str) -> Tensor:
    drawn = torch.randint(2, shape, generator=generator(seed, "diagnosis", purpose))
    return drawn.double() * 2 - 1


def _one_hot(sample: Sample) -> Tensor:
    return functional.one_hot(sample.labels, sample.classes).to(sample.features.dtype)


def _residuals(sample: Sample) -> Tensor:
    known = sample.probabilities()
    if known.shape[1] == 1:
        return known - sample.labels[:, None].to(known.dtype)
    return known - functional.one_hot(sample.labels, known.shape[1]).to(known.dtype)


def _at_labels(sample: Sample) -> tuple[Tensor, Tensor]:
    """Losses and hits of the learned head, [n] each."""
    logits = sample.features @ sample.head.T
    if logits.shape[1] == 1:
        single, target = logits[:, 0], sample.labels.to(logits.dtype)
        return functional.softplus(single) - target * single, ((single > 0) == (target > 0.5)).to(logits.dtype)
    losses = functional.cross_entropy(logits, sample.labels, reduction="none")
    return losses, (logits.argmax(1) == sample.labels).to(logits.dtype)


def _outer_sums(left: Tensor, right: Tensor, weights: Tensor, *, square: bool = False) -> Tensor:
    """Weighted sums of ``left right^T`` over the examples, [S, c d], in stretches of rows."""
    count, columns = len(weights), left.shape[1]
    total = left.new_zeros(count * columns, right.shape[1])
    step = max(256, 2**20 // max(count * columns, right.shape[1]))
    for start in range(0, len(left), step):
        rows = slice(start, start + step)
        other = right[rows] ** 2 if square else right[rows]
        weighted = (weights[:, rows].T[:, :, None] * left[rows, None, :]).reshape(len(other), -1)
        total.addmm_(weighted.T, other)
    return total.view(count, -1)
