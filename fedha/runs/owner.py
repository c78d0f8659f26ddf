"""One writer at a time: a folder that is being written is locked, and says by whom.

The lock is the kernel's (flock), so a process that dies in any way loses it; Linux and macOS pass it on to NFS servers
too. Where a file system knows no locks, the file alone stands for it, and a process of this machine that has died is
found out by its number.
"""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from fedha.errors import FedhaError, UnwrittenError
from fedha.jsonfile import parse_json

LOCK = ".fedha.lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def owning(folder: Path) -> Iterator[None]:
    """Be the only one who writes a folder, for as long as the block lasts; the folder is there.

    Raises:
        FedhaError: Another process, or this one, is writing it; the message says who and since when.
    """
    path = folder / LOCK
    try:
        file = _locked(path)
    except OSError as error:
        raise UnwrittenError(
            f"cannot write in {folder}: {error.strerror}; choose a folder that you may write"
        ) from error
    try:
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(_self()).encode(), 0)
        except OSError as error:
            raise UnwrittenError(
                f"cannot write in {folder}: {error.strerror}; choose a folder with space that you may write"
            ) from error
        yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()  # before the lock is given up: who waits for it sees that it is another file
        os.close(file)


def check_free(folder: Path) -> None:
    """Whether nobody writes a folder now.

    Raises:
        FedhaError: Somebody does.
    """
    if (folder / LOCK).exists():
        with owning(folder):
            pass


def _locked(path: Path) -> int:
    """The lock's file, open and locked."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            told = _told(file)
            if error.errno not in _NO_LOCKS:
                os.close(file)
                raise _busy(path, told) from None
            if told and not (told.get("host") == socket.gethostname() and _is_dead(told)):
                os.close(file)
                raise _busy(path, told, f"; if that has ended, remove {path}") from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)  # the owner before us has just removed it


def _self() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _told(file: int) -> dict[str, Any]:
    """What the lock's file says; nothing where that is being written."""
    try:
        content = parse_json(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _busy(path: Path, told: dict[str, Any], hint: str = "") -> FedhaError:
    who = f"process {told.get('pid')} on {told.get('host')} since {told.get('since')}" if told else "another process"
    return FedhaError(f"{path.parent} is being written by {who}; wait for its end, or end it{hint}")


def _is_dead(told: dict[str, Any]) -> bool:
    try:
        os.kill(int(told["pid"]), 0)
    except (ProcessLookupError, KeyError, ValueError, TypeError):
        return True
    except PermissionError:
        return False
    return False
