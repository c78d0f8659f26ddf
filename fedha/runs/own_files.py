"""Whose a file in a folder is: what fedha wrote there stands in a list beside it, all else is somebody's.

Nothing that is not in the list is ever written over or removed. Names are paths in the folder; one that ends with a
slash is a folder with a list of its own.
"""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from fedha import __version__, atomic
from fedha.errors import FedhaError, brief
from fedha.jsonfile import parse_json
from fedha.runs import earlier, files

MARKER = ".fedha.json"


def owned(folder: Path) -> frozenset[str]:
    """What fedha wrote in a folder; nothing where it made nothing.

    Raises:
        FedhaError: The list is damaged.
    """
    path = folder / MARKER
    try:
        content = parse_json(path.read_bytes())
        names = _names(content["files"])
    except (FileNotFoundError, NotADirectoryError):
        return frozenset(earlier.names(folder)) if folder.is_dir() else frozenset()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FedhaError(
            f"cannot read {path}, which lists what fedha wrote there ({brief(error)}); move it away"
        ) from error
    if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in names):
        raise FedhaError(f"{path} lists files outside its folder; it is not fedha's, so move it away")
    return names | ({files.REPORT} if earlier.is_page(folder / files.REPORT) else set())


def _names(listed: Any) -> frozenset[str]:
    """The names of a list, each below its folder.

    Raises:
        ValueError: It is no list of such names.
    """
    if not isinstance(listed, list):
        raise TypeError("it has no list of files")
    for name in listed:
        if not isinstance(name, str) or "\0" in name or not PurePosixPath(name).parts:
            raise ValueError(f"{str(name)[:40]!r} is no file's name")
        name.encode()  # half of a pair of characters is no text that a disk could take
    return frozenset(listed)


def claim(folder: Path, *names: str) -> None:
    """Put names into a folder's list before they are written; the folder is there.

    Raises:
        FedhaError: Something of that name is there and is not fedha's.
    """
    known = owned(folder)
    fresh = {name for name in names if name not in known}
    check_free(folder, fresh)
    if fresh or not (folder / MARKER).exists():
        atomic.write_json(folder / MARKER, {"fedha": __version__, "files": sorted({*known, *fresh})})


def check_free(folder: Path, names: Iterable[str]) -> None:
    """Whether these can be written without harm to anybody.

    Raises:
        FedhaError: Something of such a name is there and is not fedha's.
    """
    known = owned(folder)
    for name in names:
        if name in known:
            continue
        above = [folder / one for one in PurePosixPath(name).parents if one.name]
        for place in (folder / name, *above):
            holds = place in above or name.endswith("/")
            if os.path.lexists(place) and not (holds and place.is_dir()):
                raise FedhaError(
                    f"{place} is there already and fedha did not write it; move it, or choose another folder with --out"
                )


def remove(folder: Path) -> None:
    """Remove what fedha wrote in a folder, the list last; folders that are then empty go too, the folder itself stays.

    Raises:
        FedhaError: Something cannot be removed.
    """
    known = owned(folder)
    try:
        for name in known:
            if name.endswith("/"):
                if (folder / name).is_dir() and not (folder / name.rstrip("/")).is_symlink():
                    remove(folder / name)
            elif (folder / name).is_symlink() or (folder / name).is_file():
                (folder / name).unlink()
        parents = {str(one) for name in known for one in PurePosixPath(name).parents if one.name}
        parents |= {name.rstrip("/") for name in known if name.endswith("/")}
        for place in sorted((folder / name for name in parents), key=lambda one: len(one.parts), reverse=True):
            if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
                place.rmdir()
        (folder / MARKER).unlink(missing_ok=True)
    except OSError as error:
        raise FedhaError(f"cannot remove the run in {folder}: {error}; it is only partly there") from error


def write_bytes(folder: Path, name: str, content: bytes) -> None:
    """Write a file of a folder at once.

    Raises:
        FedhaError: One of that name is there and is not fedha's, or it cannot be written.
    """
    claim(folder, name)
    atomic.write_bytes(folder / name, content)


def write_text(folder: Path, name: str, text: str) -> None:
    """As `write_bytes`."""
    write_bytes(folder, name, text.encode("utf-8"))


def write_json(folder: Path, name: str, content: Any) -> None:
    """As `write_bytes`; numbers that are not finite become null."""
    claim(folder, name)
    atomic.write_json(folder / name, content)
