"""What goes to another machine, as one archive: its part of a federation, and a script that puts it in its place.

Sending it again brings a machine up to date. What belongs to the machine's people is sent once and then left alone:
settings, configs, data, what code a site accepts, what it agreed to. Former keys and secrets, which stay in the folder
where the federation was made, are not sent.
"""

import io
import tarfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from fedha.deploy import compose, inventory
from fedha.deploy.accepted import FILE as ACCEPTED
from fedha.deploy.agreements import FOLDER as CONTRACTS
from fedha.deploy.agreements import PROPOSED
from fedha.deploy.inventory import Inventory
from fedha.deploy.locations import find_init_folder
from fedha.deploy.signing import FILE as ROSTER
from fedha.deploy.tree import CONTAINER_USER
from fedha.errors import FedhaError

_SCRIPT = "settle.sh"
_SERVER_FOLDERS = ("clients", "configs", "runs", "secrets", "state", "target")
_SITE_FOLDERS = ("cache", CONTRACTS, "data", PROPOSED, "secrets")


def pack(folder: Path, client: str | None = None) -> bytes:
    """The archive for one machine, as tar; unpacked, its settle.sh does the rest.

    Args:
        folder: What `fedha deploy init` made.
        client: The site that it is for; None: the server.

    Raises:
        FedhaError: There is no such client, its folder is not here any more, or a file cannot be read.
    """
    init_folder, place = find_init_folder(folder)
    record = place.inventory()
    if client is None:
        part, kept = init_folder.server, _of_server(record)
    else:
        part = init_folder.site(record.client(client).name)
        kept = [compose.FILE, ROSTER, *_below(part, PROPOSED)]
    if not part.is_dir():
        raise FedhaError(f"{part} is not here any more; make it anew with `fedha deploy rotate --client {client}`")
    once = [name for folder in ("configs", "data", "target", CONTRACTS) for name in _below(part, folder)]
    once += [name for name in (ACCEPTED,) if (part / name).is_file()]
    names = {name: f".next/always/{name}" for name in kept if (part / name).is_file()}
    names |= {f"secrets/{name}": f".next/always/secrets/{name}" for name in _secrets(part)}
    names |= {name: f".next/once/{name}" for name in once} | {".env": ".next/env"}
    try:
        contents = {goal: (part / name).read_bytes() for name, goal in sorted(names.items())}
    except OSError as error:
        raise FedhaError(f"cannot read {error.filename}: {error.strerror}; restore it, or make it anew") from error
    script = _script(_SERVER_FOLDERS if client is None else _SITE_FOLDERS)
    return _archive({_SCRIPT: script, **contents}, (".next/once", ".next/always"))


def _of_server(record: Inventory) -> list[str]:
    return [compose.FILE, inventory.FILE, *(f"clients/{name}.pub" for name in record.names)]


def _secrets(part: Path) -> Iterator[str]:
    return (path.name for path in sorted((part / "secrets").glob("*")) if path.is_file())


def _below(part: Path, folder: str) -> Iterator[str]:
    return (str(path.relative_to(part)) for path in sorted((part / folder).rglob("*")) if path.is_file())


def _script(folders: tuple[str, ...]) -> bytes:
    text = files("fedha.deploy").joinpath("templates", _SCRIPT).read_text(encoding="utf-8")
    return text.replace("@FOLDERS@", " ".join(folders)).replace("@USER@", str(CONTAINER_USER)).encode()


def _archive(contents: dict[str, bytes], folders: tuple[str, ...]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in (".next", *folders):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(entry)
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()
