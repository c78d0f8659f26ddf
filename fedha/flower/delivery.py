"""Sending messages over a grid and taking replies as they come."""

import time
from collections.abc import Iterable, Iterator, Sequence

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

_LOOK_SECONDS = 0.05  # Flower's own loop looks every three seconds in a deployment

# The client is not there, or its process is gone; it may come back. Other codes are its own doing.
_GONE = frozenset(
    {
        ErrorCode.UNKNOWN,
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.CLIENT_APP_CRASHED,
    }
)


def deliver(grid: Grid, messages: Sequence[Message], timeout: float) -> Iterator[Message]:
    """Send messages, and yield their replies as they come, errors among them.

    Args:
        grid: Flower's, or one of ours, which does not need to be looked at again and again.
        messages: To any nodes.
        timeout: Seconds until replies that are missing are given up.
    """
    if not type(grid).__module__.startswith("flwr."):
        yield from grid.send_and_receive(messages, timeout=timeout)
        return
    waiting = {one for one in grid.push_messages(messages) if one}
    deadline = time.monotonic() + timeout
    while waiting and time.monotonic() < deadline:
        replies = list(grid.pull_messages(waiting))
        waiting -= {reply.metadata.reply_to_message_id for reply in replies}
        yield from replies
        if not replies:
            time.sleep(_LOOK_SECONDS)


def is_gone(reply: Message) -> bool:
    """Whether an error reply says that the client is not there, rather than that it failed."""
    return reply.error.code in _GONE


def nodes_of(grid: Grid) -> Iterable[int]:
    """The nodes that are connected, in ascending order."""
    return sorted(grid.get_node_ids())
