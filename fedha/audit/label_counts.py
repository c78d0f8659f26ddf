"""How many examples of each class a client has, in closed form from what it sent.

The bias column of the head gradient is ``mean(p) - mean(y)``, so the label distribution is ``mean(p)`` minus that
column: whoever knows the mean prediction knows the labels' counts. The attacks differ in where they take it from: a
uniform guess, public inputs, the Hessian's diagonal, or the variance of the example gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_STEPS = 80  # of a bisection: the interval then is under 1e-20 of its start


def label_distribution(gradient: Tensor, mean_probabilities: Tensor) -> Tensor:
    """The share of each class among a release's examples.

    Args:
        gradient: Of the head, [C, D]; one row for a head with one logit.
        mean_probabilities: The attacker's belief about mean(p), [C], two for one logit.

    Returns:
        [C], two for one logit; not negative, sums to 1. Exact where the belief is. What noise has made negative is
        taken as zero, and where nothing is left the answer is uniform.

    Source:
        Differentiate softmax cross-entropy in the bias. For one example the sign alone tells the label: iDLG (Zhao,
        Mopuri, Bilen, 2020); for batches: Wainakh et al., "User-Level Label Leakage from Gradients" (PETS 2022).
    """
    column = gradient[:, -1]
    if len(gradient) == 1:
        column = torch.cat([-column, column])
    return normalized(mean_probabilities.to(column) - column)


def most_consistent(gradient: Tensor, beliefs: Sequence[Tensor]) -> Tensor:
    """Of several beliefs about the mean prediction the one that makes the fewest class shares negative, by their sum.

    No share can be negative, so a belief that makes some so is wrong; nobody needs the truth to see it.

    Args:
        gradient: Of the head, [C, D].
        beliefs: One or more, [C] each, two for one logit; the first of several that are alike is taken.
    """
    column = gradient[:, -1].double()
    if len(gradient) == 1:
        column = torch.cat([-column, column])
    return max(beliefs, key=lambda one: round(float((one.to(column) - column).clamp(max=0).sum()), 9))


def label_counts(distribution: Tensor, examples: int) -> Tensor:
    """Whole numbers of examples that come nearest to a distribution and sum to n, by largest remainders.

    Args:
        distribution: [C], sums to 1.
        examples: n.

    Returns:
        [C], int64.
    """
    wanted = distribution.double() * examples
    counts = wanted.floor().long()
    for place in (wanted - counts).argsort(descending=True, stable=True)[: examples - int(counts.sum())]:
        counts[place] += 1
    return counts


def uniform_probabilities(classes: int) -> Tensor:
    """The mean prediction of who knows nothing: 1/C each, and of an untrained model nearly the truth."""
    return torch.full((max(classes, 2),), 1 / max(classes, 2), dtype=torch.float64)


def public_probabilities(head: Tensor, features: Tensor) -> Tensor:
    """The mean prediction on public or made-up inputs.

    Args:
        head: [C, D].
        features: The public inputs', with the column of ones, [m, D].

    Returns:
        [C], two for one logit.
    """
    logits = features @ head.T
    if len(head) == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    return torch.softmax(logits, 1).mean(0)


def hessian_probabilities(hessian_diagonal: Tensor) -> Tensor:
    """The mean prediction from the exact diagonal of the Hessian, for three classes or more.

    The bias column is ``v_c = mean(p_c) - mean(p_c^2)``. With ``mean(p_c^2) = (1 + r) q_c^2``, the squared variation r
    the same for all classes, q_c is a root of ``q - (1 + r) q^2 = v_c``, and r is what makes the q sum to 1. (Jensen:
    with r = 0 a lower root is at most mean(p_c).)

    Args:
        hessian_diagonal: [C, D], C >= 3: with two classes both have the same v, which leaves open who is the likelier.

    Returns:
        [C], sums to 1; exact where the prediction does not vary.

    Source:
        The closed form of the diagonal (`fedha.statistics.hessian_diagonal`); docs/decisions/0023 has the reasons.
    """
    return _spread_roots(hessian_diagonal[:, -1].double().clamp(min=0))


def moment_probabilities(head: Tensor, hessian_diagonal: Tensor) -> Tensor:
    """The mean prediction from the head at the root of the features' second moments, which the diagonal gives away.

    The columns of the diagonal, divided by the bias column, are second moments of the features. Of features that are
    not negative and vary little (ReLU, early in training) their roots are nearly the mean. Sums over the classes
    average out most of Hutchinson's noise, so it works where `hessian_probabilities` does not: with noise, and with two
    classes.

    Args:
        head: [C, D].
        hessian_diagonal: As sent, exact or Hutchinson's, [C, D].

    Returns:
        [C], two for one logit; sums to 1; exact where all features are the same and not negative.
    """
    moments = hessian_diagonal.double().sum(0) / hessian_diagonal[:, -1].double().sum()
    logits = head.double() @ moments.nan_to_num(0.0, 0.0, 0.0).clamp(min=0).sqrt()
    if len(head) == 1:
        logits = torch.cat([torch.zeros_like(logits), logits])
    return torch.softmax(logits, 0)


def variance_probabilities(gradient: Tensor, gradient_variance: Tensor) -> Tensor:
    """The mean prediction from the gradient and the variance of the example gradients (Fishr sends it).

    With b the gradient's bias column, the variance's is ``e - b^2``, ``e = mean((p - y)^2)``. Where a class's
    probability q is nearly the same for all examples, ``e = s (1 - q)^2 + (1 - s) q^2`` and ``b = q - s``, s the share
    of the class. That is a quadratic in q, whose roots stand for s and 1 - s: a class has at most half of the examples,
    but one may have more. It is the one whose column is the most negative, where that brings the sum nearer to 1.

    Args:
        gradient: [C, D].
        gradient_variance: [C, D].

    Returns:
        [C], two for one logit; with `label_distribution` it gives the shares s.
    """
    column = gradient[:, -1].double()
    square = gradient_variance[:, -1].double() + column.square()
    if len(gradient) == 1:
        column, square = torch.cat([-column, column]), square.expand(2)
    shares = (1 - (1 + 4 * column.square() - 4 * square).clamp(min=0).sqrt()) / 2
    most = column.argmin()
    other = torch.where(torch.arange(len(shares)) == most, 1 - shares, shares)
    return column + (other if (other.sum() - 1).abs() < (shares.sum() - 1).abs() else shares)


def placed_share(counts: Tensor, truth: Tensor) -> float:
    """The share of examples that stand in the right class's count: ``1 - 1/2 sum_c |counts_c - truth_c| / n``.

    Args:
        counts: Estimated counts or distribution, [C].
        truth: The true one, [C].

    Returns:
        0 to 1.
    """
    return 1 - 0.5 * float((counts.double() / counts.sum() - truth.double() / truth.sum()).abs().sum())


def normalized(weights: Tensor) -> Tensor:
    """Weights as a distribution: nothing negative, sum 1; uniform where nothing is left."""
    kept = weights.nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
    total = kept.sum()
    return kept / total if total > 0 else torch.full_like(kept, 1 / len(kept))


def _spread_roots(column: Tensor) -> Tensor:
    """Roots of ``q - (1 + r) q^2 = v_c`` that sum to 1, or as near to it as r >= 0 allows, normalised.

    All roots are the lower ones. Where those never reach 1, one class has more than half of the probability: the one
    with the largest v, whose roots meet at the largest r; from there r falls along its upper root.
    """
    most = max(0.0, float(1 / (4 * column.max().clamp(min=1e-12))) - 1)
    rising = float(_roots(column, most, upper=False).sum()) >= 1
    low, high = 0.0, most
    for _ in range(_STEPS):
        middle = (low + high) / 2
        below = float(_roots(column, middle, upper=not rising).sum()) < 1
        low, high = (middle, high) if below == rising else (low, middle)
    return normalized(_roots(column, (low + high) / 2, upper=not rising))


def _roots(column: Tensor, variation: float, *, upper: bool) -> Tensor:
    scale = 1 + variation
    root = (1 - 4 * scale * column).clamp(min=0).sqrt()
    if upper:
        root[column.argmax()] *= -1
    return (1 - root) / (2 * scale)
