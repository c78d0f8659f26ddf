"""A user's own data: a folder with one NumPy archive for every domain."""

import hashlib
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedha.config import DataConfig
from fedha.data.archive import RECIPE, Member, members, read_inputs, read_values, reorder
from fedha.data.domain import Domain, DomainSet, Examples, choose_sources, own_source
from fedha.data.folder import domains_in
from fedha.data.labels import count_classes
from fedha.data.layout import layout_of
from fedha.data.sides import Cut
from fedha.errors import FedhaError

FILE = "{}.npz"  # of a domain


def load(config: DataConfig, cut: Cut) -> DomainSet:
    """Domains from ``<root>/<domain>.npz``, each with the arrays ``inputs`` and ``labels``.

    Args:
        config: Its root, target (required), sources (default: all but the target, by name), classes, unlabelled, layout
            and scale.
        cut: Decides which examples of the sources are held out.

    Returns:
        Inputs [n, ...] as float32, channels first, and scaled where they are images of bytes; labels [n], integers from
        0. The number of classes is that of the config, or one more than the highest label of all the domains used.

    Raises:
        FedhaError: No root, no target, an unknown domain, a file that is no such archive, or labels that leave a class
            without an example.
    """
    if config.root is None:
        raise FedhaError("data.root is not set; name the folder that holds one <domain>.npz for every domain")
    known, passed = domains_in(config.root)
    if not known:
        hint = f" ({'; '.join(passed)})" if passed else ""
        raise FedhaError(f"there is no .npz file in {config.root}{hint}; put one <domain>.npz there for every domain")
    if config.target is None:
        raise FedhaError(f"data.target is not set; name the unseen domain, one of {', '.join(known)}")
    names = choose_sources(known, config.sources, config.target, passed)
    sources = tuple(_source(config, name, cut) for name in names)
    target = load_target(config, config.root)
    labels = {one.name: torch.cat([one.train.labels, one.held_out.labels]) for one in (*sources, target)}
    counts = {name: len(one) for name, one in labels.items()}
    return DomainSet(
        sources=sources,
        targets=(target,),
        classes=config.classes or count_classes(labels),
        description=(
            f"arrays from {config.root}: {', '.join(f'{name} {counts[name]}' for name in names)} examples, "
            f"unseen target {config.target} {counts[config.target]}"
        ),
        notes=tuple(passed),
    )


def load_target(config: DataConfig, root: Path) -> Domain:
    """The unseen domain, from its own archive alone.

    Args:
        config: Its target, unlabelled, layout and scale.
        root: The folder of the archive.

    Raises:
        FedhaError: No target, or as in `read`.
    """
    if config.target is None:
        raise FedhaError("data.target is not set; name the unseen domain")
    return read(root / f"{config.target}.npz", config, None)


def load_own(config: DataConfig, cut: Cut, place: int) -> Domain:
    """The source of one client, from its own archive alone.

    Args:
        config: Its root, with the archive, its sources (needed if the folder has several archives), unlabelled, layout
            and scale.
        cut: As in `load`.
        place: The client's, in client order.

    Raises:
        FedhaError: No root, no archive, no telling which, or no number of classes: a site sees its own labels alone.
    """
    if config.root is None:
        raise FedhaError("data.root is not set; name the folder that holds the client's <domain>.npz")
    if config.classes is None:
        raise FedhaError("data.classes is not set; a client sees its own labels alone, so the config must say how many")
    known, passed = domains_in(config.root)
    if config.sources is None and len(known) != 1:
        hint = f" ({'; '.join(passed)})" if passed else ""
        raise FedhaError(
            f"{config.root} holds {len(known)} .npz files{hint}; keep the client's own alone there, or set "
            "data.sources, whose order is that of the clients"
        )
    name = known[0] if config.sources is None else own_source(config.sources, place, config.root, FILE)
    if name not in known:  # a name comes with the config, from a server: it leads nowhere but into this folder
        raise FedhaError(f"{config.root} holds no {name}.npz, only {', '.join(known) or 'no archive'}; put it there")
    return _source(config, name, cut)


def _source(config: DataConfig, name: str, cut: Cut) -> Domain:
    return read(Path(config.root or ".") / f"{name}.npz", config, cut)


