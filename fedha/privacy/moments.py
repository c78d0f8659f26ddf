"""Moments: what a private client measures. Each is a mean over examples of one outer product ``left_i ⊗ right_i``.

That shape is what per-example clipping needs: example i's term has the norm ``|left_i| |right_i|``, and a mean with
weights on the examples is one matrix product, so the n terms, [n, C, D], are never held. What is sent is made of
moments: `fedha.privacy.releasable` says how. n examples, C classes, D features with the bias column last, p the
probabilities.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedha.cross_entropy import hits, is_soft, losses
from fedha.registry import moments


@dataclass(frozen=True)
class Moment:
    """One quantity of every example, as the two factors of an outer product.

    Attributes:
        left: [n, U].
        right: [n, V].
    """

    left: Tensor
    right: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Of the mean: (U, V)."""
        return self.left.shape[1], self.right.shape[1]

    def to(self, precision: torch.dtype) -> "Moment":
        """The same in another precision; itself where it has that precision."""
        return self if self.left.dtype == precision else Moment(self.left.to(precision), self.right.to(precision))

    def without(self, rows: Tensor) -> "Moment":
        """The same with zeros for some examples, [n] of bool: they stay where they are and add nothing."""
        return Moment(*(factor.masked_fill(rows[:, None], 0) for factor in (self.left, self.right)))

    def norms(self, precision: torch.dtype | None = None) -> Tensor:
        """Euclidean norm of each example's term, [n]: of an outer product it is the product of the two norms.

        Args:
            precision: Of left's norm and of the result; right's squares, of which there may be many, are summed in
                their own. What may have vanished of either's squares is added. Default: all in their own.
        """
        left = torch.linalg.vector_norm(self.left, dim=1, dtype=precision)
        right = torch.linalg.vector_norm(self.right, dim=1)
        if precision is not None:
            left = left + vanished(self.left.shape[1], precision)
            right = right.to(precision) + vanished(self.right.shape[1], self.right.dtype)
        norms: Tensor = left * right
        return norms

    def mean(self) -> Tensor:
        """Plain mean over the examples, [U, V]."""
        return (self.left / len(self.left)).T @ self.right

    def along(self, direction: Tensor) -> Tensor:
        """Inner product of each example's term with a direction [U, V]: [n]."""
        return ((self.left @ direction) * self.right).sum(1)


@dataclass(frozen=True)
class Batch:
    """Examples at one head, with what several moments need computed once.

    Attributes:
        features: With a last column of ones, [n, D]; n may be 0, since a Poisson sample may be empty.
        logits: [n, C]; one column is the binary logistic head. All that a moment knows of the head.
        labels: Class indices, [n], or soft targets, [n, C] (`fedha.targets`).
        vector: A public direction in head space, [C, D], for the Hessian-vector product only.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    vector: Tensor | None = None

    @classmethod
    def at(cls, head: Tensor, features: Tensor, labels: Tensor, vector: Tensor | None = None) -> "Batch":
        """Examples at a head's weights, [C, D].

        Raises:
            ValueError: Features and head disagree on D.
        """
        if features.shape[1] != head.shape[1]:
            raise ValueError(
                f"features have {features.shape[1]} columns but the head expects {head.shape[1]}; "
                "append the bias column with fedha.models.with_bias(features)"
            )
        return cls(features, (head @ features.T).T, labels, vector)

    @cached_property
    def probabilities(self) -> Tensor:
        """[n, C]."""
        return torch.sigmoid(self.logits) if self.logits.shape[1] == 1 else torch.softmax(self.logits, 1)

    @cached_property
    def weights(self) -> Tensor:
        """What an example counts, [n, 1]: 1, or the sum of its soft target."""
        return self.labels.sum(1, keepdim=True) if is_soft(self.labels) else self.ones

    @cached_property
    def residuals(self) -> Tensor:
        """``p - y``, [n, C]; of soft targets t ``w p - t``, w the weight."""
        p = self.probabilities
        if is_soft(self.labels):
            return self.weights * p - (self.labels[:, 1:] if p.shape[1] == 1 else self.labels)
        if self.logits.shape[1] == 1:
            return p - self.labels[:, None].to(p.dtype)
        return p.scatter_add(1, self.labels[:, None], p.new_full((len(p), 1), -1.0))

    @cached_property
    def squares(self) -> Tensor:
        """Features squared, [n, D]."""
        return self.features.square()

    @cached_property
    def ones(self) -> Tensor:
        """[n, 1]."""
        return self.features.new_ones(len(self.features), 1)

    @cached_property
    def losses(self) -> Tensor:
        """Negative log-likelihoods, [n, 1]."""
        return losses(self.logits, self.labels)[:, None]

    @cached_property
    def hits(self) -> Tensor:
        """Whether the label has the largest logit, [n, 1]."""
        return hits(self.logits, self.labels).to(self.logits.dtype)[:, None]

    @cached_property
    def changes(self) -> Tensor:
        """``w p * (a - sum_c p_c a_c)`` with ``a = z V^T``, [n, C].

        Raises:
            ValueError: There is no direction of the head's shape.
        """
        vector, shape = self.vector, (self.logits.shape[1], self.features.shape[1])
        if vector is None or vector.shape != shape:
            raise ValueError(
                f"the Hessian-vector product needs a direction of the head's shape {shape}, got "
                f"{None if vector is None else tuple(vector.shape)}; pass the pooled gradient that the server sent"
            )
        p, along = self.probabilities, (vector @ self.features.T).T
        return self.weights * p * (along - (p * along).sum(1, keepdim=True))


def vanished(numbers: int, precision: torch.dtype) -> float:
    """The largest norm of so many numbers whose squares this precision has no number for."""
    return math.sqrt(numbers * torch.finfo(precision).tiny)


def measure(names: Iterable[str], batch: Batch) -> dict[str, Moment]:
    """The moments of a batch by name, differentiable through logits and features.

    Args:
        names: Keys of `fedha.registry.moments`.
        batch: The examples.

    Raises:
        ValueError: Labels have another length, or the Hessian-vector product has no direction of the head's shape.

    Source:
        The derivatives of softmax cross-entropy, one example at a time; `fedha.statistics` has their means.
    """
    if len(batch.labels) != len(batch.features):
        raise ValueError(
            f"there are {len(batch.features)} feature rows but {len(batch.labels)} labels; pass one label a row"
        )
    known = moments()
    found = {}
    for name in names:
        outer = known[name].outer
        if outer is None:
            raise ValueError(f"nobody has bounded what one example adds to {name!r}")
        found[name] = Moment(*outer(batch))
    return found
