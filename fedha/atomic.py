"""Files written at once: a reader sees the old content or the new one, never a part."""

import fcntl
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from fedha.errors import UnwrittenError

_BEGUN = re.compile(r"\..+\.[0-9a-f]{8}\.fedha")  # a file that is being written, or was when its writer died


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file at once, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"), mode)


def write_json(path: Path, content: Any, mode: int = 0o666) -> None:
    """Write JSON as `write_bytes` does. Numbers that are not finite become null, which every JSON reader takes."""
    write_text(path, json.dumps(finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n", mode)


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file at once, as `write_parts` does."""
    write_parts(path, [content], mode)


def write_parts(path: Path, parts: Iterable[bytes], mode: int = 0o666) -> None:
    """Write a file at once: to a temporary file beside it, to the disk, then renamed over it.

    What other writers left in the folder when they died is removed.

    Args:
        path: Its folder is there.
        parts: Its content, one after the other.
        mode: Who may read and write it, less the process's umask.

    Raises:
        UnwrittenError: The folder is missing or cannot be written.
    """
    clear_leftovers(path.parent)
    beside = path
    try:
        beside, file = _begin(path, mode)
        with file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            beside.replace(path)
    except BaseException as error:
        if beside != path:
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UnwrittenError(
                f"cannot write {path}: {error.strerror}; choose a folder with space that you may write"
            ) from error
        raise


def clear_leftovers(folder: Path, *names: str) -> None:
    """Remove from a folder what writers left that died in the middle; one that lives holds a lock on its file.

    Args:
        folder: Where files were written; it need not be there.
        names: Of files whose temporary ones version 0.1.0 may have left.
    """
    earlier = [re.compile(rf"\.{re.escape(name)}\.(?=\d*[a-f])[0-9a-f]+") for name in names]  # digits alone: a date?
    with suppress(OSError):  # no such folder, or one that may not be read: then nothing was left by us
        for entry in os.scandir(folder):
            if entry.name.startswith(".") and any(one.fullmatch(entry.name) for one in (_BEGUN, *earlier)):
                _remove_if_dead(entry.path)


def _begin(path: Path, mode: int) -> tuple[Path, BinaryIO]:
    """A new file beside another, open, and locked for as long as it is."""
    while True:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.fedha")
        file = os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")
        with suppress(OSError):  # a file system without locks; there nothing is taken for a leftover either
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return beside, file
        file.close()  # somebody took it for a leftover before it was locked


def _remove_if_dead(path: str) -> None:
    with suppress(OSError):  # it has just gone, or its writer lives
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(file)


def finite(content: Any) -> Any:
    """The same content with every number that is not finite replaced by None."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content
