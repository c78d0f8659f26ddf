"""A site's only way out: ``python -m fedha.deploy.forward HOST:PORT`` passes what comes in on to one address, as it is.

The site's node has no network but this container's, so it reaches the server's door and nothing else. The bytes are TLS
from end to end; here nobody can read them. ``FEDHA_PROXY`` names the site's proxy, if it has nothing else to the
outside: ``http://[USER:PASSWORD@]HOST:PORT``, which is asked to CONNECT. What other programs are told of proxies
(HTTPS_PROXY) is not looked at.
"""

import asyncio
import base64
import os
import sys
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from fedha.errors import FedhaError

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]

LISTEN = 8443
_SECONDS = 15.0  # for a connection to stand
_PIECE = 2**16
_LONGEST_ANSWER = 2**16


@dataclass(frozen=True)
class Proxy:
    """A site's proxy.

    Attributes:
        host: Its name or address.
        port: Its port.
        credentials: ``user:password``, or nothing.
    """

    host: str
    port: int
    credentials: str = ""


def parse_proxy(url: str) -> Proxy | None:
    """A proxy's address; None for an empty one.

    Raises:
        FedhaError: It is no such address.
    """
    if not url:
        return None
    wrong = f"FEDHA_PROXY is {hidden(url)!r}; write it as http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise FedhaError(wrong) from None
    if parts.scheme != "http" or not host or port is None:
        raise FedhaError(wrong)
    named = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    return Proxy(host, port, named)


def hidden(url: str) -> str:
    """An address without what stands before its @, which may be a password."""
    before, at, after = url.rpartition("@")
    return f"***@{after}" if at and before else url


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT``, with brackets around an IPv6 address.

    Raises:
        FedhaError: It is no such address.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise FedhaError(f"FEDHA_SERVER is {text!r}; name the server as HOST:PORT, such as fed.example.org:8443")
    return host.strip("[]"), int(port)


async def connect(host: str, port: int, proxy: Proxy | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to an address, through the proxy if there is one.

    Raises:
        OSError: It does not stand within a while, or the proxy refuses; says so.
    """
    async with asyncio.timeout(_SECONDS):
        if proxy is None:
            return await asyncio.open_connection(host, port)
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port, limit=_LONGEST_ANSWER)
        try:
            await _ask(reader, writer, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", proxy)
        except BaseException:
            writer.close()
            raise
        return reader, writer


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, goal: str, proxy: Proxy) -> None:
    lines = [f"CONNECT {goal} HTTP/1.1", f"Host: {goal}"]
    if proxy.credentials:
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(proxy.credentials.encode()).decode()}")
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    try:
        answer = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise OSError(f"the proxy {proxy.host}:{proxy.port} does not answer as a proxy") from None
    status = answer.split(b"\r\n", 1)[0].decode("latin-1")
    if not status.startswith("HTTP/1.") or status[8:12] != " 200":
        raise OSError(f"the proxy {proxy.host}:{proxy.port} refuses a connection to {goal}: {status[:200]}")


async def serve(server: tuple[str, int], proxy: Proxy | None, listen: tuple[str, int]) -> None:
    """Forward until cancelled.

    Args:
        server: Where everything goes.
        proxy: On the way there.
        listen: Host and port.
    """
    said = ""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal said
        try:
            there, back = await connect(*server, proxy)
        except (OSError, TimeoutError) as error:
            text = f"fedha: no way to {server[0]}:{server[1]}: {str(error) or f'no answer within {_SECONDS:g} s'}\n"
            if text != said:
                sys.stderr.write(text)
            said = text
            writer.close()
            return
        said = ""
        await carry((reader, writer), (there, back))

    async with await asyncio.start_server(forward, *listen) as waiting:
        await waiting.serve_forever()


async def carry(here: Ends, there: Ends) -> None:
    """Pass on what comes from either side to the other, until both have ended or one is gone.

    Args:
        here: What to read from and to write to.
        there: The same of the other side.
    """
    try:
        await asyncio.gather(_pump(here[0], there[1]), _pump(there[0], here[1]))
    except OSError as error:
        sys.stderr.write(f"fedha: a connection was cut: {error}\n")
    finally:
        here[1].close()
        there[1].close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()


def main() -> None:
    """Forward to the address on the command line until the process ends."""
    host, _, port = os.environ.get("FEDHA_LISTEN", f"0.0.0.0:{LISTEN}").rpartition(":")
    server, proxy = parse_address(sys.argv[1]), parse_proxy(os.environ.get("FEDHA_PROXY", ""))
    asyncio.run(serve(server, proxy, (host, int(port))))


if __name__ == "__main__":
    try:
        main()
    except FedhaError as error:
        sys.exit(f"fedha: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
