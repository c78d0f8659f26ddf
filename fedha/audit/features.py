"""Features read off a release: exact for one example, class means and second moments for many."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedha.audit.label_counts import normalized

OUTER_PRODUCTS = ("gradient", "pooled_gradient_hessian_product", "gradient_hessian_product")
"""Statistics that are means of (a vector over the classes) times the features: with one example, of rank one."""


def exact_feature(statistic: Tensor) -> Tensor:
    """The feature of the only example: every row of ``a z^T`` is z times a number, and z ends with a one.

    Args:
        statistic: One of `OUTER_PRODUCTS` or an update's head, of one example, [C, D].

    Returns:
        [D - 1]: the row with the largest bias entry, divided by it; not finite where every bias entry is zero.

    Source:
        Phong et al. (2018) for a network's first layer; the head is one whose inputs are the features.
    """
    row = statistic[statistic[:, -1].abs().argmax()]
    return row[:-1] / row[-1]


def second_moments(hessian_diagonal: Tensor) -> Tensor:
    """Mean squares of the features, each example weighed by its ``sum_c p_c (1 - p_c)``; exact for one example.

    Args:
        hessian_diagonal: [C, D].

    Returns:
        [D - 1], not negative: the columns' sums divided by the bias column's. Noise that made one negative is zero.
    """
    columns = hessian_diagonal.sum(0)
    return (columns[:-1] / columns[-1]).nan_to_num(0.0, 0.0, 0.0).clamp(min=0)


def class_means(gradient: Tensor, probabilities: Tensor, distribution: Tensor, mean: Tensor) -> Tensor:
    """Mean feature of each class.

    Row c of the gradient is ``mean(p_c z) - share_c * mean of class c``. Where the prediction hardly varies,
    ``mean(p_c z)`` is ``q_c * mean``, which leaves the class's mean.

    Args:
        gradient: [C, D], or [1, D] for one logit.
        probabilities: Mean prediction q, [C], two for one logit.
        distribution: Share of each class, [C], two for one logit.
        mean: Mean feature, as sent or as the root of the second moments, [D - 1].

    Returns:
        [C, D - 1], two rows for one logit; NaN for a class without examples.
    """
    rows = gradient[:, :-1]
    if len(gradient) == 1:
        rows = torch.cat([-rows, rows])
    sums = probabilities.to(rows)[:, None] * mean.to(rows) - rows
    shares = distribution.to(rows)[:, None]
    return torch.where(shares > 0, sums / shares, torch.nan)


def true_class_means(features: Tensor, labels: Tensor, weights: Tensor, classes: int) -> Tensor:
    """The weighted mean feature of each class, [C, D - 1]; NaN for a class without examples.

    Args:
        features: Without the column of ones, [n, D - 1].
        labels: [n].
        weights: Of each example in the release, [n].
        classes: C, two for one logit.
    """
    weight = weights.to(features)
    sums = features.new_zeros(classes, features.shape[1]).index_add(0, labels, weight[:, None] * features)
    shares = features.new_zeros(classes).index_add(0, labels, weight)[:, None]
    return torch.where(shares > 0, sums / shares, torch.nan)


def cosine(estimate: Tensor, truth: Tensor, weights: Tensor | None = None) -> float:
    """Cosine similarity, the mean over rows where there are several; a row that was not estimated counts as 0.

    Args:
        estimate: [D] or [k, D].
        truth: Of that shape; rows that are not finite (empty classes) are left out.
        weights: Of the rows, [k]; None: alike.
    """
    return _over_rows(torch.nn.functional.cosine_similarity, estimate, truth, weights)


def relative_error(estimate: Tensor, truth: Tensor, weights: Tensor | None = None) -> float:
    """``|estimate - truth| / |truth|``, the mean over rows; a row that was not estimated counts as 1."""

    def ratio(one: Tensor, other: Tensor, dim: int) -> Tensor:
        found: Tensor = (one - other).norm(dim=dim) / other.norm(dim=dim).clamp(min=1e-30)
        return found

    return _over_rows(ratio, estimate, truth, weights)


def _over_rows(measure: Callable[..., Tensor], estimate: Tensor, truth: Tensor, weights: Tensor | None) -> float:
    estimate, truth = estimate.double().reshape(-1, estimate.shape[-1]), truth.double().reshape(-1, truth.shape[-1])
    there = truth.isfinite().all(1)
    known = torch.where(estimate.isfinite().all(1, keepdim=True), estimate, 0.0)
    share = normalized(torch.ones(len(truth)) if weights is None else weights.double())[there]
    return float((measure(known[there], truth[there], dim=1) * share).sum() / share.sum())
