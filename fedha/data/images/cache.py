"""Decoded images on disk: one array of bytes a domain, mapped, with an index that says of which files it is.

Both are named by their settings and by the files' names, sizes and times: other images have other names, so that an
array never changes under a run that has it mapped. The index is written last, and holds the array's own size and time.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PIL
from filelock import FileLock, Timeout

from fedha.atomic import write_json
from fedha.data.images.decode import Square
from fedha.data.images.files import Broken, ImageFiles
from fedha.data.images.growing import grown
from fedha.data.images.tree import shown
from fedha.data.mapped import Mapped, open_array
from fedha.errors import FedhaError, UnwrittenError
from fedha.jsonfile import parse_json
from fedha.progress import say

FORMAT = 1


def cached(cache: Path, files: ImageFiles, *, skip: bool) -> tuple[Mapped, Broken]:
    """The images from the cache, which is made where it is missing, or is not of these files as they are now.

    Args:
        cache: A folder, made if it is not there. Several domains, settings and processes may share it.
        files: A domain's.
        skip: Whether a broken image is noted, its bytes being 0, instead of ending the making.

    Returns:
        Inputs [n, channels, size, size] in the files' order, and which are broken.

    Raises:
        FedhaError: An image is broken; or the cache cannot be written. Then nothing is left of it; where the process is
            killed, what it has done is, and the next one goes on from there.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        listing = _listing(files)
        stem = cache / f"{files.folder.name}-{_digest(listing)}"
        if found := _found(stem, files, listing, skip=skip):
            return found
        part = cache / f".{files.folder.name}-{_digest(_settings(files))}.part"
        with _alone(part.with_suffix(".lock")):
            return _found(stem, files, listing, skip=skip) or _made(stem, part, files, listing, skip=skip)
    except OSError as error:
        raise UnwrittenError(
            f"cannot write the cache {shown(cache)}: {error.strerror}; let data.cache name a folder that you may write"
        ) from error


def _settings(files: ImageFiles) -> dict[str, Any]:
    """What the array's bytes depend on beside the files."""
    square: Square = files.square
    settings: dict[str, Any] = {"format": FORMAT, "size": square.size, "channels": square.channels}
    settings |= {} if square.interpolation == "bilinear" else {"interpolation": square.interpolation}
    settings |= {"scaled": True} if square.scaled else {}
    return {**settings, "decoder": f"Pillow {PIL.__version__}", "folder": shown(files.folder)}


def _listing(files: ImageFiles) -> dict[str, Any]:
    """What the array's bytes depend on."""
    return {**_settings(files), "files": [[name, *_state(files.folder / name)] for name in files.names]}


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:  # a dead link: found broken when it is decoded
        return -1, 0
    return found.st_size, found.st_mtime_ns


def _digest(listing: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(listing).encode(), digest_size=8).hexdigest()


def _found(stem: Path, files: ImageFiles, listing: dict[str, Any], *, skip: bool) -> tuple[Mapped, Broken] | None:
    """What is there, if it is whole and of these files."""
    array = _array(stem)
    try:
        index = parse_json(_index(stem).read_bytes())
        written, broken = list(index["array"]), {int(row): str(why) for row, why in index["broken"].items()}
        same = {key: index[key] for key in listing} == json.loads(json.dumps(_printable(listing)))
        mapped = open_array(array)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, FedhaError):
        return None
    if not same or written != list(_state(array)) or (mapped.shape, mapped.kind) != (files.shape, "|u1"):
        return None
    return (mapped, broken) if skip or not broken else None  # made again, and so refused where an image is broken


def _made(stem: Path, part: Path, files: ImageFiles, listing: dict[str, Any], *, skip: bool) -> tuple[Mapped, Broken]:
    array = _array(stem)
    try:
        broken = grown(part, files, _digest(listing), skip=skip)
        part.replace(array)
        told = {str(row): why for row, why in broken.items()}
        write_json(_index(stem), {**_printable(listing), "array": list(_state(array)), "broken": told})
    except (OSError, UnwrittenError) as error:
        array.unlink(missing_ok=True)  # without its index nobody would know it
        if isinstance(error, UnwrittenError):
            raise
        raise UnwrittenError(
            f"cannot write {array}: {error.strerror}; choose a folder with space that you may write"
        ) from error
    return open_array(array), broken


def _printable(listing: dict[str, Any]) -> dict[str, Any]:
    return {**listing, "files": [[shown(name), *state] for name, *state in listing["files"]]}


def _array(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.npy")


def _index(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.json")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time makes an array; another waits for it, and finds it made."""
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting for another process, which makes the cache in {shown(path.parent)}")
            lock.acquire()
    except NotImplementedError as error:
        raise FedhaError(
            f"the file system of data.cache {shown(path.parent)} knows no locks; name a folder on another"
        ) from error
    try:
        yield
    finally:
        lock.release()
