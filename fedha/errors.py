"""The errors that end a run: those that a user can act on, and those of a client's own code."""

import traceback
from collections.abc import Iterable

_FEW = 8  # names that a sentence can hold


def listed(names: Iterable[object], most: int = _FEW, between: str = ", ") -> str:
    """Names in a sentence: ``a, b, c``, or the first of many ``and 292 more``."""
    given = [str(one) for one in names]
    rest = len(given) - most
    return between.join(given) if rest <= 0 else f"{between.join(given[:most])} and {rest:,} more"


def brief(error: BaseException, most: int = 200) -> str:
    """What an exception of somebody else's says, in one line that is never a long one: it may quote what it read."""
    told = " ".join(str(error).split())
    return told if len(told) <= most else f"{told[: most - 1]}…"


def failing_line(error: BaseException) -> str:
    """Where an exception of somebody else's code comes from, as ``FILE, line N``."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}, line {last.lineno}"


class FedhaError(Exception):
    """Something the user gave or asked for is wrong; the message says what, with the value, and what to do.

    The command line prints it as one sentence and exits with code 2.
    """


class UnwrittenError(FedhaError):
    """A file cannot be written: the place is at fault, not what was asked for."""


class StoppedError(FedhaError):
    """The run was asked to stop before its end; it goes on from its checkpoint."""


class ClusterError(FedhaError):
    """What a run computes on is gone; it can go on from its checkpoint, somewhere else."""


class ClientError(Exception):
    """A client's code failed in a way that nobody expected; the message says whose, when and why.

    Args:
        message: One sentence.
        trace: The client's own traceback, kept as a note, or "".
    """

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        if trace:
            self.add_note(f"The client's own traceback:\n\n{trace.strip()}")
