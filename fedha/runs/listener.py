"""Who is told how a run goes on: the display, a log, a test."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fedha.config import Config


@runtime_checkable
class Listener(Protocol):
    """Told of a run's events, in order."""

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        """A single run (one recipe, one seed) starts, or continues, with this round."""

    def round_done(self, record: Mapping[str, Any]) -> None:
        """A round ended; the record is its line of metrics.jsonl."""

    def finished(self, results: Mapping[str, Any]) -> None:
        """The run ended; the results are those of results.json."""

    def note(self, text: str) -> None:
        """Something worth knowing, such as the engine that was chosen and why."""


class Silent:
    """Listens to nothing."""

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        """Ignore."""

    def round_done(self, record: Mapping[str, Any]) -> None:
        """Ignore."""

    def finished(self, results: Mapping[str, Any]) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""
