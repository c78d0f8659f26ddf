"""A run told to Flower's log, where `flwr run --stream` and `flwr log` show it."""

from collections.abc import Mapping
from logging import INFO
from pathlib import Path
from typing import Any

from flwr.supercore import log

from fedha.config import Config
from fedha.runs.wording import RoundText, result_text, run_title


class Logged:
    """A listener that logs a run's beginning and end, and about ten of its rounds."""

    def __init__(self) -> None:
        self._rounds = 1
        self._text = RoundText()

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        """Log what is trained."""
        self._rounds = config.training.rounds
        log(INFO, "%s: rounds %d to %d", run_title(config), first_round, self._rounds)

    def round_done(self, record: Mapping[str, Any]) -> None:
        """Log about every tenth of the rounds."""
        text, number = self._text.update(record), int(record["round"])
        if number % -(-self._rounds // 10) == 0:
            log(INFO, "round %d/%d  %s", number, self._rounds, text)

    def finished(self, results: Mapping[str, Any]) -> None:
        """Log the result."""
        log(INFO, result_text(results))

    def note(self, text: str) -> None:
        """Log it."""
        log(INFO, text)
