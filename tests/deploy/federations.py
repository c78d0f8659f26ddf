"""Federations' folders for tests, with fixed dates and ourselves as the containers' user."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fedha.deploy.create import Wanted, create
from fedha.deploy.inventory import Inventory
from fedha.deploy.tree import Owner

CLIENTS = ("north", "south", "west")
MADE = datetime(2026, 3, 1, 12, tzinfo=UTC)
US = Owner(os.geteuid(), os.getegid(), given=False)
NOBODY = 65534
OTHER = NOBODY if US.uid == 0 else US.uid  # whom the tests can become: somebody else, where they run as root


def make(folder: Path, clients: tuple[str, ...] = CLIENTS, now: datetime = MADE) -> Inventory:
    return create(folder, Wanted(clients, ("fed.example.org",), 8443, 825), now, US, {})


@contextmanager
def others_folder() -> Iterator[Path]:
    """A folder that is another user's, where we are root: pytest's own are for root's eyes alone."""
    folder = Path(tempfile.mkdtemp(prefix="fedha-"))
    folder.chmod(0o755)
    try:
        if US.uid == 0:
            os.chown(folder, OTHER, OTHER)
        yield folder
    finally:
        shutil.rmtree(folder)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, and what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