def read(path: Path, config: DataConfig, cut: Cut | None = None) -> Domain:
    """One archive as a domain.

    Args:
        path: An .npz file; nothing in it is unpickled.
        config: Its unlabelled, layout and scale.
        cut: Which examples are held out; None: all of them, as of a target.

    Returns:
        Inputs [n, ...] as float32, labels [n] and, where the archive has them and the split heeds them, groups [n] as
        int64. Both parts are views of one tensor.

    Raises:
        FedhaError: The file is missing or is no .npz, an array is missing, inputs are not numbers or have one axis
            only, labels are not integers [n], groups are neither numbers nor texts [n], or there are more of the one
            than of the other.
    """
    found = members(path)
    check(path, found)
    labels = torch.from_numpy(read_values(path, found["labels"]).astype(numpy.int64))
    groups, notes = None, []
    if "groups" in found and cut is not None and not cut.heeds_groups:
        notes.append("data.split is random, so the groups are not kept together")
    elif "groups" in found:
        groups = _numbered(read_values(path, found["groups"]))
    layout = layout_of(str(path), found["inputs"].dtype, found["inputs"].shape, config)
    inputs = read_inputs(path, found["inputs"], layout.axes, layout.divisor)
    labelled = torch.ones_like(labels) if config.unlabelled is None else labels.ne(config.unlabelled)
    kept = labelled.nonzero()[:, 0]
    if left_out := len(labels) - len(kept):
        notes.append(f"{left_out} of {len(labels)} rows have no label ({config.unlabelled}) and are left out")
        order = torch.cat([kept, labelled.logical_not().nonzero()[:, 0]])
        inputs, labels = reorder(inputs, order)[: len(kept)], labels[kept]
        groups = None if groups is None else groups[kept]
    notes += [layout.note] if layout.note else []
    if unread := sorted(found.keys() - {"inputs", "labels", "groups"}):
        notes.append(f"of the archive only inputs, labels and groups are read, not {', '.join(unread)}")
    whole = Examples(inputs, labels, groups)
    return _divided(path.stem, whole, cut, tuple(notes))


def check(path: Path, found: dict[str, Member]) -> None:
    """Refuse what cannot be examples, by types and shapes alone; arguments and errors as in `read`."""
    for name in ("inputs", "labels"):
        if name not in found:
            raise FedhaError(f"{path} holds {', '.join(found) or 'nothing'} but no array {name}; {RECIPE}")
    inputs, labels, groups = found["inputs"], found["labels"], found.get("groups")
    if inputs.dtype.kind not in "fiub" or len(inputs.shape) < 2:
        raise FedhaError(
            f"inputs of {path} have type {inputs.dtype} and shape {inputs.shape}; they must be real numbers [n, ...], "
            "such as [n, features] or [n, channels, height, width]"
        )
    if labels.dtype.kind not in "iub" or len(labels.shape) != 1:
        raise FedhaError(
            f"labels of {path} have type {labels.dtype} and shape {labels.shape}; they must be integers [n] from 0"
        )
    if inputs.shape[0] != labels.shape[0]:
        raise FedhaError(f"{path} has {inputs.shape[0]} inputs but {labels.shape[0]} labels; give one label an input")
    if groups is not None and (groups.dtype.kind not in "iubUS" or groups.shape != labels.shape):
        raise FedhaError(
            f"groups of {path} have type {groups.dtype} and shape {groups.shape}; they must be integers or texts "
            f"[{labels.shape[0]}], such as a patient's number for each row"
        )


def _numbered(groups: NDArray[Any]) -> Tensor:
    """Groups as numbers that depend on nothing but their own names: integers as they are, a digest of texts."""
    if groups.dtype.kind in "iub":
        return torch.from_numpy(groups.astype(numpy.int64))
    names, places = numpy.unique(groups, return_inverse=True)
    digests = [hashlib.blake2b(str(one).encode("utf-8", "replace"), digest_size=8).digest() for one in names.tolist()]
    numbers = torch.tensor([int.from_bytes(one, "big", signed=True) for one in digests], dtype=torch.int64)
    return numbers[torch.from_numpy(places)]


def _divided(name: str, whole: Examples, cut: Cut | None, notes: tuple[str, ...]) -> Domain:
    """The domain in its two parts, where its rows are already."""
    if cut is None:
        return Domain(name, train=whole.select(slice(0, 0)), held_out=whole, notes=notes)
    train, held_out = cut.sides(name, whole.inputs, whole.labels, whole.groups)
    if whole.groups is not None and len(whole.groups) and bool((whole.groups == whole.groups[0]).all()):
        side = "trained on" if len(train) else "held out"
        notes = (*notes, f"all rows are one group, so all are {side}")
    order, count = torch.cat([train, held_out]), len(train)
    groups = None if whole.groups is None else whole.groups[order]
    ordered = Examples(reorder(whole.inputs, order), whole.labels[order], groups)
    return Domain(name, ordered.select(slice(count)), ordered.select(slice(count, None)), notes=notes)
