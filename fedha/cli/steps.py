"""Progress of work that is no training: what is being done, and how far it is."""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedha.cli import stopping


@dataclass
class Steps:
    """A bar on a terminal, a line a step elsewhere, nothing where that was asked for.

    Attributes:
        console: Where it is shown.
        quiet: Whether nothing is.
    """

    console: Console
    quiet: bool = False
    _title: str = ""
    _doing: str = ""
    _bar: Progress | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.quiet:
            title = TextColumn("{task.description}", markup=False)
            columns = (title, BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, title: str) -> None:
        """A piece of work begins."""
        self._title, self._doing = title, ""
        if not self.quiet and self._bar is None:
            self._print(title)

    def progress(self, doing: str, done: int, total: int) -> None:
        """How far it is."""
        if self._bar is not None:
            if doing != self._doing:
                for task in self._bar.task_ids:
                    self._bar.remove_task(task)
                self._bar.add_task(f"{self._title}: {doing}", total=total)
            self._bar.update(self._bar.task_ids[0], completed=done)
        elif doing != self._doing and not self.quiet:
            self._print(f"  {doing} ({total})" if total > 1 else f"  {doing}")
        self._doing = doing

    def watched(self, doing: str, done: int, total: int) -> None:
        """As `progress`, with a look whether the command was asked to end: Python may swallow Ctrl-C.

        Raises:
            StoppedError: It was.
        """
        stopping.check("stopped")
        self.progress(doing, done, total)

    def note(self, text: str) -> None:
        """Something worth knowing that stays."""
        if not self.quiet:
            self._print(text)

    def _print(self, text: str) -> None:
        console = self._bar.console if self._bar is not None else self.console
        console.print(text, markup=False, highlight=False, soft_wrap=True)
