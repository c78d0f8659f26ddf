"""Whether training has ended early: where what the sources hold out gets no better."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedha.config.choosing import StopConfig
from fedha.errors import FedhaError


@dataclass(frozen=True)
class Patience:
    """What the rounds so far say; a function of the sources' numbers, so that every engine and resume ends alike.

    What was evaluated within the warm-up does not count: its model is not yet the recipe's.

    Attributes:
        stop: What the config says; None: nothing ends training.
        warmup: Rounds in which the recipe has not yet its own weight.
        best: The best score so far, more being better.
        waited: Evaluations since.
    """

    stop: StopConfig | None
    warmup: int = 0
    best: float | None = None
    waited: int = 0

    def after(self, record: Mapping[str, Any]) -> "Patience":
        """After one more round.

        Raises:
            FedhaError: No source holds anything out.
        """
        held_out = record.get("held_out")
        if self.stop is None or self.ended or not held_out or record["round"] <= self.warmup:
            return self
        if not any(part.get("examples") for part in held_out.values()):
            raise FedhaError(
                "training.stop looks at what the sources hold out, and none told a number of that; raise "
                "data.held_out, or leave stop out"
            )
        score = self.stop.choice.score(held_out.values())
        if score is not None and (self.best is None or score > self.best + self.stop.min_delta):
            return replace(self, best=score, waited=0)
        return replace(self, waited=self.waited + 1)

    @property
    def ended(self) -> str:
        """Why training ends now, in a phrase; "" where it goes on."""
        if self.stop is None or self.waited < self.stop.patience:
            return ""
        times = "evaluation" if self.waited == 1 else f"{self.waited} evaluations"
        return f"the {self.stop.choice.title} on what the sources hold out was no better for {times}"
