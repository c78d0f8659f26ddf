"""The SuperLink, which says whom it refuses and why it fails: ``python -m fedha.deploy.superlink``, with the options of
``flower-superlink``.

flwr 1.41 answers a node whose clock is off with a bare 401. Where its disk is full it answers everybody with "Internal
server error.", which ends its nodes' work. Here the operator can ask for the cause (`fedha.deploy.troubles`), and where
the state cannot be written the answer is 503, after which nodes and apps come again until it can.
"""

import binascii
import os
import sqlite3
import sys
from base64 import b64decode
from dataclasses import dataclass
from datetime import datetime
from logging import WARNING
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore import log
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.error import http_error_translator
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from flwr.superlink import main as flower
from flwr.superlink.cli import flower_superlink
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fedha.deploy import clocks
from fedha.deploy.troubles import PATH, Troubles

_FLEET = "/v1/fleet/"
_STATE = "state"
_UNAUTHORIZED, _UNAVAILABLE = 401, 503


@dataclass(frozen=True)
class Explained:
    """Stands before Flower's routes, behind what makes errors of theirs into answers.

    Attributes:
        app: What is behind.
        troubles: What went wrong of late.
        state: The database's file.
    """

    app: ASGIApp
    troubles: Troubles
    state: Path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and look at what it raises."""
        if scope["type"] == "http" and scope["path"] == PATH:
            await JSONResponse(self.troubles.lasting())(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        except HTTPException as error:
            if error.status_code == _UNAUTHORIZED and scope["path"].startswith(_FLEET):
                await run_in_threadpool(self._refused, scope)
            raise
        except Exception as error:
            if (cause := unwritten(error, self.state)) is None:
                raise
            self.troubles.note(_STATE, cause)
            answer = JSONResponse({"code": _UNAVAILABLE, "detail": cause}, _UNAVAILABLE)
            await answer(scope, receive, send)

    def _refused(self, scope: Scope) -> None:
        signed = signer(Headers(scope=scope))
        if signed is None:
            return
        key, seconds = signed
        name = _name_of(scope, key)
        if name is not None and clocks.is_refused(seconds):
            self.troubles.note(f"clock {name}", f"{name} is refused: {clocks.sentence(name, seconds)}")


def signer(headers: Headers) -> tuple[bytes, float] | None:
    """Whose key signed a request, and by how many seconds its clock is ahead of ours; None where the signature is none.

    Args:
        headers: The request's.
    """
    try:
        key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
        signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
        stamp = headers[TIMESTAMP_HEADER]
        genuine = verify_signature(bytes_to_public_key(key), stamp.encode("ascii"), signature)
        return (key, (datetime.fromisoformat(stamp) - now()).total_seconds()) if genuine else None
    except (KeyError, ValueError, TypeError, binascii.Error):
        return None


def unwritten(error: BaseException, state: Path) -> str | None:
    """Why the server's state cannot be written; None where that is not what went wrong.

    Args:
        error: What a route raised.
        state: The database's file.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, sqlite3.OperationalError):
        seen = seen.__cause__ or seen.__context__
    if seen is None or not str(seen).startswith(("database or disk is full", "disk I/O error", "attempt to write")):
        return None
    disk = os.statvfs(state.parent)
    free = disk.f_bavail * disk.f_frsize / 2**20
    return (
        f"the server cannot write its state {state}: {seen} ({free:.0f} MiB are free there); "
        "make space, or look at the disk; then everything goes on by itself"
    )


def _name_of(scope: Scope, key: bytes) -> str | None:
    state = scope["app"].state.linkstate_factory.state()
    node = state.get_node_id_by_public_key(key)
    found = [] if node is None else list(state.get_node_info(node_ids=[node]))
    return str(found[0].name) if found and found[0].name else None


def _database(words: list[str]) -> Path:
    for place, word in enumerate(words):
        name, given, value = word.partition("=")
        if name == "--database":
            return Path(value if given else words[place + 1])
    return Path("state.db")


def main() -> None:
    """Run the SuperLink."""
    stock = flower._get_middleware
    troubles, state = Troubles(lambda text: log(WARNING, "fedha: %s", text)), _database(sys.argv[1:])

    def layers() -> list[Any]:
        found = stock()
        inside = next(place for place, one in enumerate(found) if http_error_translator in one.kwargs.values()) + 1
        return [*found[:inside], Middleware(Explained, troubles=troubles, state=state), *found[inside:]]

    vars(flower)["_get_middleware"] = layers
    flower_superlink()


if __name__ == "__main__":
    main()
