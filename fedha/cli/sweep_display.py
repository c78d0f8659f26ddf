"""What the terminal shows while a sweep goes on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from fedha.progress import duration
from fedha.sweep.jobs import Job
from fedha.sweep.store import Store
from fedha.sweep.work import DONE, FAILED, Outcome

_LINES = 20  # about so many lines in a log
_RULE = "training_domain_validation"


@dataclass
class Progress:
    """Counts of a sweep, the time that is left, and the best run so far.

    Attributes:
        console: Where it is shown.
        store: The sweep's.
        total: All its jobs.
        pending: Those to do.
        quiet: Whether nothing is shown.
        many: How many run side by side.
    """

    console: Console
    store: Store
    total: int
    pending: int
    quiet: bool = False
    many: int = 1
    _states: dict[str, int] = field(default_factory=lambda: {DONE: 0, FAILED: 0})
    _best: dict[str, tuple[float, float]] = field(default_factory=dict)  # by label: validation, target
    _labels: dict[str, str] = field(default_factory=dict)
    _since: float = field(default_factory=monotonic)
    _live: Live | None = None

    def __enter__(self) -> Self:
        if not self.quiet and self.console.is_terminal and self.pending:
            self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=2)
            self._live.start()
        elif not self.quiet:
            self._say(f"{self.total} runs, {self.total - self.pending} of them done, in {self.store.folder}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def ready(self, workers: int) -> None:
        """So many workers have started."""
        self.many, self._since = workers, monotonic()

    def took(self, outcome: Outcome | None) -> None:
        """A job ended; None: time went by."""
        if outcome is None or outcome.state not in self._states:
            return
        self._states[outcome.state] += 1
        if outcome.state == DONE:
            self._compare(outcome)
        if outcome.state == FAILED and not self.quiet:
            self._say(f"  failed: {outcome.name}: {outcome.why}")
        ended = sum(self._states.values())
        if self._live is None and not self.quiet and (ended % max(1, self.pending // _LINES) == 0):
            self._say(f"  {self.total - self.pending + ended}/{self.total}  {self._counts()}  {self._left()}")

    def _compare(self, outcome: Outcome) -> None:
        label = self._labels.get(outcome.name, "")
        chosen = outcome.found.get("rules", {}).get(_RULE)
        if chosen and chosen["targets"] and not outcome.found["diverged"]:
            found = (float(chosen["score"]), float(next(iter(chosen["targets"].values()))))
            self._best[label] = max(self._best.get(label, found), found)

    def _counts(self) -> str:
        done = self.total - self.pending + self._states[DONE]
        running = min(self.many, self.pending - sum(self._states.values()))
        return f"{done} done, {running} running, {self._states[FAILED]} failed"

    def _left(self) -> str:
        ended = self._states[DONE] + self._states[FAILED]
        rest = self.pending - ended
        return f"{duration((monotonic() - self._since) / ended * rest)} left" if ended and rest > 0 else ""

    def _table(self) -> RichTable:
        shown = RichTable(title=Text(f"{self._counts()}  {self._left()}"), title_justify="left")
        for name in ("recipe", "best validation %", "its target %"):
            shown.add_column(name, justify="left" if name == "recipe" else "right")
        for label, (score, target) in sorted(self._best.items(), key=lambda one: -one[1][0]):
            shown.add_row(Text(label), f"{100 * score:.1f}", f"{100 * target:.1f}")
        return shown

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def choose(console: Console, store: Store, jobs: Sequence[Job], pending: Sequence[Job], *, quiet: bool) -> Progress:
    """The display of a sweep: a live table on a terminal, some lines elsewhere, nothing where that was asked for."""
    labels: dict[str, Any] = {one.name: one.label for one in jobs}
    return Progress(console, store, len(jobs), len(pending), quiet, _labels=labels)
