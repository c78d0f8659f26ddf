"""What the terminal shows while a sweep goes on."""

from dataclasses import dataclass, field
from time import monotonic
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from fedha.progress import duration
from fedha.sweep.halving import Plan
from fedha.sweep.store import Store
from fedha.sweep.work import DONE, FAILED, REACHED, Outcome

_LINES = 20  # about so many lines in a log
_RULE = "training_domain_validation"


@dataclass
class Progress:
    """Counts of a sweep, the time that is left, and the best run so far.

    Attributes:
        console: Where it is shown.
        store: The sweep's.
        total: All its jobs.
        before: Those that were done.
        quiet: Whether nothing is shown.
        many: How many run side by side.
        halving: Whether runs are compared before their end: then not all go on, and nobody knows what is left.
    """

    console: Console
    store: Store
    total: int
    before: int
    quiet: bool = False
    many: int = 1
    halving: bool = False
    _states: dict[str, int] = field(default_factory=lambda: {DONE: 0, FAILED: 0, REACHED: 0})
    _best: dict[str, tuple[float, float]] = field(default_factory=dict)  # by label: validation, target
    _labels: dict[str, str] = field(default_factory=dict)
    _since: float = field(default_factory=monotonic)
    _live: Live | None = None

    def __enter__(self) -> Self:
        if not self.quiet and self.console.is_terminal and self.before < self.total:
            self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=2)
            self._live.start()
        elif not self.quiet:
            self._say(f"{self.total} runs, {self.before} of them done, in {self.store.folder}")
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
        for note in outcome.notes if not self.quiet else ():
            self._say(f"  {outcome.name}: {note}")
        if outcome.state == FAILED and not self.quiet:
            self._say(f"  failed: {outcome.name}: {outcome.why}")
        ended = sum(self._states.values())
        if self._live is None and not self.quiet and (ended % max(1, (self.total - self.before) // _LINES) == 0):
            told = "" if self.halving else f"{self.before + ended}/{self.total}  "
            self._say(f"  {told}{self._counts()}  {self._left()}")

    def _compare(self, outcome: Outcome) -> None:
        label = self._labels.get(outcome.name, "")
        chosen = outcome.found.get("rules", {}).get(_RULE)
        if chosen and chosen["targets"] and not outcome.found["diverged"]:
            found = (float(chosen["score"]), float(next(iter(chosen["targets"].values()))))
            self._best[label] = max(self._best.get(label, found), found)

    def _counts(self) -> str:
        done, failed = self.before + self._states[DONE], self._states[FAILED]
        if self.halving:
            return f"{done} done, {self._states[REACHED]} times compared, {failed} failed"
        running = min(self.many, self.total - done - failed)
        return f"{done} done, {running} running, {failed} failed"

    def _left(self) -> str:
        if self.halving:
            return ""
        ended = self._states[DONE] + self._states[FAILED]
        rest = self.total - self.before - ended
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


def choose(console: Console, plan: Plan, left: int, *, quiet: bool) -> Progress:
    """The display of a sweep: a live table on a terminal, some lines elsewhere, nothing where that was asked for.

    Args:
        console: Where it is shown.
        plan: What is done.
        left: How many jobs are to be worked on first.
        quiet: Whether nothing is shown.
    """
    labels = {one.name: one.label for one in plan.jobs}
    done = len(labels) - left if plan.factor is None else sum(plan.store.finished(name) for name in labels)
    return Progress(console, plan.store, len(labels), done, quiet, halving=plan.factor is not None, _labels=labels)
