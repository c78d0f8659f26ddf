"""Statistics of one domain at one model: the closed forms for a linear head.

Every function takes ``(head [C, D], features [n, D], labels [n])`` and returns a tensor; what `risk` says of arguments
and errors holds for all of them. All are differentiable through the features (and the head), so that one backward pass
trains the backbone. n examples, C classes, D features with the bias column last. A head with one row is the binary
logistic head: its single logit speaks for class 1, and the same formulas hold with ``p = sigmoid(z w)``. In the place
of labels there may be soft targets, [n, C] (`fedha.targets`): with the weight ``w = sum_c t_c`` residuals ``p - y`` are
``w p - t``, and what the Hessian is made of has the factor w. Inside `fedha.cross_entropy.shared`, statistics of the
same tensors reuse each other's products.
"""

import torch
from torch import Tensor

from fedha.cross_entropy import (
    changes,
    check,
    hits,
    is_soft,
    logits,
    mean_loss,
    once,
    probabilities,
    residuals,
    weighed,
)
from fedha.cross_entropy import shared as shared  # statistics of one batch, computed together


def risk(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels.

    Args:
        head: Weights, [C, D].
        features: Features with a last column of ones, [n, D], n >= 1.
        labels: Class indices, [n].

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: features and head disagree on D, n == 0, or labels have another length.

    Source:
        V-REx (Krueger et al., ICML 2021) and group DRO (Sagawa et al., ICLR 2020) work on it.
    """
    return mean_loss(logits(head, features, labels), labels)


@once
def gradient(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the risk in the head: ``mean((p - y) z^T)``.

    Returns:
        [C, D], in nats per unit weight.

    Source:
        Differentiate softmax cross-entropy; aligned by IGA, Fish, HGP, Hutchinson, CMA and FedIIR.
    """
    return (residuals(head, features, labels) / len(features)).T @ features


def hessian_diagonal(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Exact diagonal of the risk's Hessian in the head: entry (c, j) is ``mean(p_c (1 - p_c) z_j^2)``.

    Returns:
        [C, D], non-negative, in nats per squared unit weight.

    Source:
        The softmax cross-entropy Hessian is ``mean((diag(p) - p p^T) kron z z^T)``; this is its diagonal part.
    """
    p = probabilities(head, features, labels)
    return (weighed(p * (1 - p), labels) / len(features)).T @ features.square()


def hessian_vector_product(head: Tensor, features: Tensor, labels: Tensor, vector: Tensor) -> Tensor:
    """Product of the risk's Hessian in the head with one vector, or with a stack of them.

    With ``a = z V^T`` it is ``mean((p * (a - sum_c p_c a_c)) z^T)``.

    Args:
        vector: Direction(s) in head space, [C, D] or [m, C, D].

    Returns:
        The shape of `vector`, in nats per squared unit weight times the vector's unit.

    Raises:
        ValueError: As in `risk`, or the vector is not shaped like the head.

    Source:
        Pearlmutter (1994) for the idea; the closed form follows from the Kronecker structure above.
    """
    if vector.shape[-2:] != head.shape:
        raise ValueError(
            f"the vector has shape {tuple(vector.shape)} but the head {tuple(head.shape)}; "
            "pass a direction in head space, [C, D] or [m, C, D]"
        )
    moved = residual_changes(head, features, labels, vector).flatten(1)  # [n, m * C]
    return ((moved / len(features)).T @ features).reshape(vector.shape)


def residual_changes(head: Tensor, features: Tensor, labels: Tensor, vector: Tensor) -> Tensor:
    """How each example's ``p - y`` changes along directions in head space: ``p * (a - sum_c p_c a_c)``, ``a = z V^T``.

    Args:
        vector: Direction(s) in head space, [C, D] or [m, C, D].

    Returns:
        [n, m, C], m = 1 for one direction.

    Source:
        The derivative of softmax, ``diag(p) - p p^T``, applied to ``a``; its product with the features is ``H V``.
    """
    p = probabilities(head, features, labels)[:, None, :]
    classes, width = head.shape
    along = (vector.reshape(-1, width) @ features.T).T.reshape(len(features), -1, classes)
    return changes(p, along) if not is_soft(labels) else changes(p, along) * labels.sum(-1)[:, None, None]


def gradient_hessian_product(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Hessian of the risk times its own gradient, ``H g`` (HGP's second statistic).

    Returns:
        [C, D], in squared nats per cubed unit weight.

    Source:
        Hemati et al. (ICCV 2023) compute it as ``||g|| grad ||g||``, which is ``H g`` but for the norm's singularity.
    """
    n = len(features)
    if n >= len(head):
        return hessian_vector_product(head, features, labels, gradient(head, features, labels))
    # fewer examples than classes: z g^T costs less through the n x n Gram matrix of the features than through g
    along = (features @ features.T) @ (residuals(head, features, labels) / n)
    return (weighed(changes(probabilities(head, features, labels), along), labels) / n).T @ features


def gradient_variance(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Variance over the examples of the per-example head gradient: ``mean((p - y)^2 z^2) - g^2``.

    Returns:
        [C, D], non-negative up to rounding, in squared nats per squared unit weight. Divides by n, not n - 1.

    Source:
        Fishr (Rame, Dancette, Cord, ICML 2022).
    """
    mean = residuals(head, features, labels).T @ features / len(features)
    return squared_gradient(head, features, labels) - mean.square()


def squared_gradient(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Mean over the examples of the squared per-example head gradient: ``mean((p - y)^2 z^2)``.

    Returns:
        [C, D], non-negative, in squared nats per squared unit weight.

    Source:
        What `gradient_variance` is made of, beside the gradient.
    """
    return residuals(head, features, labels).square().T @ features.square() / len(features)


def feature_mean(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Mean of the features, without the bias column.

    Returns:
        [D - 1], in feature units.

    Source:
        The first moment that DomainBed's CORAL aligns.
    """
    check(head, features, labels)
    return features[:, :-1].mean(0)


def feature_covariance(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Covariance of the features, without the bias column; divides by n - 1.

    Returns:
        [D - 1, D - 1], in squared feature units.

    Raises:
        ValueError: As in `risk`, or n < 2.

    Source:
        Deep CORAL (Sun and Saenko, ECCV workshops 2016).
    """
    check(head, features, labels)
    if len(features) < 2:
        raise ValueError("a covariance needs two examples or more, got 1; raise the batch size")
    centred = features[:, :-1] - features[:, :-1].mean(0)
    return centred.T @ centred / (len(features) - 1)


def feature_square(head: Tensor, features: Tensor, labels: Tensor, centre: Tensor) -> Tensor:
    """Mean outer product of the features around a point, without the bias column: ``mean((z - c) (z - c)^T)``.

    Args:
        centre: c, a constant, [D - 1].

    Returns:
        [D - 1, D - 1], in squared feature units.

    Source:
        Around the mean of all examples it is their covariance times (n - 1) / n, and so is its derivative, since the
        one in c vanishes there.
    """
    check(head, features, labels)
    centred = features[:, :-1] - centre
    return centred.T @ centred / len(features)


def scale_gradient(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Derivative of the risk in a dummy scale on the logits, at 1: ``<W, g>``, weights and bias together.

    Returns:
        Scalar, in nats.

    Source:
        IRMv1 (Arjovsky et al., 2019), whose penalty is the square of it.
    """
    return (residuals(head, features, labels) * logits(head, features, labels)).sum() / len(features)


def hessian(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """The risk's whole Hessian in the head, for small heads: ``mean((diag(p) - p p^T) kron z z^T)``.

    Returns:
        [C * D, C * D], symmetric, rows in the order of ``head.flatten()``, in nats per squared unit weight.

    Source:
        As `hessian_diagonal`. Costs n (C D)^2 multiplications: for heads of up to a few thousand weights.
    """
    p = probabilities(head, features, labels)
    n, classes = len(features), len(head)
    blocks = []
    for c in range(classes):
        row = []
        for k in range(classes):
            weight = p[:, c] * ((1.0 if c == k else 0.0) - p[:, k])
            row.append((features * weighed(weight[:, None], labels)).T @ features / n)
        blocks.append(torch.cat(row, 1))
    return torch.cat(blocks, 0)


def hessian_off_diagonal(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """The risk's Hessian in the head with its diagonal set to zero.

    Returns:
        [C * D, C * D], symmetric, zero diagonal, in nats per squared unit weight.

    Source:
        What Hutchinson's estimate of the diagonal is noisy in: its variance is the row sums of squares, over m.
    """
    full = hessian(head, features, labels)
    return full - torch.diag_embed(full.diagonal())


def off_diagonal_energy(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Squared norm of the Hessian's off-diagonal part: m times the total variance of Hutchinson's estimate.

    It is ``||H||^2 - ||diag H||^2``; ``||H||^2`` comes from the Hessian itself or, where that is cheaper, from the
    n x n Gram matrices of the features and of the per-example curvatures.

    Returns:
        Scalar, non-negative up to rounding, in squared nats per unit weight to the fourth.

    Source:
        Hutchinson (1989): Var of ``v_i (H v)_i`` over random signs v is ``sum_{j != i} H_ij^2``.
    """
    n, (classes, width) = len(features), head.shape
    if n <= classes * width and n * (width + 2 * classes) < (classes * width) ** 2:
        p = probabilities(head, features, labels)
        overlap = p @ p.T  # [n, n]
        # <diag p - p p^T, diag q - q q^T> over classes, for every pair of examples
        if classes == 1:
            pq = (p * (1 - p)) @ (p * (1 - p)).T
        else:
            squared = p.square()
            pq = overlap - squared @ p.T - p @ squared.T + overlap.square()
        if is_soft(labels):
            pq = pq * labels.sum(-1)[:, None] * labels.sum(-1)
        total = (pq * (features @ features.T).square()).sum() / n**2
    else:
        total = hessian(head, features, labels).square().sum()
    return total - hessian_diagonal(head, features, labels).square().sum()


def accuracy(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Share of examples whose label has the largest logit (for one logit: its sign).

    Returns:
        Scalar in [0, 1].

    Source:
        The usual one; a logit of exactly zero counts as class 0.
    """
    seen = logits(head, features, labels)
    return hits(seen, labels).to(seen.dtype).mean()
