"""Who has a part in a run: a client that has none says so when it is to introduce itself; no source has two clients."""

from collections.abc import Sequence

from flwr.app import ConfigRecord, Message, RecordDict

from fedha.cohort import Member
from fedha.config import DataConfig
from fedha.data.part import source_names
from fedha.errors import FedhaError

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
    record = message.content[_OUTSIDE]
    reason = record.get("reason", "") if isinstance(record, ConfigRecord) else ""
    return str(reason)[:1000] or "it does not say why"


def check_once(config: DataConfig, members: Sequence[Member]) -> None:
    """Look that no source counts twice; where the config does not name them, sites may call theirs alike.

    Args:
        config: Of a deployment's run.
        members: All clients that introduced themselves.

    Raises:
        FedhaError: Two hold the same one.
    """
    if source_names(config) is None:
        return
    holders: dict[str, int] = {}
    for one in members:
        other = holders.setdefault(one.domain, one.client_id)
        if other != one.client_id:
            raise FedhaError(
                f"clients {other} and {one.client_id} both hold the domain {one.domain!r}, which would count twice; "
                "look at their folders of data"
            )
