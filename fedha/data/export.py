"""One domain as one file, for the site that holds it: both parts as they are used, nothing of any other domain."""

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.lib import format as npy
from torch import Tensor

from fedha.atomic import write_bytes, write_parts
from fedha.data.check import check_kinds
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.data.examples import GIVEN
from fedha.data.mapped import open_array
from fedha.errors import FedhaError, UnwrittenError, brief

FILE = "domain.npz"
_PARTS = ("train", "held_out")


def write_domain(path: Path, domain: Domain, classes: int) -> None:
    """Write a domain at once. Inputs that are in a file stay in one of their own, ``domain.train_inputs.npy``, mapped.

    Args:
        path: An .npz file; its folder is there.
        domain: What a client holds.
        classes: C, the number of classes of the whole federation.

    Raises:
        FedhaError: The file cannot be written, or an example has several inputs.
    """
    arrays: dict[str, Any] = {}
    for name in _PARTS:
        part: Examples = getattr(domain, name)
        if not part.form.alone:
            raise FedhaError(
                f"an example of domain {domain.name!r} has several inputs, which `fedha export` does not write; let "
                "data.name name the function that makes them at the site"
            )
        if isinstance(part.inputs, Tensor):
            arrays[f"{name}_inputs"] = part.inputs.numpy()
        else:
            write_parts(_beside(path, name), _as_npy(part))
        beside = {one: column for one, column in part.metadata.items() if one != GIVEN}
        arrays |= {f"{name}_column/{one}": column for one, column in beside.items() if column.dtype.kind in "biufUS"}
        arrays |= {} if part.groups is None else {f"{name}_groups": part.groups.numpy()}
        arrays |= {f"{name}_labels": part.labels.numpy(), f"{name}_divisor": part.divisor_of(part.inputs)}
    arrays |= {"name": domain.name, "shard": -1 if domain.shard is None else domain.shard, "classes": classes}
    file = io.BytesIO()
    numpy.savez_compressed(file, **arrays)
    write_bytes(path, file.getvalue())


def _beside(path: Path, part: str) -> Path:
    return path.with_name(f"{path.stem}.{part}_inputs.npy")


def _as_npy(part: Examples) -> Iterator[bytes]:
    """A file of the inputs as they are kept, a block at a time."""
    kept = replace(part, divisor=1.0)
    header = io.BytesIO()
    like = kept.take(slice(0, 0)).numpy()
    fields = {"descr": npy.dtype_to_descr(like.dtype), "fortran_order": False, "shape": (len(part), *part.shape)}
    npy.write_array_header_1_0(header, fields)
    yield header.getvalue()
    for block in kept.blocks():
        yield kept.take(block).numpy().tobytes()


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
            for one in (done, *(_beside(done, part) for part in _PARTS)):
                with suppress(OSError):  # it was never made
                    one.unlink()
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
            train, held_out = (_read(path, archive, name) for name in _PARTS)
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
        raise FedhaError(
            f"cannot read {path} as a domain ({brief(error)}); make it again with `fedha export`"
        ) from error
    for title, part in (("train", train), ("held-out", held_out)):
        check_kinds(name, title, part)
    domain = Domain(name, train, held_out, None if shard < 0 else shard)
    return DomainSet((domain,), (), classes, str(path)).check().sources[0], classes


def _read(path: Path, archive: Any, part: str) -> Examples:
    divisor = float(archive[f"{part}_divisor"]) if f"{part}_divisor" in archive else 1.0
    labels = torch.from_numpy(archive[f"{part}_labels"])
    groups = torch.from_numpy(archive[f"{part}_groups"]) if f"{part}_groups" in archive else None
    prefix = f"{part}_column/"
    metadata = {name.removeprefix(prefix): archive[name] for name in archive if name.startswith(prefix)}
    if f"{part}_inputs" not in archive and _beside(path, part).is_file():
        return Examples(open_array(_beside(path, part)), labels, groups, metadata, divisor=divisor)
    return Examples(torch.from_numpy(archive[f"{part}_inputs"]), labels, groups, metadata, divisor=divisor)
