"""A run's events from one process to another: a file that grows by a line an event."""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fedha.atomic import finite
from fedha.config import Config
from fedha.errors import FedhaError, UnwrittenError, brief
from fedha.jsonfile import parse_json
from fedha.runs.shapes import wrong_line

_TEXTS = ("note", "failed", "stopped", "lost")  # events that are told in a sentence


class EventFile:
    """A listener that writes what it hears to a file.

    Args:
        path: Made with the first event.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        """Write the first round; who reads knows the rest."""
        self._write("started", first_round)

    def round_done(self, record: Mapping[str, Any]) -> None:
        """Write the record."""
        self._write("round_done", record)

    def finished(self, results: Mapping[str, Any]) -> None:
        """Write that it is so; the results are in the run's folder."""
        self._write("finished", None)

    def note(self, text: str) -> None:
        """Write the text."""
        self._write("note", text)

    def failed(self, reason: str) -> None:
        """Write why the run ends early."""
        self._write("failed", reason)

    def stopped(self, where: str) -> None:
        """Write that the run ends early because it was asked to, and where."""
        self._write("stopped", where)

    def crashed(self, sentence: str, trace: str) -> None:
        """Write what nobody expected, with its traceback."""
        self._write("crashed", [sentence, trace])

    def lost(self, sentence: str) -> None:
        """Write that the run ends through no fault of its own, and may go on from its checkpoint."""
        self._write("lost", sentence)

    def _write(self, event: str, value: Any) -> None:
        """Add a line, the whole of it or nothing: on a disk that is full the next one must not join a part of this.

        Raises:
            FedhaError: It cannot be written.
        """
        line = json.dumps([event, finite(value)]).encode() + b"\n"
        try:
            with self.path.open("ab", buffering=0) as file:
                before = file.seek(0, os.SEEK_END)
                if file.write(line) < len(line):
                    file.truncate(before)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UnwrittenError(f"cannot write {self.path}: {error.strerror}; free some space, then resume") from error


def stop_file(events: Path) -> Path:
    """The file that asks the run of an event file to stop by being there."""
    return events.with_suffix(".stop")


def new_events(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """The events since the last call: the listener's method, and what it was told.

    Args:
        file: An `EventFile`'s, open for reading.

    Raises:
        FedhaError: A line is none that it writes.
    """
    while (line := file.readline()).endswith(b"\n"):
        try:
            event, value = parse_json(line)
            _check(event, value)
        except (TypeError, ValueError) as error:
            raise FedhaError(f"a line of the run's events cannot be read ({brief(error)}); resume the run") from error
        yield event, value
    file.seek(-len(line), os.SEEK_CUR)


def _check(event: Any, value: Any) -> None:
    """Raise ValueError where no listener is told such a thing."""
    if event == "round_done":
        wrong = (wrong_line(value) or "") if isinstance(value, dict) and "round" in value else "it is no round"
    elif event == "crashed":
        told = isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value)
        wrong = "" if told else "it holds no sentence and trace"
    else:
        kinds: dict[Any, type] = {"started": int, "finished": type(None), **dict.fromkeys(_TEXTS, str)}
        known = isinstance(event, str) and event in kinds and type(value) is kinds[event]
        wrong = "" if known else "it holds no event"
    if wrong:
        raise ValueError(wrong)
