"""A metric as a value: a function of what can be counted on a domain, or of its examples' probabilities."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedha.errors import FedhaError

PLAIN = ("accuracy", "risk", "examples")  # what every evaluation gives
COUNTS = ("confusion", "bins")  # sums over examples: those of several clients are added
SCORES = ("probabilities", "labels")  # of each example: they stay where they are, and one number leaves
BINS = 15  # of confidence
NOT_FINITE = "its numbers are not finite"  # why a metric has no value where a network came apart


@dataclass(frozen=True)
class Metric:
    """A number that says how good a network is on some examples.

    Attributes:
        name: What configs call it.
        function: Its parameters' names say what it needs: ``confusion``, [C, C], how many examples of each class (rows)
            are taken for each; ``bins``, [15, 3], of each fifteenth of confidence the examples, the right ones, and the
            sum of their confidence; ``accuracy``, ``risk``, ``examples``; or ``probabilities`` [n, C] and ``labels``
            [n], of one domain. Arrays of NumPy. Where it has no value it raises ValueError with the reason.
        smaller: Whether less is better.
        fraction: Whether it is told in percent.
        stacked: Whether it takes counts with further axes in front, and returns as many numbers, NaN where there is
            none: then a thousand resamples are one call.
    """

    name: str
    function: Callable[..., Any]
    smaller: bool = False
    stacked: bool = False
    fraction: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """What the function takes.

        Raises:
            FedhaError: It takes what there is not.
        """
        try:
            wanted = inspect.signature(self.function).parameters.values()
        except (TypeError, ValueError) as error:
            raise FedhaError(f"metric {self.name!r} has no signature; wrap it in a function of yours") from error
        names = tuple(one.name for one in wanted if one.default is one.empty)
        unknown = [name for name in names if name not in (*PLAIN, *COUNTS, *SCORES)]
        if unknown or not names:
            raise FedhaError(
                f"metric {self.name!r} takes {', '.join(unknown) or 'nothing'}; let it take some of "
                f"{', '.join((*COUNTS, *SCORES, *PLAIN))}"
            )
        return names

    @property
    def of_scores(self) -> bool:
        """Whether it needs single examples' probabilities, so that one client must have the whole domain."""
        return any(name in SCORES for name in self.needs)

    @property
    def title(self) -> str:
        """What tables call it."""
        return self.name.rpartition(":")[2].replace("_", " ")
