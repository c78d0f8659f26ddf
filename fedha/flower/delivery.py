"""Sending messages over a grid and taking replies as they come."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedha.errors import StoppedError

# Flower's own loop looks every three seconds in a deployment. Each look costs its SuperLink milliseconds.
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 0.25

# A run that ends while a SuperNode is about to confirm a message leaves the message's ClientApp running there, and the
# node then sends every later answer one message late (flwr 1.41). So a stopped run gives its messages time to arrive.
_ARRIVED_SECONDS = 30.0

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


def never() -> bool:
    """Nobody asks a run to stop."""
    return False


def stop_if_asked(stop: Callable[[], bool]) -> None:
    """Where nothing is under way.

    Raises:
        StoppedError: The run is asked to stop.
    """
    if stop():
        raise StoppedError("stopped while the clients were asked")


def deliver(
    grid: Grid, messages: Sequence[Message], timeout: float, stop: Callable[[], bool] = never
) -> Iterator[Message]:
    """Send messages, and yield their replies as they come, errors among them.

    Args:
        grid: Flower's, or one of ours, which does not need to be looked at again and again.
        messages: To any nodes.
        timeout: Seconds until replies that are missing are given up.
        stop: Asked over Flower's grids, whether to stop: as soon as what was sent has surely arrived. Our own are given
            theirs.

    Raises:
        StoppedError: It says so.
    """
    if not type(grid).__module__.startswith("flwr."):
        yield from grid.send_and_receive(messages, timeout=timeout)
        return
    stop_if_asked(stop)
    waiting = {one for one in grid.push_messages(messages) if one}
    begun = time.monotonic()
    deadline, pause = begun + timeout, _FIRST_LOOK
    while waiting and time.monotonic() < deadline:
        if stop() and time.monotonic() > begun + _ARRIVED_SECONDS:
            break
        replies = list(grid.pull_messages(waiting))
        waiting -= {reply.metadata.reply_to_message_id for reply in replies}
        yield from replies
        if not replies:
            time.sleep(pause)
        pause = _FIRST_LOOK if replies else min(1.5 * pause, _LONGEST_LOOK)
    stop_if_asked(stop)


def is_gone(reply: Message) -> bool:
    """Whether an error reply says that the client is not there, rather than that it failed."""
    return reply.error.code in _GONE


def is_simulation(grid: Grid) -> bool:
    """Whether a grid is that of Flower's own simulation, whose module takes a second to import where nobody has yet."""
    module = sys.modules.get("flwr.superlink.grid.inmemory_grid")
    return module is not None and isinstance(grid, module.InMemoryGrid)
