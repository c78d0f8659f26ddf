"""The Gaussian mechanism on a clipped sum: the three public numbers that say what leaves and what it costs."""

import math
from dataclasses import dataclass

from fedha.config import LARGEST, SMALLEST


@dataclass(frozen=True)
class Mechanism:
    """A sum to which each example (or client) adds a vector cut to a norm, disturbed, and divided by a constant.

    All of it is public and chosen without looking at the data. With or without one example the sum differs by at most
    `norm`: that is what the noise multiplier is measured in, for neighbours that differ by adding or removing one.

    Attributes:
        norm: The longest vector that one may add; infinite: no clipping, and then no noise either.
        noise_multiplier: Standard deviation of the noise in each entry, over `norm`.
        divisor: What makes the sum a mean: a site's public number of examples, or the *expected* batch size or cohort.
            Never the size of what was drawn, which depends on who is in it.
    """

    norm: float
    noise_multiplier: float
    divisor: float

    def __post_init__(self) -> None:
        if not (SMALLEST <= self.norm <= LARGEST or self.norm == math.inf) or not 0 < self.divisor < math.inf:
            raise ValueError(
                f"the clipping norm is {self.norm:g} and the divisor {self.divisor:g}; give positive numbers, and of "
                f"norms one from {SMALLEST:g} to {LARGEST:g}"
            )
        if not 0 <= self.noise_multiplier < math.inf or (self.noise_multiplier > 0 and math.isinf(self.norm)):
            raise ValueError(
                f"noise of {self.noise_multiplier:g} times a clipping norm of {self.norm:g} has no deviation; "
                "give a finite norm and a noise multiplier of 0 or more"
            )

    def deviation(self, scale: float = 1.0) -> float:
        """Of the noise in one entry of the mean, for entries that were multiplied by `scale` before the clip."""
        return self.noise_multiplier * self.norm / (scale * self.divisor) if self.noise_multiplier else 0.0
