"""A federation that goes on: a client more, new certificates, new keys. What was in use is put aside, never lost.

The roster alone is written anew in its place: it holds no secret, and nothing that the new one does not hold but a key
that has ended.
"""

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from fedha import atomic
from fedha.deploy import agreements, compose, inventory, material, tree
from fedha.deploy.certificates import Authority, make_identity, read_authority
from fedha.deploy.inventory import Client, Inventory
from fedha.deploy.locations import InitFolder, Locations, find_init_folder
from fedha.deploy.names import check_client
from fedha.deploy.signing import new_signing_key, roster_entries, signer_of
from fedha.deploy.tree import Owner
from fedha.errors import FedhaError
from fedha.privacy.secure.delegation import write_roster
from fedha.privacy.secure.identity import Identity


def add_client(folder: Path, name: str, now: datetime, user: Owner) -> list[str]:
    """Add a site, with the next partition id that nobody ever had; nothing changes where it is there already.

    Args:
        folder: What `fedha deploy init` made.
        name: The new client's.
        now: In UTC.
        user: Whom the containers run as.

    Returns:
        What else the user should know.

    Raises:
        FedhaError: The name is none, a key of that name lies there, or the folder is not the whole one.
    """
    init_folder, place, record, authority = _opened(folder)
    check_client(name)
    if name in record.names:
        return [f"{name} is in this federation already, and nothing was changed; `rotate` gives it new keys"]
    if place.public_key(name).exists():
        raise FedhaError(
            f"{place.public_key(name)} is of no client of this federation; move it away, then add {name!r}"
        )
    issued = material.node_certificate(authority, name, now, record.days)
    identity = make_identity(name)
    client = Client(name=name, partition_id=record.places, ends=issued.ends)
    signing = new_signing_key(identity, client.partition_id, name)
    before, signer = roster_entries(init_folder.roster, authority), signer_of(authority)
    as_it_was = _roster_now(init_folder, signer)
    roster = write_roster([*before.values(), signing.entry], signer)
    former = tuple(one for one in record.former if one != name)
    added = {"clients": (*record.clients, client), "places": record.places + 1, "former": former}
    changed = record.model_copy(update=added)
    secret = material.site_secrets(authority, issued, identity, signing)
    with ExitStack() as undo:
        undo.callback(_share_roster, init_folder, record, as_it_was, user)
        _make_site(init_folder, changed, client, secret, roster, user, split=secrets.token_hex(32))
        undo.callback(tree.remove, init_folder.site(name))
        _share_roster(init_folder, record, roster, user)
        _write(place.public_key(name), identity.public, user)
        undo.callback(place.public_key(name).unlink)
        undo.callback(_write, place.record, inventory.to_yaml(record).encode(), user)
        _record(init_folder, place, changed, user)
        undo.pop_all()
    return _compose_anew(init_folder, record, changed)


def remove_client(folder: Path, name: str, now: datetime, user: Owner) -> list[str]:
    """Remove a site: its key is refused from the server's next `up` on; its id is nobody's again.

    Its key and its folder, if it is still here, are put aside. Nothing changes where it was removed before.

    Args:
        folder: What `fedha deploy init` made.
        name: The client's.
        now: In UTC.
        user: Whom the containers run as.

    Returns:
        What else the user should know.

    Raises:
        FedhaError: There never was such a client, it is the last one, or the folder is not the whole one.
    """
    init_folder, place, record, authority = _opened(folder)
    if name in record.former:
        return [f"{name} was removed before, and nothing was changed"]
    client = record.client(name)
    if len(record.clients) == 1:
        raise FedhaError(f"{name} is the federation's only client; add another before you remove it")
    clients = tuple(one for one in record.clients if one.name != name)
    changed = record.model_copy(update={"clients": clients, "former": (*record.former, name)})
    entries, signer = roster_entries(init_folder.roster, authority), signer_of(authority)
    as_it_was = _roster_now(init_folder, signer)
    roster = write_roster((entry for where, entry in entries.items() if where != client.partition_id), signer)
    with ExitStack() as undo:
        for path in (place.public_key(name), init_folder.site(name)):
            if path.exists():
                undo.callback(path.rename(_aside(path, now)).rename, path)
        undo.callback(_share_roster, init_folder, changed, as_it_was, user)
        _share_roster(init_folder, changed, roster, user)
        undo.callback(_write, place.record, inventory.to_yaml(record).encode(), user)
        _record(init_folder, place, changed, user)
        undo.pop_all()
    return _compose_anew(init_folder, record, changed)


def rotate_server(folder: Path, hosts: Sequence[str], now: datetime, user: Owner) -> Path:
    """Give the server a new certificate, key and shared secret; the authority stays.

    Args:
        folder: What `fedha deploy init` made.
        hosts: To add to those that it has.
        now: In UTC.
        user: Whom the containers run as.

    Returns:
        Where the old ones are.

    Raises:
        FedhaError: The folder is not the whole one, or the authority has ended.
    """
    init_folder, place, record, authority = _opened(folder)
    known = tuple(dict.fromkeys((*record.hosts, *hosts)))
    issued = material.server_certificate(authority, known, now, record.days)
    aside = _swap(place.server / "secrets", material.server_secrets(authority, issued), now, user)
    _record(init_folder, place, record.model_copy(update={"hosts": known, "server_ends": issued.ends}), user)
    return aside


