"""How a metric's numbers are written, in tables and in pictures."""

from collections.abc import Iterable
from dataclasses import dataclass

from fedha.metrics.table import is_smaller
from fedha.report.domains import fraction, title


@dataclass(frozen=True)
class MetricFormat:
    """How a metric's numbers are told.

    Attributes:
        title: In words.
        unit: " %", or "" for a metric that is no fraction.
        smaller: Whether less is better.
    """

    title: str
    unit: str
    smaller: bool

    @classmethod
    def of(cls, metric: str) -> "MetricFormat":
        """Of a metric by name."""
        return cls(title(metric), " %" if fraction(metric) else "", is_smaller(metric))

    @property
    def scale(self) -> float:
        """What its numbers are multiplied by."""
        return 100.0 if self.unit else 1.0

    @property
    def digits(self) -> int:
        """Behind the point."""
        return 1 if self.unit else 3

    @property
    def axis(self) -> str:
        """What stands beside an axis of values on unseen domains."""
        return f"unseen domain, {self.title}{self.unit}"

    def best(self, values: Iterable[float]) -> float:
        """The best of some values."""
        return (min if self.smaller else max)(values)

    def written(self, value: float) -> str:
        """A value, scaled already, as text."""
        return f"{value:.{self.digits}f}{self.unit}"


OF_ACCURACY = MetricFormat.of("accuracy")
