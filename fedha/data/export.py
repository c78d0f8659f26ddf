"""One domain as one file, for the site that holds it: both parts as they are used, nothing of any other domain."""

import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy
import torch

from fedha.atomic import write_bytes
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.errors import FedhaError, UnwrittenError

FILE = "domain.npz"
_ARRAYS = ("train_inputs", "train_labels", "held_out_inputs", "held_out_labels")


def write_domain(path: Path, domain: Domain, classes: int) -> None:
    """Write a domain at once.

    Args:
        path: An .npz file; its folder is there.
        domain: What a client holds.
        classes: C, the number of classes of the whole federation.

    Raises:
        FedhaError: The file cannot be written.
    """
    parts = (domain.train.inputs, domain.train.labels, domain.held_out.inputs, domain.held_out.labels)
    arrays: dict[str, Any] = {name: part.numpy() for name, part in zip(_ARRAYS, parts, strict=True)}
    arrays |= {"name": domain.name, "shard": -1 if domain.shard is None else domain.shard, "classes": classes}
    file = io.BytesIO()
    numpy.savez_compressed(file, **arrays)
    write_bytes(path, file.getvalue())


def export_sources(domains: DomainSet, folder: Path) -> list[Path]:
    """Write every source domain into a folder of its own, ``folder/<domain>/domain.npz``; nothing is overwritten.

    Args:
        domains: A federation's.
        folder: Made if it is not there.

    Returns:
        The files, in client order.

    Raises:
        FedhaError: A file is there already, or cannot be written.
    """
    files = [folder / one.name / FILE for one in domains.sources]
    for path in files:
        if os.path.lexists(path):
            raise FedhaError(f"{path} is there already and nothing is overwritten; choose another folder")
    there = {one for path in files for one in (path.parent, folder, *folder.parents) if one.exists()}
    try:
        for path, domain in zip(files, domains.sources, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_domain(path, domain, domains.classes)
    except (OSError, UnwrittenError) as error:  # all of them or none: the command can be repeated elsewhere
        for done in files:
            done.unlink(missing_ok=True)
        for place in (*(done.parent for done in files), folder, *folder.parents):
            if place not in there and place.is_dir() and not any(place.iterdir()):
                place.rmdir()
        if isinstance(error, OSError):
            told = f"cannot write {path}: {error.strerror}; choose a folder that you may write"
            raise UnwrittenError(told) from error
        raise
    return files


def read_domain(path: Path) -> tuple[Domain, int]:
    """Read what `write_domain` wrote; nothing in it is unpickled.

    Returns:
        The domain, and the number of classes.

    Raises:
        FedhaError: The file cannot be read, is no such file, or holds what no client can train on.
    """
    try:
        with numpy.load(path, allow_pickle=False) as archive:
            arrays = [torch.from_numpy(archive[name]) for name in _ARRAYS]
            name, shard, classes = str(archive["name"]), int(archive["shard"]), int(archive["classes"])
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise FedhaError(f"cannot read {path} as a domain ({error}); make it again with `fedha export`") from error
    domain = Domain(name, Examples(*arrays[:2]), Examples(*arrays[2:]), None if shard < 0 else shard)
    return DomainSet((domain,), (), classes, str(path)).check().sources[0], classes
