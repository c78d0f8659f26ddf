"""What goes wrong at the server is told once, in its own words, for as long as it lasts."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.supercore.error import FlowerError
from flwr.supercore.protobuf.client import ProtobufRequestContext
from starlette.types import Receive, Scope, Send

from fedha.deploy import healthy
from fedha.deploy.connection import Watch
from fedha.deploy.superlink import Explained, unwritten
from fedha.deploy.troubles import PATH, Troubles


def full_disk(folder: Path) -> sqlite3.OperationalError:
    """SQLite's own error where nothing more fits."""
    database = sqlite3.connect(folder / "state.db")
    database.execute("CREATE TABLE kept (value BLOB)")
    database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError) as raised:
        database.execute("INSERT INTO kept VALUES (?)", [bytes(100_000)])
    database.close()
    return raised.value


def served(error: Exception, path: str, troubles: Troubles, state: Path) -> tuple[int, bytes]:
    """The answer to a request at a route that raises this error."""

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "method": "POST", "headers": []}
    asyncio.run(Explained(route, troubles, state)(scope, None, send))  # type: ignore[arg-type]
    return sent[0]["status"], b"".join(one.get("body", b"") for one in sent)


def test_a_state_that_does_not_fit_is_a_reason_to_wait_and_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    troubles = Troubles(told.append)
    wrapped = RuntimeError("the session failed")
    wrapped.__cause__ = full_disk(tmp_path)
    status, body = served(wrapped, "/v1/control/start-run", troubles, tmp_path / "state.db")
    assert status == 503  # Flower comes again after it, and gives up after 500
    known = FlowerError.from_json(body.decode())
    assert known is not None
    assert f"cannot write its state {tmp_path / 'state.db'}: database or disk is full" in known.message
    assert told == troubles.lasting() == [known.message]
    assert served(wrapped, PATH, troubles, tmp_path / "state.db")[1].decode().count("disk is full") == 1


def test_what_is_no_trouble_of_the_disks_stays_what_it_is(tmp_path: Path) -> None:
    troubles = Troubles(lambda text: None)
    with pytest.raises(ValueError, match="something else"):
        served(ValueError("something else"), "/v1/control/start-run", troubles, tmp_path / "state.db")
    assert unwritten(sqlite3.OperationalError("no such table: node"), tmp_path / "state.db") is None
    assert troubles.lasting() == []


def test_a_trouble_is_told_again_only_after_it_was_over() -> None:
    told: list[str] = []
    clock = [0.0]
    troubles = Troubles(told.append, lambda: clock[0])
    for second in (0.0, 60.0, 120.0, 180.0):
        clock[0] = second
        troubles.note("clock west", "west is late")
    assert told == ["west is late"]
    clock[0] = 1000.0
    assert troubles.lasting() == []
    troubles.note("clock west", "west is late")
    assert len(told) == 2


# --- at a site ---


def ask(watch: Watch, answer: Callable[[], httpx.Response]) -> httpx.Response:
    request = httpx.Request("POST", "https://proxy:8443/v1/fleet/pull-messages")
    return watch.intercept(ProtobufRequestContext("", None, request), lambda context: answer())  # type: ignore[arg-type]


def failing(error: Exception) -> Callable[[], httpx.Response]:
    def answer() -> httpx.Response:
        raise error

    return answer


def test_what_would_end_flowers_work_for_good_is_waited_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Flower gives up after 500, and after an error whose text speaks of certificates."""
    watch = Watch(tmp_path / "connected")
    foreign = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate"
    for _ in range(2):
        with pytest.raises(httpx.ConnectError) as raised:
            ask(watch, failing(httpx.ConnectError(foreign)))
        assert not any(word in str(raised.value).lower() for word in ("certificate", "ssl", "tls"))
    assert caplog.text.count("shows no certificate of this federation's server") == 1
    with pytest.raises(httpx.RemoteProtocolError, match="the server at proxy:8443 failed"):
        ask(watch, lambda: httpx.Response(500, text="oops", request=httpx.Request("POST", "https://proxy")))
    assert not watch.connected or not watch.connected.exists()


def test_a_node_is_healthy_while_the_server_answers_it(tmp_path: Path) -> None:
    file = tmp_path / "connected"
    with pytest.raises(OSError, match="has not answered this node yet"):
        healthy.main([f"--connected={file}"])
    ask(Watch(file), lambda: httpx.Response(200))
    healthy.main([f"--connected={file}"])
    written = file.stat().st_mtime
    healthy.check_connected(file, written + 170)
    with pytest.raises(OSError, match="last answered this node 10 minutes ago"):
        healthy.check_connected(file, written + 600)


# --- what is kept running ---


@pytest.mark.slow
def test_what_ends_starts_again_until_we_are_asked_to_end() -> None:
    program = "import sys; sys.stdout.write('up\\n'); sys.stdout.flush()"
    keeper = (
        "import sys; from fedha.deploy.supervisor import keep;"
        f"sys.exit(keep([sys.executable, '-c', {program!r}], lambda text: print(text, flush=True)))"
    )
    process = subprocess.Popen([sys.executable, "-c", keeper], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = [process.stdout.readline().strip() for _ in range(4)]
    finally:
        process.terminate()
    again = "it ended with status 0 and starts again in"
    assert said == ["up", f"{again} 1 s", "up", f"{again} 2 s"]
    assert process.wait(timeout=30) == 0
