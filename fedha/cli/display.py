"""What the terminal shows while runs go on: a live line, plain lines, or nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from fedha.config import Config
from fedha.progress import duration
from fedha.runs.listener import Silent
from fedha.runs.wording import RoundText, result_text, run_title


class QuietDisplay(Silent):
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


@dataclass
class LineDisplay:
    """Plain lines, for logs and pipes: one at the start of a run, about ten on the way, one at the end.

    Attributes:
        console: Where they go.
        runs: How many runs are coming, one after the other.
    """

    console: Console
    runs: int = 1
    _done: int = 0
    _rounds: int = 0
    _noted: str = ""
    _state: RoundText = field(default_factory=RoundText)
    _clock: tuple[int, float] = (0, 0.0)  # rounds before this start, and when it was

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Lines stay as they are."""

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        """Say which run begins, or goes on from where."""
        self._rounds = config.training.rounds
        self._state, self._clock = RoundText(), (first_round - 1, monotonic())
        again = f", continued at round {first_round}" if first_round > 1 else ""
        self._print(f"{run_title(config, self._done + 1, self.runs)}: {self._rounds} rounds in {folder}{again}")

    def round_done(self, record: Mapping[str, Any]) -> None:
        """Print about every tenth of the rounds."""
        text, round = self._state.update(record), int(record["round"])
        if round % -(-self._rounds // 10) == 0 and round < self._rounds:
            first, since = self._clock
            trained = max(1, round - first)  # none where the first thing left was a round's evaluation
            left = (monotonic() - since) / trained * (self._rounds - round)
            self._print(f"  round {round}/{self._rounds}  {text}  {duration(left)} left")

    def finished(self, results: Mapping[str, Any]) -> None:
        """Print the result."""
        self._done += 1
        self._print(f"  {result_text(results)}")

    def note(self, text: str) -> None:
        """Print it, unless it was just said."""
        if text != self._noted:
            self._print(text)
        self._noted = text

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


@dataclass
class LiveDisplay:
    """A line that moves while a run goes on; finished runs leave one line each.

    Attributes:
        console: A terminal.
        runs: How many runs are coming, one after the other.
    """

    console: Console
    runs: int = 1
    _done: int = 0
    _title: str = ""
    _noted: str = ""
    _text: str = ""
    _state: RoundText = field(default_factory=RoundText)
    _bar: Progress | None = None
    _live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the terminal back, whatever happened."""
        self._stop()

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        """Start the run's bar, with its numbers in a line below."""
        self._stop()
        self._state, self._text = RoundText(), ""
        self._title = run_title(config, self._done + 1, self.runs)
        title = TextColumn("{task.description}", style="bold", markup=False)
        bar = Progress(title, BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
        bar.add_task(self._title, total=config.training.rounds, completed=first_round - 1)
        self._bar = bar
        self._live = Live(get_renderable=lambda: Group(bar, Text(self._text)), console=self.console, transient=True)
        self._live.start()

    def round_done(self, record: Mapping[str, Any]) -> None:
        """Move the bar on."""
        self._text = self._state.update(record)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=int(record["round"]))

    def finished(self, results: Mapping[str, Any]) -> None:
        """Replace the bar by the result."""
        self._stop()
        self._done += 1
        self.console.print(f"{self._title}: {result_text(results)}", markup=False, highlight=False)

    def note(self, text: str) -> None:
        """Print it above the bar, unless it was just said."""
        if text != self._noted:
            self.console.print(text, style="dim", markup=False, highlight=False)
        self._noted = text

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live, self._bar = None, None


Display = QuietDisplay | LineDisplay | LiveDisplay


def choose(console: Console, runs: int, *, quiet: bool = False) -> Display:
    """The display that fits: live on a terminal, plain lines elsewhere, nothing where that was asked for."""
    if quiet:
        return QuietDisplay()
    return LiveDisplay(console, runs) if console.is_terminal else LineDisplay(console, runs)
