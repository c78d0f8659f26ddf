"""Several who are told of a run: a display, and trackers beside it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedha import named, plugins
from fedha.config import Config
from fedha.errors import FedhaError, brief
from fedha.runs.listener import Listener
from fedha.schema import nearest


def logger(name: str) -> Listener:
    """A tracker by its name.

    Args:
        name: ``tensorboard``, ``mlflow``, ``wandb``, an installed package's, or your own as ``package.module:Class``.

    Raises:
        FedhaError: There is none of that name, its package is not installed, or it listens to nothing.
    """
    group = plugins.LOGGERS
    known = plugins.known(group)
    if name not in known and not named.is_own(name):
        raise FedhaError(f"--log is {name!r}{nearest(name, known, 'or name your own as package.module:Class')}")
    if name in plugins.BUILT_IN[group] and find_spec(name) is None:  # each is called after the package that it needs
        raise FedhaError(f"--log {name} needs a package that is not installed: pip install 'fedha[{name}]'")
    made = named.find("--log", plugins.location(group, name))()
    if not isinstance(made, Listener):
        raise FedhaError(f"--log is {name!r}, which makes a {type(made).__name__}; it needs the methods of a Listener")
    return made


class Logged:
    """A listener, and loggers that hear the same.

    A logger that fails is heard of once, and no more told: a full disk at a tracker ends no run.

    Args:
        first: Who is told first, and of what fails.
        loggers: The others, by name.
    """

    def __init__(self, first: Listener, loggers: Mapping[str, Listener]) -> None:
        self._first = first
        self._loggers = dict(loggers)
        self.failed: list[str] = []  # what was said of those that failed

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        """Tell all."""
        self._first.started(config, folder, first_round)
        self._tell(lambda one: one.started(config, folder, first_round))

    def round_done(self, record: Mapping[str, Any]) -> None:
        """Tell all."""
        self._first.round_done(record)
        self._tell(lambda one: one.round_done(record))

    def finished(self, results: Mapping[str, Any]) -> None:
        """Tell all."""
        self._first.finished(results)
        self._tell(lambda one: one.finished(results))

    def note(self, text: str) -> None:
        """Tell all."""
        self._first.note(text)
        self._tell(lambda one: one.note(text))

    def close(self) -> None:
        """End what the loggers keep open, where a run was stopped in its midst."""
        self._tell(lambda one: getattr(one, "close", lambda: None)())

    def _tell(self, event: Callable[[Listener], None]) -> None:
        for name, one in list(self._loggers.items()):
            try:
                event(one)
            except Exception as error:
                del self._loggers[name]
                self.failed.append(f"{name} hears no more of this run: {type(error).__name__}: {brief(error)}")
                self._first.note(self.failed[-1])


@contextmanager
def with_loggers(first: Listener, names: Sequence[str]) -> Iterator[Listener]:
    """A listener, joined by loggers that are closed at the end.

    Args:
        first: As in `Logged`.
        names: As in `logger`; none: the listener alone.

    Raises:
        FedhaError: As in `logger`.
    """
    if not names:
        yield first
        return
    logged = Logged(first, {name: logger(name) for name in names})
    try:
        yield logged
    finally:
        logged.close()
