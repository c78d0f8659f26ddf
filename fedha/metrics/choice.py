"""Which number of an evaluation chooses: a metric, and how it is taken over domains."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedha.metrics.metric import NOT_FINITE
from fedha.metrics.table import is_smaller

Over = Literal["mean", "worst_domain", "worst_group"]
Part = Mapping[str, Any]  # what a record says of a domain

WORDS: Mapping[Over, str] = {"mean": "mean", "worst_domain": "worst domain's", "worst_group": "worst group's"}


@dataclass(frozen=True)
class Choice:
    """What rounds, or runs, are compared by.

    Attributes:
        metric: By name.
        over: The mean over domains, or the worst one; or the worst group of any domain.
    """

    metric: str = "accuracy"
    over: Over = "mean"

    @property
    def title(self) -> str:
        """In words, such as ``mean accuracy``."""
        return f"{WORDS[self.over]} {self.metric.rpartition(':')[2].replace('_', ' ')}"

    def value(self, domains: Iterable[Part]) -> float | None:
        """The number of some domains.

        Domains without the metric are passed over: who had no examples, or where it has no value. None where nobody has
        it, or where it is not finite in one: what came apart is not chosen.
        """
        found = list(self._values(domains))
        if not found or not all(map(math.isfinite, found)):
            return None
        worst = max if is_smaller(self.metric) else min
        return sum(found) / len(found) if self.over == "mean" else worst(found)

    def score(self, domains: Iterable[Part]) -> float | None:
        """The same so that more is better."""
        found = self.value(domains)
        return found if found is None or not is_smaller(self.metric) else -found

    def _values(self, domains: Iterable[Part]) -> Iterator[float]:
        for one in domains:
            for part in (one.get("groups") or {}).values() if self.over == "worst_group" else (one,):
                value = part.get(self.metric)
                if value is not None:
                    yield float(value)
                elif self.metric in part and (part.get("undefined") or {}).get(self.metric, NOT_FINITE) == NOT_FINITE:
                    yield math.nan
