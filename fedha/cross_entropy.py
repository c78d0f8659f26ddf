"""Softmax cross-entropy of a linear head: logits, probabilities and residuals, and the loss of single examples.

What the statistics of `fedha.statistics` are made of; their letters hold here, too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps

import torch
from torch import Tensor
from torch.nn import functional

Statistic = Callable[[Tensor, Tensor, Tensor], Tensor]

_known: ContextVar[dict[tuple[object, ...], tuple[Tensor, ...]] | None] = ContextVar("known", default=None)


@contextmanager
def shared() -> Iterator[None]:
    """Statistics of the same head, features and labels taken inside share logits, probabilities and gradient.

    Values and derivatives stay as they are; a loss of several statistics costs fewer products. Everything shared is
    forgotten on leaving, of those within each other the outermost. Do not change the tensors in place inside.

    Yields:
        Nothing; to be used as ``with cross_entropy.shared(): ...``.
    """
    if _known.get() is not None:
        yield
        return
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def once(function: Statistic) -> Statistic:
    @wraps(function)
    def call(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        known = _known.get()
        if known is None:
            return function(head, features, labels)
        key = (function, id(head), id(features), id(labels), torch.is_grad_enabled())
        if key not in known:  # the tensors are kept with the value, so that no other gets their ids meanwhile
            known[key] = (function(head, features, labels), head, features, labels)
        return known[key][0]

    return call


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each example's label.

    Args:
        logits: [..., C]; a single logit speaks for class 1.
        labels: Class indices, [...], or soft targets, [..., C].

    Returns:
        In nats, [...]; their mean is the risk.
    """
    if is_soft(labels) and logits.shape[-1] == 1:
        single = logits[..., 0]
        return labels.sum(-1) * functional.softplus(single) - labels[..., 1] * single
    if is_soft(labels):
        return -(labels * functional.log_softmax(logits, -1)).sum(-1)
    if logits.shape[-1] == 1:
        single = logits[..., 0]
        return functional.binary_cross_entropy_with_logits(single, labels.to(single.dtype), reduction="none")
    each = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return each.view(labels.shape)


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of `losses`, of logits [n, C]: the risk."""
    if is_soft(labels):
        return losses(logits, labels).mean()
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))
    return functional.cross_entropy(logits, labels)


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each example's label has the largest logit; a single logit of zero counts as class 0. As in `losses`."""
    guesses = (logits[..., 0] > 0).long() if logits.shape[-1] == 1 else logits.argmax(-1)
    return guesses == hard(labels)


def is_soft(labels: Tensor) -> bool:
    """Whether these are soft targets, and no class indices."""
    return labels.is_floating_point()


def hard(labels: Tensor) -> Tensor:
    """Class indices: of soft targets those that they were made of, since a class keeps more of its own than others."""
    return labels.argmax(-1) if is_soft(labels) else labels


def check(head: Tensor, features: Tensor, labels: Tensor) -> None:
    """Refuse what is no head with features and labels of its examples.

    Raises:
        ValueError: features and head disagree on D, n == 0, or labels have another length.
    """
    if features.shape[1] != head.shape[1]:
        raise ValueError(
            f"features have {features.shape[1]} columns but the head expects {head.shape[1]}; "
            "append the bias column with fedha.models.with_bias(features)"
        )
    if len(features) == 0:
        raise ValueError("a statistic needs at least one example, got 0; check the domain's data")
    if len(labels) != len(features):
        raise ValueError(f"there are {len(features)} feature rows but {len(labels)} labels; pass one label a row")


@once
def logits(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Logits, [n, C]; errors as in `check`."""
    check(head, features, labels)
    return (head @ features.T).T


@once
def probabilities(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """p, [n, C]; errors as in `check`."""
    seen = logits(head, features, labels)
    return torch.sigmoid(seen) if head.shape[0] == 1 else torch.softmax(seen, 1)


def changes(p: Tensor, along: Tensor) -> Tensor:
    """How probabilities change as their logits do: ``p * (a - sum_c p_c a_c)``."""
    return p * (along - (p * along).sum(-1, keepdim=True))


def weighed(terms: Tensor, labels: Tensor) -> Tensor:
    """Each example's terms, [n, ...], times its weight where targets are soft."""
    return terms * labels.sum(-1, keepdim=True) if is_soft(labels) else terms


@once
def residuals(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """``p - y``, [n, C]; of soft targets ``w p - t``. Errors as in `check`."""
    p = probabilities(head, features, labels)
    if is_soft(labels):
        return weighed(p, labels) - (labels[:, 1:] if head.shape[0] == 1 else labels)
    if head.shape[0] == 1:
        return p - labels[:, None].to(p.dtype)
    return p.scatter_add(1, labels[:, None], p.new_full((len(labels), 1), -1.0))
