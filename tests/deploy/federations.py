"""Federations' folders for tests, with fixed dates and ourselves as the containers' user."""

import os
from datetime import UTC, datetime
from pathlib import Path

from fedha.deploy.create import Wanted, create
from fedha.deploy.inventory import Inventory
from fedha.deploy.tree import Owner

CLIENTS = ("north", "south", "west")
MADE = datetime(2026, 3, 1, 12, tzinfo=UTC)
US = Owner(os.geteuid(), os.getegid(), given=False)


def make(folder: Path, clients: tuple[str, ...] = CLIENTS, now: datetime = MADE) -> Inventory:
    return create(folder, Wanted(clients, ("fed.example.org",), 8443, 825), now, US, {})


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, and what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
