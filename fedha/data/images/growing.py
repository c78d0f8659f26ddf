"""An array of decoded images that grows on disk, from where a process that was killed has left it."""

import io
import os
import shutil
from pathlib import Path
from time import monotonic
from typing import Any

import numpy
from numpy.lib import format as npy

from fedha.atomic import write_json
from fedha.data.images.files import Broken, ImageFiles, blocks
from fedha.errors import UnwrittenError
from fedha.jsonfile import parse_json
from fedha.progress import Progress, byte_count

SAVE_EVERY = 2.0  # seconds of work that are lost at most


def grown(path: Path, files: ImageFiles, digest: str, *, skip: bool) -> Broken:
    """Decode all images into an ``.npy`` file.

    Args:
        path: Of the file. Beside it stands how much of it is whole, until all of it is.
        files: The images.
        digest: Of what the file is made: what is there of something else is made anew.
        skip: Whether a broken image is noted instead of ending the work.

    Returns:
        Which images are broken.

    Raises:
        FedhaError: An image is broken, or there is too little space; nothing is left of the file.
        OSError: It cannot be written; nothing is left of it.
    """
    journal = path.with_suffix(".json")
    done, broken = _left(path, journal, files, digest)
    if broken and not skip:
        done, broken = 0, {}
    try:
        _check_space(path, files, done)
        _grow(path, journal, files, digest, done, broken if skip else None)
    except Exception:
        path.unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
        raise
    journal.unlink(missing_ok=True)
    return broken


def _grow(path: Path, journal: Path, files: ImageFiles, digest: str, done: int, broken: Broken | None) -> None:
    header, saved = _header(files), monotonic()
    progress = Progress(f"decoding {files.folder.name} into {path.parent}", len(files), "images", done)
    with path.open("r+b" if done else "wb") as file:
        file.write(header)
        file.seek(len(header) + done * _row_bytes(files))
        file.truncate()
        for block in blocks(files, broken, done):
            file.write(block.data)
            done += len(block)
            progress.add(len(block))
            if monotonic() - saved >= SAVE_EVERY:
                _sync(file)
                told = {str(row): why for row, why in (broken or {}).items()}
                write_json(journal, {"digest": digest, "rows": done, "broken": told})
                saved = monotonic()
        _sync(file)
    progress.end()


def _left(path: Path, journal: Path, files: ImageFiles, digest: str) -> tuple[int, Broken]:
    """How many images an earlier process has decoded, and which of them were broken; 0 where that is not known."""
    try:
        known = parse_json(journal.read_bytes())
        rows, broken = int(known["rows"]), {int(row): str(why) for row, why in known["broken"].items()}
        whole = path.stat().st_size >= len(_header(files)) + rows * _row_bytes(files)
        same = known["digest"] == digest and 0 <= rows <= len(files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0, {}
    return (rows, {row: why for row, why in broken.items() if row < rows}) if whole and same else (0, {})


def _check_space(path: Path, files: ImageFiles, done: int) -> None:
    wanted, free = (len(files) - done) * _row_bytes(files), shutil.disk_usage(path.parent).free
    if wanted > free:
        raise UnwrittenError(
            f"the images of {files.folder.name} take {byte_count(wanted)} as bytes but the disk of data.cache "
            f"{path.parent} has {byte_count(free)} left; make room, name another folder, or leave data.cache out"
        )


def _header(files: ImageFiles) -> bytes:
    header = io.BytesIO()
    kind = npy.dtype_to_descr(numpy.dtype(numpy.uint8))
    npy.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": files.shape})
    return header.getvalue()


def _row_bytes(files: ImageFiles) -> int:
    return files.square.channels * files.square.size**2


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
