"""Server and client tell each other which fedha they run when they meet; what does not fit is refused by both.

What fits is decided by the protocol, a number of its own: the version changes with every release, the protocol when
messages or what they mean change. A fedha before 0.2.0 says neither, and has none of it.
"""

from collections.abc import Mapping

from flwr.app import ConfigRecord, RecordDict

from fedha import __version__

PROTOCOL = 4
_RECORD = "fedha"


def greeting() -> ConfigRecord:
    """What each side says of itself."""
    return ConfigRecord({"version": __version__, "protocol": PROTOCOL})


def greeted(content: RecordDict) -> RecordDict:
    """A first message with our greeting."""
    return RecordDict({**content, _RECORD: greeting()})


def refusal(content: RecordDict, who: str, own: str) -> str | None:
    """Why the sender of a first message cannot be worked with, in a sentence; None if it can.

    Args:
        content: With the greeting of the other side.
        who: The other side, such as ``the server``.
        own: This side, such as ``this site``.
    """
    said = _said(content)
    if said.get("protocol") == PROTOCOL:
        return None
    theirs = f"{said['version']} (protocol {said.get('protocol')})" if said else "before 0.2.0, which does not say so"
    return (
        f"{who} runs fedha {theirs}, and {own} fedha {__version__} (protocol {PROTOCOL}), which do not understand each "
        "other; install the same version on both"
    )


def difference(content: RecordDict, who: str) -> str | None:
    """Which other version that fits the sender of a first message runs; None if it is ours."""
    theirs = _said(content).get("version")
    if theirs in (None, __version__):
        return None
    return f"{who} runs fedha {theirs}, and this server {__version__}: both speak protocol {PROTOCOL}"


def _said(content: RecordDict) -> Mapping[str, object]:
    record = content.get(_RECORD)
    if not isinstance(record, ConfigRecord) or "version" not in record:
        return {}
    return {**record, "version": str(record["version"])[:50]}
