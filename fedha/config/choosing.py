"""What a run is judged by: which number chooses a round, and which ends the training."""

from typing import Any

from pydantic import Field

from fedha.config.section import Section
from fedha.metrics.choice import Choice, Over


class SelectConfig(Section):
    """By which number rounds are compared; a metric's name alone means its mean over domains."""

    metric: str = Field("accuracy", description="accuracy, or one of evaluation.metrics")
    over: Over = Field("mean", description="the mean over domains, the worst of them, or the worst group of any")

    @property
    def choice(self) -> Choice:
        """The same as a value."""
        return Choice(self.metric, self.over)


class StopConfig(SelectConfig):
    """Training ends where what the sources hold out gets no better."""

    patience: int = Field(..., ge=1, description="evaluations in a row that may be no better")
    min_delta: float = Field(0.0, ge=0, description="what is better by no more than this is no better")


def by_name(value: Any) -> Any:
    """A metric's name as a section."""
    return {"metric": value} if isinstance(value, str) else value
