"""Features on disk. A folder for each network holds files of rows, which are never changed, and their keys.

What is being computed grows in a file of its own, from where a killed process has left it. One process at a time
computes; others wait for it, and find what it has made.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

import numpy
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from fedha.atomic import write_json
from fedha.data.examples import Chosen, Joined
from fedha.data.mapped import Mapped
from fedha.errors import FedhaError, UnwrittenError
from fedha.features.keys import KEY, KEY_BYTES, Keys
from fedha.features.trunk import BLOCK
from fedha.progress import Progress, byte_count, say

KINDS: Mapping[str, numpy.dtype[Any]] = {"float32": numpy.dtype("<f4"), "float16": numpy.dtype("<f2")}
OWN, SHARED = 0o600, 0o666
_SAVE_EVERY = 2.0  # seconds of work that are lost at most
_STEP = 4 * BLOCK  # examples between two looks at the clock
ABOUT = "about.json"
KEYS = ".keys"
_PART, _ROWS = "part", ".rows"

Compute = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Store:
    """The features of one network.

    Attributes:
        folder: Of all networks.
        about: What its features depend on (`fedha.features.keys.trunk_key`).
        width: Features of a row.
        precision: In which they are kept.
        private: Whether nobody else may read them.
    """

    folder: Path
    about: dict[str, Any]
    width: int
    precision: str
    private: bool = False

    @property
    def place(self) -> Path:
        """Its own folder."""
        told = json.dumps(self.about, sort_keys=True).encode()
        return self.folder / hashlib.blake2b(told, digest_size=10).hexdigest()

    @property
    def mode(self) -> int:
        """Of its files."""
        return OWN if self.private else SHARED

    @property
    def row_bytes(self) -> int:
        """What a row takes."""
        return self.width * KINDS[self.precision].itemsize


def stored(store: Store, keys: Keys, compute: Compute, title: str) -> Any:
    """Features by their rows' keys, from the disk; those that are missing are computed first.

    Args:
        store: Where.
        keys: Of the rows that are asked for, [n].
        compute: Features of some of these rows, by their places.
        title: Whose they are, for whoever waits.

    Returns:
        A source of features, [n, D].

    Raises:
        FedhaError: The cache cannot be written, or there is too little space; what is whole of it stays.
    """
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        store.place.mkdir(mode=0o700 if store.private else 0o777, exist_ok=True)
        if (found := _found(store, keys)) is not None:
            return found
        with _alone(store.place):
            _grow(store, keys, compute, title)
            made = _found(store, keys)
    except OSError as error:
        raise UnwrittenError(
            f"cannot write the cache of features {store.place}: {error.strerror}; let model.features.cache name a "
            "folder with space that you may write"
        ) from error
    if made is None:
        raise FedhaError(f"the cache of features {store.place} changed under this run; start it again")
    return made


def lacking(store: Store, keys: Keys) -> Tensor:
    """The places of keys whose features have still to be computed, each content once."""
    unique, first = numpy.unique(keys, return_index=True)
    there = numpy.concatenate([_whole(store)[1], _left(store, store.place / f"{_PART}{_ROWS}")])
    return torch.from_numpy(numpy.sort(first[~numpy.isin(unique, there)]))


def forget(folder: Path, keys: Keys | None = None) -> None:
    """Remove kept features: all, or those of each network where some are of examples that are not there any more.

    Args:
        folder: Of all networks; it need not be there.
        keys: Of all examples that are; None: of none.

    Raises:
        FedhaError: They cannot be removed.
    """
    try:
        for place in [one for one in folder.iterdir() if one.is_dir()] if folder.is_dir() else []:
            known = [numpy.fromfile(one, KEY) for one in place.glob(f"*{KEYS}") if one.stat().st_size >= KEY_BYTES]
            if keys is None or any(not numpy.isin(one, keys).all() for one in known):
                shutil.rmtree(place)
    except OSError as error:
        raise FedhaError(
            f"{folder} holds features of examples that are gone, which cannot be removed ({error.strerror}); remove it "
            "by hand"
        ) from error


def _found(store: Store, keys: Keys) -> Any | None:
    """The rows as a source, where all of them are there."""
    parts, known = _whole(store)
    if not len(known):
        return None if len(keys) else torch.empty(0, store.width)
    order = numpy.argsort(known)
    at = order[numpy.minimum(numpy.searchsorted(known, keys, sorter=order), len(known) - 1)]
    if not bool((known[at] == keys).all()):
        return None
    return Chosen(parts[0] if len(parts) == 1 else Joined(tuple(parts)), torch.from_numpy(at.astype(numpy.int64)))


def whole_keys(place: Path) -> Keys:
    """The keys of all rows in a network's folder that a run would find."""
    files = [one for one in sorted(place.glob(f"*{KEYS}")) if one.stem != _PART]
    return numpy.concatenate([numpy.empty(0, KEY), *(numpy.fromfile(one, KEY) for one in files)])


