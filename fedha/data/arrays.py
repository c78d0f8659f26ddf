"""A user's own data: a folder with one NumPy archive for every domain."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from fedha.config import DataConfig
from fedha.data.domain import Domain, DomainSet, Examples, choose_sources, own_source, split, unseen
from fedha.errors import FedhaError
from fedha.randomness import generator

FILE = "{}.npz"  # of a domain
_RECIPE = "write it with numpy.savez(path, inputs=inputs, labels=labels)"


def load(config: DataConfig, seed: int) -> DomainSet:
    """Domains from ``<root>/<domain>.npz``, each with the arrays ``inputs`` and ``labels``.

    Args:
        config: Its root, target (required), sources (default: all but the target, by name), held_out and classes.
        seed: Decides which examples of the sources are held out.

    Returns:
        Inputs [n, ...] as float32, not scaled; labels [n], integers from 0. The number of classes is that of the
        config, or one more than the highest label of all the domains used, and 2 at least.

    Raises:
        FedhaError: No root, no target, an unknown domain, a file that is no such archive, or labels that leave more
            classes than there are examples.
    """
    if config.root is None:
        raise FedhaError("data.root is not set; name the folder that holds one <domain>.npz for every domain")
    known = sorted(path.stem for path in config.root.glob("*.npz"))
    if not known:
        raise FedhaError(f"there is no .npz file in {config.root}; put one <domain>.npz there for every domain")
    if config.target is None:
        raise FedhaError(f"data.target is not set; name the unseen domain, one of {', '.join(known)}")
    names = choose_sources(known, config.sources, config.target)
    parts = {name: read(config.root / FILE.format(name)) for name in (*names, config.target)}
    return DomainSet(
        sources=tuple(_source(name, parts[name], config.held_out, seed) for name in names),
        targets=(unseen(config.target, parts[config.target]),),
        classes=config.classes or _classes(parts),
        description=(
            f"arrays from {config.root}: {', '.join(f'{name} {len(parts[name])}' for name in names)} examples, "
            f"unseen target {config.target} {len(parts[config.target])}"
        ),
    )


def load_target(config: DataConfig, root: Path) -> Domain:
    """The unseen domain, from its own archive alone.

    Args:
        config: Its target.
        root: The folder of the archive.

    Raises:
        FedhaError: No target, or as in `read`.
    """
    if config.target is None:
        raise FedhaError("data.target is not set; name the unseen domain")
    return unseen(config.target, read(root / f"{config.target}.npz"))


def load_own(config: DataConfig, seed: int, place: int) -> Domain:
    """The source of one client, from its own archive alone.

    Args:
        config: Its root, with the archive, its sources (needed if the folder has several archives) and held_out.
        seed: As in `load`.
        place: The client's, in client order.

    Raises:
        FedhaError: No root, no archive, no telling which, or no number of classes: a site sees its own labels alone.
    """
    if config.root is None:
        raise FedhaError("data.root is not set; name the folder that holds the client's <domain>.npz")
    if config.classes is None:
        raise FedhaError("data.classes is not set; a client sees its own labels alone, so the config must say how many")
    known = sorted(path.stem for path in config.root.glob("*.npz"))
    if config.sources is None and len(known) != 1:
        raise FedhaError(
            f"{config.root} holds {len(known)} .npz files; keep the client's own alone there, or set data.sources, "
            "whose order is that of the clients"
        )
    name = known[0] if config.sources is None else own_source(config.sources, place, config.root, FILE)
    return _source(name, read(config.root / FILE.format(name)), config.held_out, seed)


def _source(name: str, examples: Examples, held_out: float, seed: int) -> Domain:
    return split(name, examples, held_out, generator(seed, "data", "held out", name))


def read(path: Path) -> Examples:
    """One archive as examples.

    Args:
        path: An .npz file; nothing in it is unpickled.

    Returns:
        Inputs [n, ...] as float32 and labels [n] as int64.

    Raises:
        FedhaError: The file is missing or is no .npz, an array is missing, inputs are not numbers or have one axis
            only, labels are not integers [n], or there are more of the one than of the other.
    """
    inputs, labels = _arrays(path)
    if inputs.dtype.kind not in "fiub" or inputs.ndim < 2:
        raise FedhaError(
            f"inputs of {path} have type {inputs.dtype} and shape {inputs.shape}; they must be real numbers [n, ...], "
            "such as [n, features] or [n, channels, height, width]"
        )
    if labels.dtype.kind not in "iub" or labels.ndim != 1:
        raise FedhaError(
            f"labels of {path} have type {labels.dtype} and shape {labels.shape}; they must be integers [n] from 0"
        )
    if len(inputs) != len(labels):
        raise FedhaError(f"{path} has {len(inputs)} inputs but {len(labels)} labels; give one label an input")
    with numpy.errstate(over="ignore"):  # beyond float32 is infinity, which `DomainSet.check` reports
        values = inputs.astype(numpy.float32)
    return Examples(torch.from_numpy(values), torch.from_numpy(labels.astype(numpy.int64)))


def _arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        archive = numpy.load(path, allow_pickle=False)
        if not isinstance(archive, numpy.lib.npyio.NpzFile):
            raise FedhaError(f"{path} holds a single array; {_RECIPE}")
        with archive:
            held = {name: archive[name] for name in ("inputs", "labels") if name in archive.files}
    except (OSError, EOFError, ValueError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise FedhaError(f"cannot read {path} as arrays: {error}; {_RECIPE}") from error
    for name in ("inputs", "labels"):
        if not isinstance(held.get(name), numpy.ndarray):
            raise FedhaError(f"{path} holds {', '.join(archive.files) or 'nothing'} but no array {name}; {_RECIPE}")
    return held["inputs"], held["labels"]


def _classes(parts: dict[str, Examples]) -> int:
    highest = {name: int(part.labels.max()) for name, part in parts.items() if len(part)}
    examples = sum(len(part) for part in parts.values())
    worst = max(highest, key=lambda name: highest[name], default="")
    classes = max(2, highest.get(worst, 0) + 1)
    if classes > max(2, examples):
        raise FedhaError(
            f"labels of domain {worst!r} go up to {classes - 1} but all domains have {examples} examples together; "
            "number the classes 0, 1, 2, …"
        )
    return classes
