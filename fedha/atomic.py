"""Files written at once: a reader sees the old content or the new one, never a part."""

import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedha.errors import FedhaError


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file at once, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"), mode)


def write_json(path: Path, content: Any) -> None:
    """Write JSON at once. Numbers that are not finite become null, which every JSON reader takes."""
    write_text(path, json.dumps(finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file at once: to a temporary file beside it, to the disk, then renamed over it.

    Args:
        path: Its folder is there.
        content: All of it.
        mode: Who may read and write it, less the process's umask.

    Raises:
        FedhaError: The folder is missing or cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise FedhaError(
                f"cannot write {path}: {error.strerror}; choose a folder with space that you may write"
            ) from error
        raise


def finite(content: Any) -> Any:
    """The same content with every number that is not finite replaced by None."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content
