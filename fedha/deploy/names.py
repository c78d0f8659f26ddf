"""What clients and hosts may be called: names that certificates, networks and folders all take."""

import ipaddress
import re
from collections.abc import Sequence

from fedha.errors import FedhaError

DEFAULT_CLIENTS = ("north", "south", "west")

_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_LONGEST = 40  # a DNS label has 63 characters, and compose puts a project's name before ours
_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


def check_clients(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if a federation can have clients of these names.

    Raises:
        FedhaError: One is no DNS label, two are the same, or there is none.
    """
    if not names:
        raise FedhaError("a federation needs at least one client; name them after --clients")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise FedhaError(f"two clients would be called {twice!r}; name every client once")
    return tuple(check_client(name) for name in names)


def check_client(name: str) -> str:
    """The name, if a client can have it.

    Raises:
        FedhaError: It is no DNS label.
    """
    if len(name) > _LONGEST or not _LABEL.fullmatch(name):
        raise FedhaError(
            f"a client cannot be called {name!r}; take small letters, digits and hyphens, {_LONGEST} at most, "
            "with a letter first and no hyphen last"
        )
    return name


def check_host(host: str) -> str:
    """The host, if a certificate can name it: an IP address or a DNS name without a wildcard.

    Raises:
        FedhaError: It is neither.
    """
    if address(host) is None and (len(host) > 253 or not _HOST.fullmatch(host)):
        raise FedhaError(f"{host!r} is no host; give a name such as fed.example.org, or an IP address, without a port")
    return host


def address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The host as an IP address; None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def with_port(host: str, port: int) -> str:
    """``host:port``, as URLs have it."""
    found = address(host)
    return f"[{host}]:{port}" if found is not None and found.version == 6 else f"{host}:{port}"
