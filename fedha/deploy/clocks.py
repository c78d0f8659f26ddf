"""Two machines' clocks: identities are signed times, so a clock that is off shuts a site out."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


def ahead(header: str | None, now: datetime) -> float | None:
    """Seconds by which a clock is ahead of a server's, negative where it is behind.

    Args:
        header: The ``Date`` of an answer that has just come, to the second; None if it had none.
        now: The clock's time then, with a zone.

    Returns:
        None where the header is no date.
    """
    try:
        there = parsedate_to_datetime(header or "")
    except ValueError:
        return None
    there = there if there.tzinfo else there.replace(tzinfo=UTC)
    return (now - there).total_seconds()


def is_refused(seconds: float) -> bool:
    """Whether a SuperLink refuses identities signed by a clock so far ahead: it takes late ones sooner than early ones.

    A ``Date`` has whole seconds, so the bounds are drawn a second tighter.
    """
    return seconds > SYSTEM_TIME_TOLERANCE - 1 or seconds < -TIMESTAMP_TOLERANCE


def sentence(whose: str, seconds: float) -> str:
    """The sentence for a clock that is off.

    Args:
        whose: Such as ``this machine``.
        seconds: By which it is ahead of the server's.
    """
    side = "ahead of" if seconds > 0 else "behind"
    return (
        f"the clock of {whose} is {duration(abs(seconds))} {side} the server's, which takes what was signed up to "
        f"{duration(TIMESTAMP_TOLERANCE)} behind and {duration(SYSTEM_TIME_TOLERANCE)} ahead of its own; "
        "set both by NTP"
    )


def duration(seconds: float) -> str:
    """A time in its largest unit of which there are two, rounded: ``90 seconds``, ``10 minutes``, ``1 second``."""
    unit, length = next((one for one in _UNITS if round(seconds) >= 2 * one[1]), _UNITS[-1])
    count = round(seconds / length)
    return f"{count} {unit}{'' if count == 1 else 's'}"
