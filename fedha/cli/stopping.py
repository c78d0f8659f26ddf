"""Ctrl-C and SIGTERM: noted for the whole of a command, so that none is lost, and looked at where it is safe.

A handler that raises does so wherever Python happens to be. In a finalizer, a weakref's callback or a hook of the
garbage collector, Python prints the exception and goes on: the signal is swallowed. So what counts is the note, which
work that can be continued looks at between its steps; the exception only ends what does not look, and sooner.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from fedha.errors import StoppedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 128 + signal.SIGINT
_TOLD = b"fedha: stopping; what is done will be saved (once more: stop at once, without saving)\n"


@dataclass
class _Note:
    """What this process has been asked.

    Attributes:
        signal: The first signal that came; 0 for none.
        patient: How many pieces of work are under way that look at it by themselves.
    """

    signal: int = 0
    patient: int = 0


_note = _Note()


@contextmanager
def noted() -> Iterator[None]:
    """Note the signals that ask this process to end, for as long as the block lasts; those it ignores stay ignored."""
    outside, _note.signal = _note.signal, 0
    mine = threading.current_thread() is threading.main_thread()  # no other one may set handlers
    before = {one: signal.getsignal(one) for one in _SIGNALS if mine}
    handled = [one for one, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for one in handled:
        signal.signal(one, _handle)
    try:
        yield
    finally:
        for one in handled:
            signal.signal(one, before[one])
        _note.signal = outside


@contextmanager
def patiently() -> Iterator[None]:
    """Work that looks at `asked` between its steps: the first signal does not break into it, the second does."""
    _note.patient += 1
    try:
        yield
    finally:
        _note.patient -= 1


def asked() -> bool:
    """Whether this process was asked to end."""
    return _note.signal != 0


def check(what: str) -> None:
    """Between two steps.

    Raises:
        StoppedError: This process was asked to end; the message is `what`.
    """
    if asked():
        raise StoppedError(what)


def exit_code() -> int:
    """What shells give for the signal that came: 130 for Ctrl-C, 143 for SIGTERM; 130 if none was noted."""
    return 128 + (_note.signal or signal.SIGINT)


def _handle(number: int, frame: FrameType | None) -> None:
    first, _note.signal = not _note.signal, _note.signal or number
    if not (first and _note.patient):
        raise KeyboardInterrupt
    os.write(2, _TOLD)  # not through a stream, which may be in the middle of a write
