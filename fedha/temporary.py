"""Temporary folders where the user wants them, with paths that are short enough for sockets in them."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedha.errors import FedhaError

_MOST = 35  # characters of a folder's path: what Ray adds for its sockets makes 103, the least that systems allow
_LINKS = Path("/tmp")


def wanted() -> Path:
    """The folder of temporary files: TMPDIR where that is set, else the system's.

    Raises:
        FedhaError: TMPDIR cannot be used. Python would take the system's own in silence, which may be another disk.
    """
    asked = os.environ.get("TMPDIR")
    if asked and not (os.path.isdir(asked) and os.access(asked, os.W_OK | os.X_OK)):
        raise FedhaError(f"TMPDIR is {asked}, which is no folder that can be written to; make it, or set another")
    return Path(tempfile.gettempdir())


def make_short() -> Path:
    """A new folder in the wanted one, for `remove`; where its path would be too long, a short link to it.

    Raises:
        FedhaError: TMPDIR cannot be used, or no link can be made.
    """
    place = wanted()
    folder = Path(tempfile.mkdtemp(prefix="fedha-", dir=place))
    if len(os.fsencode(folder)) <= _MOST:
        return folder
    link = _LINKS / f"fedha-{secrets.token_hex(6)}"
    try:
        link.symlink_to(folder)
    except OSError as error:
        folder.rmdir()
        raise FedhaError(
            f"the temporary folder {place} has too long a path for Ray's sockets, and no short link to it can be made "
            f"in {_LINKS} ({error.strerror}); set TMPDIR to a path of at most 20 characters"
        ) from error
    return link


def remove(folder: Path) -> None:
    """Remove what `make_short` made, with all that is in it."""
    shutil.rmtree(folder.resolve(), ignore_errors=True)
    if folder.is_symlink():
        folder.unlink(missing_ok=True)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder as `make_short` makes them, for as long as the block lasts."""
    folder = make_short()
    try:
        yield folder
    finally:
        remove(folder)
