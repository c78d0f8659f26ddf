"""What the server and the sites are given: secrets, settings, compose files, as paths and contents."""

import secrets
from datetime import datetime

from fedha.deploy import accepted, agreements, compose, inventory
from fedha.deploy.certificates import Authority, Identity, Issued, authority_pem, issue
from fedha.deploy.inventory import Client, Inventory
from fedha.deploy.signing import FILE as ROSTER
from fedha.deploy.signing import KEY, SigningKey
from fedha.deploy.tree import Files, Owner

_SERVER_NAMES = ("superlink", "proxy", "localhost", "127.0.0.1")  # within the containers' networks; hosts come after


def server_certificate(authority: Authority, hosts: tuple[str, ...], now: datetime, days: int) -> Issued:
    """One certificate for SuperLink and proxy, with all names by which they are reached."""
    return issue(authority, list(dict.fromkeys((*_SERVER_NAMES, *hosts))), now, days)


def node_certificate(authority: Authority, name: str, now: datetime, days: int) -> Issued:
    """The certificate under which a site's node serves the site's own app."""
    return issue(authority, (f"{name}-node", "localhost", "127.0.0.1"), now, days)


def server_secrets(authority: Authority, issued: Issued) -> dict[str, bytes]:
    """The files of the server's secrets."""
    return {
        "ca.crt": authority_pem(authority)[0],
        "server.crt": issued.certificate,
        "server.key": issued.key,
        "superexec.secret": _shared_secret(),
    }


def site_secrets(authority: Authority, issued: Issued, identity: Identity, signing: SigningKey) -> dict[str, bytes]:
    """The files of a site's secrets."""
    return {
        "ca.crt": authority_pem(authority)[0],
        "client.key": identity.private,
        "node.crt": issued.certificate,
        "node.key": issued.key,
        KEY: signing.key,
        "superexec.secret": _shared_secret(),
    }


def server_files(
    record: Inventory, keys: dict[str, bytes], secret: dict[str, bytes], configs: dict[str, bytes], user: Owner
) -> Files:
    """The folder of the server's machine.

    Args:
        record: Who is in the federation.
        keys: Public keys by client.
        secret: From `server_secrets`.
        configs: Experiments to begin with, by their files' names.
        user: Whom the containers run as.
    """
    return {
        compose.FILE: compose.server().encode(),
        ".env": _settings(user, FEDHA_PORT=record.port),
        inventory.FILE: inventory.to_yaml(record).encode(),
        "configs": None,
        "runs": None,
        "state": None,
        "target": None,
        **{f"configs/{name}": content for name, content in configs.items()},
        **{f"clients/{name}.pub": key for name, key in keys.items()},
        **{f"secrets/{name}": content for name, content in secret.items()},
    }


def site_files(record: Inventory, client: Client, secret: dict[str, bytes], roster: bytes, user: Owner) -> Files:
    """The folder of one site.

    Args:
        record: Knows where the server is.
        client: The site.
        secret: From `site_secrets`.
        roster: Of all sites.
        user: Whom the containers run as.
    """
    return {
        compose.FILE: compose.site(client).encode(),
        ".env": _settings(user, FEDHA_SERVER=record.address, FEDHA_DATA="./data"),
        ROSTER: roster,
        accepted.FILE: accepted.first(),
        "data": None,
        "cache": None,
        agreements.FOLDER: None,
        agreements.PROPOSED: None,
        **{f"secrets/{name}": content for name, content in secret.items()},
    }


def office_files(record: Inventory, authority: Authority, roster: bytes, user: Owner) -> Files:
    """What stays where the federation was made: authority and roster, and the file that starts all on one machine."""
    certificate, key = authority_pem(authority)
    return {
        compose.FILE: compose.all_in_one(record.clients).encode(),
        ".env": _settings(user),
        inventory.FILE: inventory.to_yaml(record).encode(),
        ROSTER: roster,
        "ca/ca.crt": certificate,
        "ca/ca.key": key,
    }


def within(folder: str, files: Files) -> Files:
    """The same files in a folder."""
    return {f"{folder}/{name}": content for name, content in files.items()}


def _settings(user: Owner, **more: object) -> bytes:
    lines = {"FEDHA_UID": user.uid, "FEDHA_GID": user.gid, **more}
    return "".join(f"{name}={value}\n" for name, value in lines.items()).encode()


def _shared_secret() -> bytes:
    """What proves to a SuperLink or a SuperNode that a process which asks for work is its own."""
    return secrets.token_hex(32).encode()
