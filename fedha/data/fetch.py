"""Files from the network into a folder: whole and of the right digest, or not there; what was begun goes on."""

import fcntl
import gzip
import hashlib
import http.client
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedha.data.downloads import Remote
from fedha.errors import FedhaError, UnwrittenError

TIMEOUT_SECONDS = 30.0
_PIECE = 2**18
_SLACK = 2**16  # a gzip of noise is longer than the noise
_FAILED = (OSError, EOFError, zlib.error, http.client.HTTPException, ValueError)

# Which file, how many bytes of it are here, how many there are (0: unknown).
OnProgress = Callable[[str, int, int], None]


def fetch(
    files: Sequence[Remote], root: Path, on_progress: OnProgress = lambda *_: None
) -> tuple[list[Path], list[Path]]:
    """Get the files that a folder lacks.

    Args:
        files: Which.
        root: The folder, made if it is not there.
        on_progress: Hears how far it is.

    Returns:
        Those that were got, and those that were there already, each of the right digest.

    Raises:
        FedhaError: A file is there that is another one, none of its URLs gives it, or the folder cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnwrittenError(f"cannot make the folder {root}: {error.strerror}; choose another --root") from error
    got, there = [], []
    for one in files:
        path = root / one.name
        if path.exists():
            if digest(path, one) != one.sha256:
                raise FedhaError(
                    f"{path} is there and is not the published {one.name}; move it away, or choose another --root"
                )
            there.append(path)
        else:
            _get(one, path, on_progress)
            got.append(path)
    return got, there


def digest(path: Path, remote: Remote) -> str:
    """The digest of a file's contents, as `Remote.sha256`; "" where it is damaged."""
    found = hashlib.sha256()
    try:
        with gzip.open(path, "rb") if remote.packed else path.open("rb") as file:
            read = 0
            while (piece := file.read(_PIECE)) and read <= remote.size + _SLACK:
                found.update(piece)
                read += len(piece)
    except (OSError, EOFError, zlib.error):
        return ""
    return found.hexdigest()


def _get(remote: Remote, path: Path, on_progress: OnProgress) -> None:
    begun = path.with_name(f".{path.name}.part")
    with _alone(begun):
        problems = [problem for url in remote.urls if (problem := _tried(url, begun, remote, on_progress)) is not None]
        if len(problems) < len(remote.urls):
            begun.replace(path)
            return
        size = begun.stat().st_size if begun.exists() else 0
        kept = f" ({size:,} bytes are kept: the same command goes on)" if size else ""
        if not size:
            begun.unlink(missing_ok=True)
    raise FedhaError(
        f"cannot get {remote.name}{kept}: {'; '.join(problems)}; check the network, or put the file into "
        f"{path.parent} yourself"
    )


@contextmanager
def _alone(begun: Path) -> Iterator[None]:
    """One process at a time writes what is begun."""
    try:
        file = begun.open("ab")
    except OSError as error:
        raise _unwritten(begun, error) from error
    with file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FedhaError(f"another process is getting {begun}; wait for it") from error
        except OSError:  # a file system without locks
            pass
        yield


def _tried(url: str, begun: Path, remote: Remote, on_progress: OnProgress) -> str | None:
    """Why a URL does not give the file; None: it is here, whole."""
    goes_on = begun.stat().st_size > 0 if begun.exists() else False
    try:
        _append(url, begun, remote, on_progress)
    except UnwrittenError:
        raise
    except _FAILED as error:
        return f"{url}: {_reason(error)}"
    if digest(begun, remote) == remote.sha256:
        return None
    begun.unlink()
    if goes_on:  # what was here before may have been of another copy: once more, from the start
        return _tried(url, begun, remote, on_progress)
    return f"{url}: its contents are not those with SHA-256 {remote.sha256}"


def _append(url: str, begun: Path, remote: Remote, on_progress: OnProgress) -> None:
    """The rest of a file behind what is here of it; all of it where the server does not send a rest."""
    here = begun.stat().st_size if begun.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={here}-"} if here else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and here:
                return  # all of it is here
        raise
    with response:
        goes_on = response.status == http.client.PARTIAL_CONTENT
        here = here if goes_on else 0
        whole = here + int(response.headers.get("Content-Length") or 0)
        if not goes_on:
            begun.write_bytes(b"")
        while piece := response.read(_PIECE):
            here += len(piece)
            if here > remote.size + _SLACK:
                begun.write_bytes(b"")
                raise ValueError(f"it sends more than the {remote.size:,} bytes of {remote.name}")
            _write(begun, piece)
            on_progress(remote.name, here, whole)
    if whole and here < whole:
        raise ValueError(f"it ended after {here:,} of {whole:,} bytes")


def _write(begun: Path, piece: bytes) -> None:
    try:
        with begun.open("ab") as file:
            file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritten(begun, error) from error


def _unwritten(path: Path, error: OSError) -> UnwrittenError:
    return UnwrittenError(f"cannot write into {path.parent}: {error.strerror}; choose a folder with space")


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", "") or error) or type(error).__name__
