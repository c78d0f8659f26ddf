"""What may be lost of a Ray cluster while a run goes on: a node with its workers, or the head with everything."""

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError

from fedha.errors import ClusterError

LOOK_SECONDS = 5.0  # between looks at the head
_GIVE_UP_SECONDS = (
    15.0  # without a head; after 60 Ray ends this process in words of its own, and leaving it takes a while
)
_KNOCK_SECONDS = 3.0
_FETCH_SECONDS = 0.5  # between looks while something is fetched


@dataclass(frozen=True)
class Node:
    """A node of a cluster.

    Attributes:
        id: Ray's.
        name: Its machine's name and address, and the beginning of the id: a machine may have several.
        alive: Whether Ray still counts on it, and it answers.
        cpus: All that it has, busy or not.
    """

    id: str
    name: str
    alive: bool
    cpus: float


def nodes() -> dict[str, Node]:
    """The nodes that the cluster has, or had, by their ids."""
    found = ray.nodes()  # type: ignore[no-untyped-call]
    return {one.id: one for one in map(_node, found)}


def _node(told: Mapping[str, Any]) -> Node:
    """Ray needs a while, by default 15 seconds, to see that a node is gone; a knock tells it at once."""
    address = str(told.get("NodeManagerAddress", "?"))
    alive = bool(told["Alive"]) and (_through_client() or _answers(address, int(told["NodeManagerPort"])))
    cpus = float(told.get("Resources", {}).get("CPU", 0))
    name, number = told.get("NodeManagerHostname", "?"), str(told["NodeID"])
    return Node(number, f"{name} ({address}, {number[:8]})", alive, cpus)


def _through_client() -> bool:
    """Whether we talk through Ray's client: then the cluster's own ports may be out of reach."""
    return bool(ray.util.client.ray.is_connected())  # type: ignore[no-untyped-call]


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host.strip("[]"), port), timeout=_KNOCK_SECONDS).close()
    except OSError:
        return False
    return True


def fetch(asked: Sequence[Any], seconds: float, look: Callable[[], None]) -> list[Any]:
    """What was asked for, as `ray.get` has it, which itself sees neither a lost head nor a request to stop.

    Args:
        asked: Ray's references.
        seconds: How long it may take.
        look: Called before and, while it takes long, again and again; may raise to end the wait.

    Raises:
        GetTimeoutError: It took longer.
    """
    deadline = time.monotonic() + seconds
    while True:
        look()
        patience = max(0.0, min(_FETCH_SECONDS, deadline - time.monotonic()))
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=patience)
        if len(ready) == len(asked):
            found: list[Any] = ray.get(list(asked))
            return found
        if time.monotonic() >= deadline:
            raise GetTimeoutError(f"no answer within {seconds:g} s")


def node_with_room(known: Mapping[str, Node], held: Iterable[str], cpus: float) -> Node | None:
    """The node for a worker whose own is lost: of those with so many CPUs, the one with fewest workers for its size.

    Args:
        known: All nodes.
        held: The node of each worker that still has one.
        cpus: What the worker takes where it need not share.
    """
    there = list(held)
    fitting = [one for one in known.values() if one.alive and one.cpus >= max(cpus, 1e-9)]
    return min(fitting, key=lambda one: (there.count(one.id) / one.cpus, one.id), default=None)


class Head:
    """Watches the cluster's head, without which no process can be started and Ray soon ends this one.

    Args:
        note: Told, in a sentence, when it does not answer, and when it does again.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._address = "" if _through_client() else str(ray.get_runtime_context().gcs_address)
        self._looked = time.monotonic()
        self._silent: float | None = None  # since when

    def look(self, *, now: bool = False) -> None:
        """See whether it answers, if that was not done a moment ago.

        Args:
            now: In any case, and until it answers.

        Raises:
            ClusterError: It has not for long.
        """
        host, _, port = self._address.rpartition(":")
        while now or self._silent is not None or time.monotonic() >= self._looked + LOOK_SECONDS:
            self._looked = time.monotonic()
            if not self._address or _answers(host, int(port)):
                if self._silent is not None:
                    self._note(f"the head of the Ray cluster at {self._address} answers again")
                self._silent = None
                return
            if self._silent is None:
                self._silent = time.monotonic()
                self._note(f"the head of the Ray cluster at {self._address} does not answer; waiting for it")
            if time.monotonic() >= self._silent + _GIVE_UP_SECONDS:
                raise ClusterError(f"the head of the Ray cluster at {self._address} is gone")
            time.sleep(1.0)
