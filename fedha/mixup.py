"""Mixup: each example of a batch is mixed with another one, inputs and targets alike.

One part p is drawn from Beta(alpha, alpha) a batch, and one order of its rows: example i becomes
``p x_i + (1 - p) x_order(i)``. As the loss is linear in the targets, it is that of the mixed targets.

Source:
    Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond empirical risk minimization" (ICLR 2018). DomainBed mixes examples
    of two domains; no client has those of another.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy
import torch
from torch import Tensor

from fedha.errors import FedhaError
from fedha.inputs import Inputs, several
from fedha.randomness import generator

Key = tuple[int | str, ...]


@dataclass(frozen=True)
class Mixing:
    """How one batch is mixed.

    Attributes:
        alpha: Both parameters of the Beta distribution; small ones leave most batches nearly as they are.
        key: What decides the draws: the run's seed first.
    """

    alpha: float
    key: Key

    @cached_property
    def part(self) -> float:
        """What an example keeps of itself."""
        seed, *rest = self.key
        drawn = numpy.random.default_rng(generator(int(seed), *rest, "part").initial_seed())
        part = float(drawn.beta(self.alpha, self.alpha))
        return max(part, 1 - part)  # the same in distribution, and a label stays its example's largest target

    def order(self, rows: int) -> Tensor:
        """Which place of a batch of so many rows each is mixed with, [n]."""
        seed, *rest = self.key
        return torch.randperm(rows, generator=generator(int(seed), *rest, "order"))

    def mixed(self, own: Tensor, others: Tensor) -> Tensor:
        """Numbers of some rows, mixed with those of their partners."""
        return self.part * own + (1 - self.part) * others

    def inputs(self, own: Inputs, others: Inputs) -> Inputs:
        """Inputs of some rows, mixed with those of their partners.

        Raises:
            FedhaError: They are whole numbers, such as token ids, between which there is nothing.
        """
        mixed = {}
        for name, values in several(own).items():
            if not values.is_floating_point():
                what = f"inputs {name!r} are" if name else "these are"
                raise FedhaError(
                    f"recipe.mixup_alpha is {self.alpha:g}, which mixes inputs, and {what} whole numbers, such as "
                    "token ids; set it to 0"
                )
            mixed[name] = self.mixed(values, several(others)[name])
        return _like(own, mixed)


def _like(own: Inputs, mixed: dict[str, Tensor]) -> Inputs:
    if isinstance(own, Tensor):
        return next(iter(mixed.values()))
    return tuple(mixed.values()) if isinstance(own, tuple) else mixed