def rotate_client(folder: Path, name: str, now: datetime, user: Owner) -> Path:
    """Give a client a new key pair, certificate and shared secret; the old key is refused from the next register on.

    A site's folder that is not there any more is made anew, without data.

    Args:
        folder: What `fedha deploy init` made.
        name: The client's.
        now: In UTC.
        user: Whom the containers run as.

    Returns:
        Where the new secrets are.

    Raises:
        FedhaError: There is no such client, the folder is not the whole one, or the authority has ended.
    """
    init_folder, place, record, authority = _opened(folder)
    client = record.client(name)
    issued = material.node_certificate(authority, name, now, record.days)
    identity = make_identity(name)
    signing = new_signing_key(identity, client.partition_id, name)
    entries = {**roster_entries(init_folder.roster, authority), client.partition_id: signing.entry}
    roster = write_roster(entries.values(), signer_of(authority))
    secret = material.site_secrets(authority, issued, identity, signing)
    renewed = client.model_copy(update={"ends": issued.ends})
    clients = tuple(renewed if one.name == name else one for one in record.clients)
    changed = record.model_copy(update={"clients": clients})
    if init_folder.site(name).exists():
        _swap(init_folder.site(name) / "secrets", secret, now, user)
    else:
        _make_site(init_folder, changed, renewed, secret, roster, user)
    _share_roster(init_folder, changed, roster, user)
    old = place.public_key(name)
    if old.exists():
        old.rename(_aside(old, now))
    _write(old, identity.public, user)
    _record(init_folder, place, changed, user)
    return init_folder.site(name) / "secrets"


def _opened(folder: Path) -> tuple[InitFolder, Locations, Inventory, Authority]:
    init_folder, place = find_init_folder(folder)
    return init_folder, place, place.inventory(), read_authority(*init_folder.authority)


def _make_site(
    init_folder: InitFolder,
    record: Inventory,
    client: Client,
    secret: dict[str, bytes],
    roster: bytes,
    user: Owner,
    split: str = "",
) -> None:
    site = init_folder.site(client.name)
    site.parent.mkdir(mode=0o700, exist_ok=True)
    agreed = agreements.files_of(agreements.read_all(init_folder.folder / agreements.FOLDER), split=split)
    files = {**material.site_files(record, client, secret, roster, user), **agreed}
    tree.make(site, files, lambda beside: tree.give(beside, user))


def _roster_now(init_folder: InitFolder, signer: Identity) -> bytes:
    """The roster's file as it is: signed again it would be another one."""
    return init_folder.roster.read_bytes() if init_folder.roster.exists() else write_roster((), signer)


def _share_roster(init_folder: InitFolder, record: Inventory, roster: bytes, user: Owner) -> None:
    """Write the roster where the federation was made, and into the sites' folders that are still here."""
    _write(init_folder.roster, roster, Owner(user.uid, user.gid, given=False))
    for name in record.names:
        if init_folder.site(name).exists():
            _write(init_folder.site(name) / init_folder.roster.name, roster, user)


def _swap(folder: Path, files: dict[str, bytes], now: datetime, user: Owner) -> Path:
    """Put a new folder in the place of another, which stays beside it under a dated name."""
    aside = _aside(folder, now)
    fresh = folder.with_name(f".{folder.name}.new")
    tree.remove(fresh)  # what an earlier attempt left
    tree.make(fresh, files, lambda beside: tree.give(beside, user))
    with ExitStack() as undo:
        undo.callback(tree.remove, fresh)
        if folder.exists():
            folder.rename(aside)
            undo.callback(aside.rename, folder)
        fresh.rename(folder)
        undo.pop_all()
    return aside


def _aside(path: Path, now: datetime) -> Path:
    aside = path.with_name(f"{path.name}.until-{now:%Y%m%dT%H%M%SZ}")
    if aside.exists():
        raise FedhaError(f"{aside} is there already; wait a second and try again")
    return aside


def _record(init_folder: InitFolder, place: Locations, record: Inventory, user: Owner) -> None:
    text = inventory.to_yaml(record).encode()
    _write(place.record, text, user)
    _write(init_folder.folder / inventory.FILE, text, Owner(user.uid, user.gid, given=False))


def _compose_anew(init_folder: InitFolder, before: Inventory, after: Inventory) -> list[str]:
    """Write the file for one machine anew; one that somebody has edited is left, with the new one beside it."""
    path = init_folder.folder / compose.FILE
    text = compose.all_in_one(after.clients)
    if path.exists() and path.read_text(encoding="utf-8") != compose.all_in_one(before.clients):
        beside = path.with_name(f"{path.name}.new")
        atomic.write_text(beside, text)
        return [f"{path} is not as fedha wrote it and stays so; the new one is {beside}"]
    atomic.write_text(path, text)
    return []


def _write(path: Path, content: bytes, user: Owner) -> None:
    atomic.write_bytes(path, content)
    path.chmod(0o600)
    tree.give(path, user)
