"""A SuperNode's process that ends where its connection ends, and says why the server does not take it.

In flwr 1.41 a certificate that is not the server's, an answer of status 500, or an error in a thread ends a SuperNode's
work, while its process stays and looks alive. Here the first two are waited out; what else ends the work ends the
process, and `fedha.deploy.node` starts it again.
"""

import os
import signal
import sys
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from logging import ERROR, WARNING
from pathlib import Path
from typing import Any

import httpx
from flwr.supercore import log
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode import fleet_http_connection
from flwr.supernode.cli import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient

from fedha.deploy import clocks

CONNECTED = "--connected="
_ENDED = 1


@dataclass
class Watch:
    """Looks at each answer of the server to a SuperNode; one of Flower's interceptors.

    Attributes:
        connected: A file whose time is that of the last good answer; None: none is kept.
    """

    connected: Path | None = None
    _said: str = field(default="", init=False)

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Pass a request on, and look at what comes back.

        Raises:
            TransportError: In a form after which Flower asks again, with pauses, for as long as it takes.
        """
        address = context.request.url.netloc.decode()
        try:
            response = call_next(context)
        except httpx.TransportError as error:
            self._say(_unreached(address, error))
            if _is_stranger(error):
                raise httpx.ConnectError(f"somebody else answers at {address}") from error  # no word that ends Flower
            raise
        if response.is_success:
            self._said = ""
            if self.connected is not None:
                self.connected.touch()
        else:
            self._say(refused(response, datetime.now(UTC)))
        if response.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            raise httpx.RemoteProtocolError(f"the server at {address} failed")
        return response

    def _say(self, text: str) -> None:
        """Say what is wrong, once for as long as it is the same."""
        if text != self._said:
            log(ERROR, "fedha: %s", text)
        self._said = text


def refused(response: httpx.Response, now: datetime) -> str:
    """Why the server answers a SuperNode with an error, as far as that can be seen from here.

    Args:
        response: The server's.
        now: This machine's time when it came.
    """
    ahead = clocks.ahead(response.headers.get("date"), now)
    if response.status_code == httpx.codes.UNAUTHORIZED and ahead is not None and clocks.is_refused(ahead):
        return clocks.sentence("this machine", ahead)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return "the server does not know this site's key: it was not registered, or was replaced; ask the operator"
    known = FlowerError.from_json(response.text)
    if known is not None and known.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return (
            "the server does not take this node: its key was not registered or was replaced, or the place of a node "
            "that ended here without a word is kept for another minute"
        )
    said = " ".join(response.text.split())[:500]
    return f"the server answers {response.request.url.path} with status {response.status_code}: {said or 'no word'}"


def _unreached(address: str, error: httpx.TransportError) -> str:
    text = str(error) or type(error).__name__
    if not _is_stranger(error):
        return f"cannot reach the server at {address}: {text}"
    clock = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return (
        f"{address} shows no certificate of this federation's server: {text}; look at the address, at who "
        f"answers there, and at this machine's clock, which says {clock}"
    )


def _is_stranger(error: httpx.TransportError) -> bool:
    return any(word in str(error).lower() for word in ("certificate", "ssl", "tls"))


def main() -> None:
    """Run the SuperNode until its connection ends."""
    connected = [Path(word.removeprefix(CONNECTED)) for word in sys.argv if word.startswith(CONNECTED)]
    sys.argv = [word for word in sys.argv if not word.startswith(CONNECTED)]
    watch = Watch(connected[-1] if connected else None)

    class Watched:
        """Flower's client, with the watch among its interceptors."""

        @staticmethod
        def from_server_address(
            address: str, insecure: bool, certificates: bytes | str | None, interceptors: list[Any]
        ) -> FleetHttpClient:
            return FleetHttpClient.from_server_address(address, insecure, certificates, [*interceptors, watch])

    vars(fleet_http_connection)["FleetHttpClient"] = Watched
    threading.excepthook = _thread_failed
    if not sys.stdin.isatty():
        threading.Thread(target=_end_with_parent, daemon=True).start()
    flower_supernode()
    log(ERROR, "fedha: the connection to the server has ended")
    os._exit(_ENDED)  # Flower's own server would keep the process, and nothing of it is worth keeping


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Flower's heartbeats are a thread; without them the server takes the node for gone, and the node does not know."""
    if failed.exc_type is SystemExit:
        return
    name = failed.thread.name if failed.thread else "?"
    log(ERROR, "fedha: the SuperNode's thread %s failed", name, exc_info=failed.exc_value)
    os._exit(_ENDED)


def _end_with_parent() -> None:
    """The other end of our input closes when `fedha.deploy.node` ends, however that happens."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    log(WARNING, "fedha: what started this SuperNode has ended, so it ends too")
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
