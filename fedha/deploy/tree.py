"""Folders written as a whole: all of it or nothing, never over anything, and secrets for one user's eyes alone."""

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedha.errors import FedhaError

CONTAINER_USER = 10001  # of the images; nobody on most machines

Files = Mapping[str, bytes | None]  # by path within the folder; None makes a folder


@dataclass(frozen=True)
class Owner:
    """Whose files a container can read: those of the user it runs as.

    Attributes:
        uid: User.
        gid: Group.
        given: Whether the files are given to them, because we are somebody else.
    """

    uid: int
    gid: int
    given: bool


def owner() -> Owner:
    """Ourselves; or, for root, whom no container should run as, the images' own user."""
    if os.geteuid() == 0:
        return Owner(CONTAINER_USER, CONTAINER_USER, given=True)
    return Owner(os.geteuid(), os.getegid(), given=False)


def make(folder: Path, files: Files, finish: Callable[[Path], None] | None = None) -> None:
    """Make a folder with everything in it: under another name first, so that nobody sees a part of it.

    Args:
        folder: Must not be there, or be empty; its parent is there.
        files: What it holds; folders get mode 0700, files 0600.
        finish: Does more to it before it gets its name.

    Raises:
        FedhaError: Something is there, or it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FedhaError(f"{folder} is there already and nothing is ever overwritten; choose another folder")
    beside = folder.absolute().with_name(f".{folder.absolute().name}.{secrets.token_hex(4)}")
    try:
        beside.mkdir(mode=0o700)
        for name, content in files.items():
            _write(beside / name, content)
        if finish is not None:
            finish(beside)
        beside.rename(folder)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError):
            raise FedhaError(
                f"cannot make {folder}: {error.strerror}; choose a place with space that you may write"
            ) from error
        raise


def give(folder: Path, to: Owner) -> None:
    """Give a folder with everything in it to its user, where that is somebody else."""
    if to.given:
        for place in (folder, *folder.rglob("*")):
            os.chown(place, to.uid, to.gid, follow_symlinks=False)


def remove(folder: Path) -> None:
    """Remove a folder with everything in it, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)


def _write(place: Path, content: bytes | None) -> None:
    for parent in reversed(place.parents):
        if not parent.exists():
            parent.mkdir(mode=0o700)
    if content is None:
        place.mkdir(mode=0o700, exist_ok=True)
        return
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