def _whole(store: Store) -> tuple[list[Mapped], Keys]:
    """The files of rows, and the keys of their rows, one after the other."""
    parts, keys = [], [numpy.empty(0, KEY)]
    for path in sorted(store.place.glob(f"*{KEYS}")):
        found, rows = path.read_bytes(), path.with_suffix(_ROWS)
        count = len(found) // KEY_BYTES
        size = rows.stat().st_size if rows.exists() else 0
        if path.stem == _PART or not count or size != count * store.row_bytes:
            continue
        kind = KINDS[store.precision].str
        parts.append(Mapped(rows.absolute(), 0, kind, (count, store.width), False, (0, 1), size))
        keys.append(numpy.frombuffer(found, KEY))
    return parts, numpy.concatenate(keys)


def _grow(store: Store, keys: Keys, compute: Compute, title: str) -> None:
    """Compute what is missing behind what a killed process left, and make a file of all of it."""
    part = store.place / f"{_PART}{_ROWS}"
    left, places = _left(store, part), lacking(store, keys)
    _check_space(store, len(places))
    progress = Progress(f"computing features of {title}", len(places) + len(left), "examples", len(left))
    with _opened(part, store.mode) as rows, _opened(part.with_suffix(KEYS), store.mode) as told:
        rows.seek(len(left) * store.row_bytes)
        told.seek(len(left) * KEY_BYTES)
        rows.truncate()
        told.truncate()
        saved = monotonic()
        for some in places.split(_STEP):
            rows.write(_bytes(store, compute(some)))
            told.write(keys[some.numpy()].tobytes())
            progress.add(len(some))
            if monotonic() - saved >= _SAVE_EVERY:
                _sync(rows, told)
                saved = monotonic()
        _sync(rows, told)
        size = told.tell()
    progress.end()
    if size:
        stem = hashlib.blake2b(part.with_suffix(KEYS).read_bytes(), digest_size=8).hexdigest()
        for suffix in (_ROWS, KEYS):  # the keys last: who sees them finds the rows
            part.with_suffix(suffix).replace(store.place / f"{stem}{suffix}")
        write_json(store.place / ABOUT, store.about, store.mode)


def _left(store: Store, part: Path) -> Keys:
    """The keys of the rows that an earlier process has computed and written whole."""
    try:
        told, size = part.with_suffix(KEYS).read_bytes(), part.stat().st_size
    except FileNotFoundError:
        return numpy.empty(0, KEY)
    return numpy.frombuffer(told, KEY, count=min(len(told) // KEY_BYTES, size // store.row_bytes))


def _bytes(store: Store, features: Tensor) -> bytes:
    """Features as they are kept."""
    content: bytes = features.cpu().numpy().astype(KINDS[store.precision]).tobytes()
    return content


def _check_space(store: Store, count: int) -> None:
    wanted, free = count * (store.row_bytes + KEY_BYTES), shutil.disk_usage(store.place).free
    if wanted > free:
        raise UnwrittenError(
            f"the features of {count:,} examples take {byte_count(wanted)} but the disk of the cache "
            f"{store.folder} has {byte_count(free)} left; make room, name another folder in model.features.cache, or "
            "leave it out"
        )


def _opened(path: Path, mode: int) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, mode), "r+b")


def _sync(rows: BinaryIO, told: BinaryIO) -> None:
    """Rows first: a key without its row would be taken for one that has it."""
    for file in (rows, told):
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One process at a time computes; another waits for it."""
    lock = FileLock(place / "lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting for another process, which computes features into {place}")
            lock.acquire()
    except NotImplementedError as error:
        raise FedhaError(f"the file system of {place} knows no locks; let model.features.cache name another") from error
    try:
        yield
    finally:
        lock.release()
