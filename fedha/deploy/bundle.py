"""Flower app bundles: the one that this fedha's runs bring, and what any bundle is, told without running it.

A bundle is a zip archive with a ``pyproject.toml`` and modules; Flower ships it with a run to every site. What it is
known by here is the SHA-256 of its bytes.
"""

import hashlib
import io
import posixpath
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from fedha.errors import FedhaError, brief

NAME, VERSION = "fedha/fedha-deployment", "1.0.0"  # publisher and project of what `fedha deploy run` sends
DIGEST = "3636d36c021d95fb3c01ddd7c7746cbe8abd3964249ad6cfffb28902dad09fd5"  # of `own`, as Flower 1.41 makes it
MOST_BYTES = 64 << 20  # of a bundle; Flower itself takes 10 MB
_PROJECT_FILE, _MOST_PROJECT_BYTES = "pyproject.toml", 1 << 20

_PROJECT = """\
[project]
name = "fedha-deployment"
version = "1.0.0"
description = "One run of fedha"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedha"

[tool.flwr.app.components]
serverapp = "fedha_deployment:server"
clientapp = "fedha_deployment:client"

[tool.flwr.app.config]
settings = ""
out = ""
events = ""
sites = ""
resume = false
diagnose = ""
"""

# All that is sent to the sites; fedha itself is what each has installed.
_MODULE = """\
from fedha.deploy.apps import deployed_client_app, deployed_server_app

server = deployed_server_app()
client = deployed_client_app()
"""

SOURCE = {_PROJECT_FILE: _PROJECT.encode(), "fedha_deployment.py": _MODULE.encode()}


@dataclass(frozen=True)
class Bundle:
    """What a bundle says of itself, and its digest.

    Attributes:
        name: Publisher and project, as ``fedha/fedha-deployment``.
        version: Of the app.
        client_app: What of it a site would start.
        files: Each with its size in bytes, in the archive's order.
        digest: SHA-256 of all its bytes, in hexadecimal.
    """

    name: str
    version: str
    client_app: str
    files: tuple[tuple[str, int], ...]
    digest: str


def digest(content: bytes) -> str:
    """What a bundle is known by."""
    return hashlib.sha256(content).hexdigest()


def own() -> bytes:
    """The bundle that `fedha deploy run` of this version brings, to the byte that `flwr run` makes of `SOURCE`."""
    from flwr.cli.build import build_fab_from_files  # slow to import, and who only compares digests needs no Flower

    return build_fab_from_files(SOURCE)[0]


def read(path: Path) -> bytes:
    """A bundle's bytes.

    Raises:
        FedhaError: It cannot be read, or is larger than any bundle.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FedhaError(f"{path} is larger than {MOST_BYTES >> 20} MiB, which no app bundle is")
        return path.read_bytes()
    except OSError as error:
        raise FedhaError(
            f"cannot read {path}: {error.strerror}; name the file of a proposed contract or of an app bundle (flwr "
            "build), or code as package.module:function"
        ) from error


def describe(content: bytes) -> Bundle:
    """What a bundle is; nothing of it is unpacked, imported or run.

    Raises:
        FedhaError: It is no bundle, or holds two files of one name, of which it would be open which one counts: also
            where one is written otherwise, as ./a for a.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            with archive.open(_PROJECT_FILE) as file:
                text = file.read(_MOST_PROJECT_BYTES).decode("utf-8")
        project = tomllib.loads(text)
        app = project["tool"]["flwr"]["app"]
        name, version = f"{app['publisher']}/{project['project']['name']}", str(project["project"]["version"])
        client_app = str(app["components"].get("clientapp", "none"))
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError, ValueError, NotImplementedError) as error:
        raise FedhaError(f"this is no Flower app bundle ({brief(error)}); make one with `flwr build`") from error
    names = [one.filename for one in members]
    if odd := next((one for one in names if posixpath.normpath(one) != one.removesuffix("/") or one[0] == "/"), None):
        raise FedhaError(f"the bundle holds {odd!r}, which is no plain path; have it made anew by `flwr build`")
    if twice := next((one for one in names if names.count(one) > 1), None):
        raise FedhaError(
            f"the bundle holds {twice!r} twice, so what it runs is open; have it made anew by `flwr build`"
        )
    return Bundle(name, version, client_app, tuple((one.filename, one.file_size) for one in members), digest(content))
