"""A site's own secret that decides which of its examples are held out where examples are protected.

No server knows it, so nobody can tell from an example on which side it is; and it stays, so that every run of the site
has the same sides.
"""

import os
import secrets
from pathlib import Path

from fedha.errors import FedhaError

_BYTES = 32


def side_key(cache: Path, agreed: bytes | None = None) -> bytes:
    """The site's key; made when it is first asked for, and then it is the same for ever.

    Args:
        cache: The client's folder for what it needs again.
        agreed: What it is in a contract of the site's; None where it says nothing.

    Raises:
        FedhaError: It cannot be read or made, is damaged, or not the contract's: with another key other examples would
            be held out.
    """
    path = cache / "account" / "sides.key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make(path, agreed or secrets.token_bytes(_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise FedhaError(
            f"cannot keep this site's key {path} of what is held out: {error.strerror}; make its folder writable"
        ) from error
    if len(key) != _BYTES:
        raise FedhaError(
            f"this site's key {path} of what is held out has {len(key)} bytes, not {_BYTES}; restore it, or "
            "without a copy remove it and the account beside it: other examples are then held out"
        )
    if agreed is not None and agreed != key:
        raise FedhaError(
            f"this site's contract has another key of what is held out than {path}, with which its earlier runs went; "
            f"write that one into the contract's split ({key.hex()[:8]}…), or leave split out"
        )
    return key


def _make(path: Path, key: bytes) -> None:
    """Write a new key at once; where another process was first, its key stays."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)
        except FileExistsError:
            return
    finally:
        beside.unlink(missing_ok=True)
