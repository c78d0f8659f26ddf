"""The SuperLink's control API: which keys it knows, and who is online.

It has no accounts: whoever reaches it may use it. Flower's own client speaks with it, since `flwr supernode list`
leaves out keys and names.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from fedha.errors import FedhaError

UNREGISTERED = "unregistered"
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Node:
    """A SuperNode as the SuperLink knows it.

    Attributes:
        node_id: Flower's number.
        name: The client's, as it was registered.
        key: The public key, as PEM.
        status: registered, online, offline or unregistered; the last is final.
        seen: When it was last connected; None: never.
    """

    node_id: int
    name: str
    key: bytes
    status: str
    seen: datetime | None = None


@dataclass(frozen=True)
class Control:
    """A connection to a SuperLink's control API.

    Attributes:
        address: ``host:port``.
        client: Flower's.
    """

    address: str
    client: ControlHttpClient

    def nodes(self) -> list[Node]:
        """All nodes that were ever registered.

        Raises:
            FedhaError: The SuperLink does not answer, or refuses.
        """
        with _explained(self.address):
            found = self.client.ListNodes(ListNodesRequest()).nodes_info
        return [Node(one.node_id, one.name, bytes(one.public_key), one.status, _seen(one)) for one in found]

    def register(self, name: str, key: bytes) -> int:
        """Make a key known, and return the node's number.

        Raises:
            FedhaError: The SuperLink does not answer, or knows the key, if only as a former one.
        """
        with _explained(self.address):
            return int(self.client.RegisterNode(RegisterNodeRequest(public_key=key, name=name)).node_id)

    def unregister(self, node_id: int) -> None:
        """Refuse a node's key from now on, for ever.

        Raises:
            FedhaError: The SuperLink does not answer, or knows no such node.
        """
        with _explained(self.address):
            self.client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))


@contextmanager
def connect(address: str, trusted: Path) -> Iterator[Control]:
    """A connection for as long as the block lasts; nothing is sent before the first question.

    Args:
        address: ``host:port`` of the SuperLink.
        trusted: The authority's certificate.

    Raises:
        FedhaError: The certificate cannot be read.
    """
    try:
        certificate = trusted.read_bytes()
    except OSError as error:
        raise FedhaError(f"cannot read {trusted}: {error.strerror}; it came with the federation's folder") from error
    with ControlHttpClient.from_server_address(
        address, False, certificate, [RuntimeVersionHttpInterceptor(component_name="fedha")]
    ) as client:
        yield Control(address, client)


def wait(control: Control, seconds: float) -> list[Node]:
    """The nodes, as soon as the SuperLink answers.

    Args:
        control: The connection.
        seconds: How long to wait for it.

    Raises:
        FedhaError: It did not answer in time, or it refuses.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return control.nodes()
        except UnreachableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)


def last_seen(nodes: Iterable[Node]) -> dict[str, datetime]:
    """When each client was last connected, by name; those that never were are not among them."""
    seen: dict[str, datetime] = {}
    for node in nodes:
        if node.seen is not None:
            seen[node.name] = max(node.seen, seen.get(node.name, node.seen))
    return seen


def _seen(node: NodeInfo) -> datetime | None:
    """A node that is offline without having said so was there until its last sign of life, or a minute longer."""
    if not node.last_activated_at:
        return None
    now = datetime.now(UTC)
    ended = datetime.fromisoformat(node.last_deactivated_at) if node.last_deactivated_at else None
    began = datetime.fromisoformat(node.last_activated_at)
    if node.status != "online" and ended is not None and ended >= began:
        return ended
    return min(now, datetime.fromtimestamp(node.online_until, UTC)) if node.online_until else began


class UnreachableError(FedhaError):
    """Nobody answers, yet."""


def public_key(path: Path) -> bytes:
    """A client's public key in the form that the SuperLink keeps.

    Args:
        path: As OpenSSH writes it.

    Raises:
        FedhaError: It cannot be read, or is no such key.
    """
    try:
        key = load_ssh_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FedhaError(
            f"{path} is no public key of a client ({error}); make a new one with `fedha deploy rotate`"
        ) from error
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        known = FlowerError.from_json(error.response.text)
        reason = known.message if known is not None else f"status {error.response.status_code}"
        if error.response.status_code in (502, 503, 504):
            raise UnreachableError(f"the SuperLink at {address} is not ready: {reason}; try again later") from error
        raise FedhaError(f"the SuperLink at {address} refuses: {reason}") from error
    except httpx.TransportError as error:
        if "certificate" in str(error).lower():
            raise FedhaError(
                f"{address} shows a certificate that this federation's authority did not sign ({error}); "
                "correct the address, or restart the server after `fedha deploy rotate`"
            ) from error
        raise UnreachableError(
            f"no SuperLink answers at {address} ({error}); start the server, and mind that its control API is open "
            "to the containers of its own network alone"
        ) from error
