"""A domain as a diagnosis sees it: two functions that it answers, and a few numbers about the size of its features.

Letters: n examples, C classes (rows of the head), D features with the bias column, K heads, m directions, P = C D.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """What a domain says of some heads.

    Attributes:
        risks: Mean negative log-likelihoods, [K], in nats.
        gradients: Of the risks, each at its head, [K, C, D].
        accuracies: Fractions, [K].
    """

    risks: Tensor
    gradients: Tensor
    accuracies: Tensor


Heads = Callable[[Tensor], Answers]  # [K, C, D]
Directions = Callable[[Tensor], Tensor]  # [m, C, D] to the Hessian's products at the learned head, [m, C, D]


@dataclass(frozen=True)
class Sizes:
    """Numbers about a domain's features that the bounds need.

    Attributes:
        examples: n.
        mean_square: Mean of ``|z|^2``.
        mean_cube: Mean of ``|z|^3``.
        largest: Largest ``|z|``.
        top_moment: An upper end of the largest eigenvalue of ``mean z z^T``.
        top_hessian: An upper end of the largest eigenvalue of the Hessian at the learned head.
    """

    examples: int
    mean_square: float
    mean_cube: float
    largest: float
    top_moment: float
    top_hessian: float


@dataclass(frozen=True)
class Party:
    """A domain, or the mean of several.

    Attributes:
        name: What tables call it.
        heads: Risks, gradients and accuracies at heads that somebody names.
        directions: Products of its Hessian at the learned head.
        sizes: Of its features.
    """

    name: str
    heads: Heads
    directions: Directions
    sizes: Sizes


def pooled(parties: Sequence[Party], name: str) -> Party:
    """The plain mean of several domains, from sums alone.

    Eigenvalues of a mean are at most the mean of the largest ones, so that upper ends stay upper ends.

    Args:
        parties: One or more, in client order, which is the order of the sums.
        name: What tables call the mean.
    """
    if len(parties) == 1:
        return Party(name, parties[0].heads, parties[0].directions, parties[0].sizes)
    share = 1 / len(parties)

    def heads(at: Tensor) -> Answers:
        found = [one.heads(at) for one in parties]
        return Answers(
            _sum([one.risks for one in found]) * share,
            _sum([one.gradients for one in found]) * share,
            _sum([one.accuracies for one in found]) * share,
        )

    def directions(along: Tensor) -> Tensor:
        return _sum([one.directions(along) for one in parties]) * share

    every = [one.sizes for one in parties]
    sizes = Sizes(
        sum(one.examples for one in every),
        sum(one.mean_square for one in every) * share,
        sum(one.mean_cube for one in every) * share,
        max(one.largest for one in every),
        sum(one.top_moment for one in every) * share,
        sum(one.top_hessian for one in every) * share,
    )
    return Party(name, heads, directions, sizes)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(terms[0])
    for one in terms:
        total = total + one
    return total
