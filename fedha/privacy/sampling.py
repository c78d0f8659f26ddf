"""Which examples a step of training sees, and what its accountant may claim from that.

- *whole*: all of them, each step.
- *poisson*: each example joins each step by itself, with probability ``batch / examples``. Batches differ in size and
  may be empty; sums are divided by `batch` all the same. Privacy is amplified, because nobody knows who took part.
- *shuffled*: passes in a fresh order, cut into batches. No amplification is claimed: its analysis for many small
  batches is open, and Poisson's numbers would be wrong for it (Chua et al., "How private are DP-SGD implementations?",
  ICML 2024). One pass uses an example once, so it counts as one release, however many batches it has.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fedha.minibatches import epoch_sizes
from fedha.privacy.noise import Source

Method = Literal["whole", "poisson", "shuffled"]


@dataclass(frozen=True)
class Sampling:
    """How batches are drawn from a site's examples.

    Attributes:
        method: As above.
        batch: Examples a step: expected under poisson, at most under shuffled, all of them under whole.
        examples: n, the site's number of examples, which is public.
    """

    method: Method
    batch: int
    examples: int

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"sampling {self.method!r} is none of {', '.join(get_args(Method))}; take one of these")
        if not 1 <= self.batch <= self.examples:
            raise ValueError(
                f"a batch of {self.batch} of {self.examples} examples cannot be drawn; give 1 to {self.examples}"
            )
        if self.method == "whole" and self.batch != self.examples:
            raise ValueError(
                f"whole-domain steps use all {self.examples} examples, not {self.batch}; name poisson or shuffled"
            )


def draw_batches(sampling: Sampling, steps: int, source: Source) -> Iterator[Tensor]:
    """Row indices of each step, ascending under poisson; a batch may be empty.

    Args:
        sampling: The method.
        steps: How many batches.
        source: Its draws must stay unknown to who sees the update, or poisson amplifies nothing.
    """
    left: list[Tensor] = []
    for _ in range(steps):
        if sampling.method == "whole":
            yield torch.arange(sampling.examples)
        elif sampling.method == "poisson":
            yield (source.uniform(sampling.examples) < sampling.batch / sampling.examples).nonzero()[:, 0]
        else:
            if not left:
                order = source.uniform(sampling.examples).argsort(stable=True)
                left = list(order.split(epoch_sizes(sampling.examples, sampling.batch)))
            yield left.pop(0)


def releases(sampling: Sampling, steps: int) -> int:
    """How many Gaussian releases an example can be part of in so many steps: under shuffled, one a pass begun."""
    if sampling.method != "shuffled":
        return steps
    return math.ceil(steps / len(epoch_sizes(sampling.examples, sampling.batch)))
