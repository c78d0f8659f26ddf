"""A client that is connected and has no part in a run: it says so when it is to introduce itself, and is left alone."""

from flwr.app import ConfigRecord, Message, RecordDict

_OUTSIDE = "no part"


def outside(reason: str) -> RecordDict:
    """A reply: this client has no part in the run.

    Args:
        reason: Why, as the rest of a sentence about it.
    """
    return RecordDict({_OUTSIDE: ConfigRecord({"reason": reason})})


def is_outside(message: Message) -> str | None:
    """Why a client has no part in the run, from its reply; None where it has one."""
    if message.has_error() or _OUTSIDE not in message.content:
        return None
    return str(message.content.config_records[_OUTSIDE]["reason"])
