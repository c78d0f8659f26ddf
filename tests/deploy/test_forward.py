"""A site's way out: to one address, as it is, through a proxy if there is one; and never to a proxy among ourselves."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedha.deploy import compose, forward
from fedha.deploy.forward import Proxy, parse_address, parse_proxy
from fedha.deploy.inventory import Client
from fedha.deploy.locations import InitFolder
from fedha.errors import FedhaError
from tests.deploy.federations import MADE, make
from tests.deploy.running import Running, free_port

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The server's door: says what it hears, in capitals."""
    while piece := await reader.read(2**16):
        writer.write(piece.upper())
    writer.close()


class Tunnel:
    """A proxy that speaks CONNECT, or refuses.

    Attributes:
        asked: What it was asked, head by head.
    """

    def __init__(self, status: str = "200 Connection established") -> None:
        self.status, self.asked = status, list[str]()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        writer.write(f"HTTP/1.1 {self.status}\r\n\r\n".encode())
        if not self.status.startswith("200"):
            writer.close()
            return
        host, _, port = head.split()[1].rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        await forward.carry((reader, writer), (there, back))


async def say(port: int, text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


async def through(proxy: Proxy | None, door: int, text: bytes) -> bytes:
    """What comes back from the door through a forwarder of ours."""
    port = free_port()
    task = asyncio.create_task(forward.serve(("127.0.0.1", door), proxy, ("127.0.0.1", port)))
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                return await say(port, text)
            await asyncio.sleep(0)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_what_comes_in_goes_to_the_door_and_back() -> None:
    async def scenario() -> bytes:
        async with listening(echo) as door:
            return await through(None, door, b"hello" * 100_000)

    assert asyncio.run(scenario()) == b"HELLO" * 100_000


@pytest.mark.parametrize("credentials", ["", "user:pass word"])
def test_a_proxy_is_asked_for_the_door_and_nothing_else(credentials: str) -> None:
    tunnel = Tunnel()

    async def scenario() -> tuple[int, bytes]:
        async with listening(echo) as door, listening(tunnel) as proxy:
            return door, await through(Proxy("127.0.0.1", proxy, credentials), door, b"hello")

    door, answer = asyncio.run(scenario())
    assert answer == b"HELLO"
    (head,) = tunnel.asked
    assert head.startswith(f"CONNECT 127.0.0.1:{door} HTTP/1.1\r\nHost: 127.0.0.1:{door}\r\n")
    assert ("Proxy-Authorization: Basic dXNlcjpwYXNzIHdvcmQ=\r\n" in head) == bool(credentials)


@pytest.mark.parametrize(
    ("status", "reason"),
    [("403 Forbidden", "refuses a connection to 127.0.0.1:"), ("407 Proxy Authentication Required", "407")],
)
def test_a_proxy_that_refuses_is_said_once_and_ends_the_connection(
    status: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> bytes:
        async with listening(echo) as door, listening(Tunnel(status)) as proxy:
            return await through(Proxy("127.0.0.1", proxy), door, b"hello")

    assert asyncio.run(scenario()) == b""
    said = capsys.readouterr().err
    assert said.startswith("fedha: no way to 127.0.0.1:")
    assert reason in said


def test_a_door_that_is_closed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert asyncio.run(through(None, free_port(), b"hello")) == b""
    assert "fedha: no way to 127.0.0.1:" in capsys.readouterr().err


def test_addresses_are_read_or_refused_without_their_password() -> None:
    assert parse_proxy("") is None
    assert parse_proxy("http://proxy.example.org:3128") == Proxy("proxy.example.org", 3128)
    assert parse_proxy("http://me:a%40b@10.0.0.1:80/") == Proxy("10.0.0.1", 80, "me:a@b")
    assert parse_address("fed.example.org:443") == ("fed.example.org", 443)
    assert parse_address("[::1]:8443") == ("::1", 8443)
    for wrong in ("proxy:3128", "https://proxy:3128", "http://proxy", "http://me:secret@proxy:99999999"):
        with pytest.raises(FedhaError, match="FEDHA_PROXY is ") as told:
            parse_proxy(wrong)
        assert "secret" not in str(told.value)
    for wrong in ("fed.example.org", ":443", "a:0", "a:b"):
        with pytest.raises(FedhaError, match="FEDHA_SERVER is "):
            parse_address(wrong)


# --- a machine that names a proxy to every process ---


def environments() -> list[dict[str, str]]:
    """What our compose files set in every container."""
    client = Client(name="north", partition_id=0, ends=MADE)
    texts = (compose.server(), compose.site(client), compose.all_in_one([client]))
    return [service["environment"] for text in texts for service in yaml.safe_load(text)["services"].values()]


def test_every_container_talks_to_the_others_without_a_proxy() -> None:
    found = environments()
    assert len(found) == 5 + 3 + 7
    assert all((one["NO_PROXY"], one["no_proxy"]) == ("*", "*") for one in found)


@pytest.mark.slow
def test_a_federation_works_where_a_proxy_that_refuses_is_named_to_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real processes: with what our containers have set, nobody asks the proxy; without it, they do and fail."""
    make(tmp_path / "fed", ("north",))
    (tmp_path / "logs").mkdir()
    script = (
        "import asyncio, sys\n"
        "async def refuse(reader, writer):\n"
        "    print((await reader.readline()).decode().strip(), flush=True)\n"
        "    writer.write(b'HTTP/1.1 403 Forbidden\\r\\n\\r\\n'); writer.close()\n"
        "async def main():\n"
        "    server = await asyncio.start_server(refuse, '127.0.0.1', int(sys.argv[1]))\n"
        "    await server.serve_forever()\n"
        "asyncio.run(main())\n"
    )
    port, asked = free_port(), tmp_path / "asked"
    with asked.open("wb") as said:
        proxy = subprocess.Popen([sys.executable, "-c", script, str(port)], stdout=said)
    running = Running(InitFolder(tmp_path / "fed"), tmp_path / "logs", ["north"])
    try:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        direct = environments()[0]
        with monkeypatch.context() as bare:
            for name in ("NO_PROXY", "no_proxy"):
                bare.delenv(name, raising=False)
            running.superlink()
            command = [sys.executable, "-m", "fedha", "deploy", "register", "--to", str(running.init_folder.folder)]
            lost = subprocess.run(
                [*command, "--address", running.address, "--wait", "3"], capture_output=True, text=True
            )
            assert lost.returncode == 2
            assert f"CONNECT {running.address}" in asked.read_text()
        before = asked.read_text()
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, direct[name])
        done = subprocess.run([*command, "--address", running.address], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        running.node("north")
        running.app("north")
        running.wait_until("the node is taken", lambda: "SuperNode ID" in running.said("north-node"), 120)
        assert asked.read_text() == before
    finally:
        running.stop()
        proxy.terminate()
        proxy.wait()
