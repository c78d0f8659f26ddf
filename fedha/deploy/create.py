"""A new federation: the folder with everything that its server and its sites need."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fedha.deploy import agreements, material, tree
from fedha.deploy.agreements import Agreement
from fedha.deploy.certificates import make_authority, make_identity
from fedha.deploy.inventory import Client, Inventory
from fedha.deploy.locations import InitFolder
from fedha.deploy.signing import new_signing_key, signer_of
from fedha.deploy.tree import Owner
from fedha.privacy.secure.delegation import write_roster


@dataclass(frozen=True)
class Wanted:
    """What a new federation should be.

    Attributes:
        clients: Names, in client order.
        hosts: Where sites find the server; the first is written into their files.
        port: The proxy's.
        days: How long certificates last.
    """

    clients: Sequence[str]
    hosts: Sequence[str]
    port: int
    days: int


def create(
    folder: Path,
    wanted: Wanted,
    now: datetime,
    user: Owner,
    configs: dict[str, bytes],
    fill: Callable[[InitFolder], None] | None = None,
    agreed: Sequence[Agreement] = (),
) -> Inventory:
    """Make a federation's folder, all of it or nothing.

    Args:
        folder: Must not be there, or be empty.
        wanted: Checked names.
        now: In UTC.
        user: Whom the containers run as; what they read is theirs.
        configs: Experiments to begin with, by their files' names.
        fill: Puts data into the sites' folders.
        agreed: What the sites' people have agreed to: each site gets a contract of it, with a key of its own.

    Raises:
        FedhaError: Something is there, or it cannot be written.
    """
    authority = make_authority(now)
    identities = {name: make_identity(name) for name in wanted.clients}
    signers = {
        name: new_signing_key(identities[name], client_id, name) for client_id, name in enumerate(wanted.clients)
    }
    roster = write_roster((one.entry for one in signers.values()), signer_of(authority))
    server = material.server_certificate(authority, tuple(wanted.hosts), now, wanted.days)
    nodes = {name: material.node_certificate(authority, name, now, wanted.days) for name in wanted.clients}
    record = Inventory(
        hosts=tuple(wanted.hosts),
        port=wanted.port,
        days=wanted.days,
        created=now,
        authority_ends=authority.ends,
        server_ends=server.ends,
        places=len(wanted.clients),
        clients=tuple(
            Client(name=name, partition_id=client_id, ends=nodes[name].ends)
            for client_id, name in enumerate(wanted.clients)
        ),
    )
    keys = {name: identity.public for name, identity in identities.items()}
    secret = material.server_secrets(authority, server)
    files = {
        **material.office_files(record, authority, roster, user),
        **agreements.files_of(agreed),
        **material.within("server", material.server_files(record, keys, secret, configs, user)),
    }
    for client in record.clients:
        secret = material.site_secrets(authority, nodes[client.name], identities[client.name], signers[client.name])
        files |= material.within(f"clients/{client.name}", material.site_files(record, client, secret, roster, user))
        files |= agreements.files_of(agreed, f"clients/{client.name}/{agreements.FOLDER}", split=secrets.token_hex(32))

    def finish(beside: Path) -> None:
        if fill is not None:
            fill(InitFolder(beside))
        tree.give(beside / "server", user)
        tree.give(beside / "clients", user)

    tree.make(folder, files, finish)
    return record
