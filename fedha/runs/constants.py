"""What of a network never moves, kept once for all runs of a sweep: frozen parameters, and buffers.

Its file is called after a digest of what it holds. A run's own files name it as seen from the run's folder, so that a
sweep can be moved; who reads them has the whole state again.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fedha.errors import FedhaError, UnwrittenError, brief
from fedha.models.state import constants_name, digests
from fedha.runs import own_files
from fedha.runs.files import CONSTANTS

_LOCK = ".lock"  # of the folder's list; it stays, empty
_LEAST = 2**16  # bytes; with less a run's folder is rather whole
_NAME = re.compile(r"[0-9a-f]{32}\.safetensors")

_seen: set[tuple[str, int, int, int]] = set()  # files that were found to hold what they are called after


def keep(place: Path | None, folder: Path, tensors: Mapping[str, Tensor]) -> str | None:
    """Keep constants where several runs share them, unless they are there.

    Args:
        place: The shared folder, made where it is missing; None: nothing is shared.
        folder: The run's.
        tensors: By name.

    Returns:
        The file as seen from the run's folder; None where the run keeps them itself.

    Raises:
        FedhaError: They cannot be written.
    """
    if place is None or sum(one.nbytes for one in tensors.values()) < _LEAST:
        return None
    name = f"{constants_name(digests(tensors))}.safetensors"
    if not _holds(place / name):
        try:
            place.mkdir(parents=True, exist_ok=True)
            with FileLock(place / _LOCK):  # of the list of files: workers write side by side
                content = save({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()})
                own_files.write_bytes(place, name, content)
        except OSError as error:
            raise UnwrittenError(f"cannot write in {place}: {error.strerror}; choose a folder that you may") from error
    return os.path.relpath((place / name).absolute(), folder.absolute())


def read(path: Path, folder: Path, told: Any) -> dict[str, Tensor]:
    """The constants that a run's file names.

    Args:
        path: The file that names them.
        folder: The run's.
        told: What `keep` returned. Where nothing is there, a file of that name in the run's own folder will do.

    Raises:
        FedhaError: They are not there, or are others.
    """
    name = Path(str(told)).name
    if not _NAME.fullmatch(name):
        raise FedhaError(f"{path} names {str(told)[:80]!r} for what was not trained, which is no such file")
    place = Path(os.path.normpath(folder / str(told)))
    found = next((one for one in (place, folder / name) if one.is_file()), None)
    if found is None:
        raise FedhaError(
            f"{path} has only what its run trained; the frozen part of its network was kept once for the whole sweep, "
            f"at {told} seen from the run's folder, and there is no {place}; was the folder copied without its sweep? "
            f"Put {name} from the sweep's folder {CONSTANTS} there, or into {folder}"
        )
    return _read(found)


def is_named(told: Any, tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the constants that `keep` called so."""
    return Path(str(told)).stem == constants_name(digests(tensors))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        found = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise FedhaError(f"cannot read {path} ({brief(error)}); put it back from a copy of the sweep") from error
    if constants_name(digests(found)) != path.stem:
        raise FedhaError(f"{path} is damaged: it holds other numbers than its name says; put it back from a copy")
    return found


def _holds(path: Path) -> bool:
    """Whether a file is there and whole; it is read once a process."""
    try:
        found = path.stat()
        told = (str(path.absolute()), found.st_mtime_ns, found.st_size, found.st_ino)
        if told not in _seen:
            _read(path)
            _seen.add(told)
    except (OSError, FedhaError):  # it is written anew
        return False
    return True
