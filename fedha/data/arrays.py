"""A user's own data: a folder with one NumPy archive for every domain."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedha.config import DataConfig
from fedha.data.archive import RECIPE, Member, member_of, members, read_inputs, read_values, reorder
from fedha.data.domain import Domain, DomainSet, Examples, choose_sources, own_source
from fedha.data.examples import rows_of
from fedha.data.folder import INPUTS, domains_in
from fedha.data.labels import count_classes
from fedha.data.layout import Layout, layout_of
from fedha.data.mapped import Mapped, kept_as, open_array
from fedha.data.numbered import GROUP, numbered
from fedha.data.sides import Cut
from fedha.errors import FedhaError

FILES = ("{}.npz", "{}/inputs.npy")  # of a domain


def load(config: DataConfig, cut: Cut) -> DomainSet:
    """Domains from ``<root>/<domain>.npz``, each with the arrays ``inputs`` and ``labels``.

    Inputs may stay in a file, and are then mapped, never held whole: ``<root>/<domain>.inputs.npy`` beside an archive
    with the labels alone, or a folder ``<root>/<domain>`` with ``inputs.npy`` and ``labels.npy``.

    Args:
        config: Its root, target (required), sources (default: all but the target, by name), classes, unlabelled, layout
            and scale.
        cut: Decides which examples of the sources are held out.

    Returns:
        Inputs [n, ...], channels first, floating ones as float32, whole ones as they are until they are taken (divided
        by their range where they are images of bytes); labels [n], integers from 0. The number of classes is that of
        the config, or one more than the highest label of all the domains used.

    Raises:
        FedhaError: No root, no target, an unknown domain, a file that is no such archive, or labels that leave a class
            without an example.
    """
    root, known, passed = _found(config)
    if config.target is None:
        raise FedhaError(f"data.target is not set; name the unseen domain, one of {', '.join(known)}")
    names = choose_sources(known, config.sources, config.target, passed)
    sources = tuple(_source(config, name, cut) for name in names)
    target = load_target(config, root)
    labels = {one.name: torch.cat([one.train.labels, one.held_out.labels]) for one in (*sources, target)}
    counts = {name: len(one) for name, one in labels.items()}
    return DomainSet(
        sources=sources,
        targets=(target,),
        classes=config.classes or count_classes(labels),
        description=(
            f"arrays from {root}: {', '.join(f'{name} {counts[name]}' for name in names)} examples, "
            f"unseen target {config.target} {counts[config.target]}"
        ),
        notes=tuple(passed),
    )


def domain_names(config: DataConfig) -> list[str]:
    """The domains that have an archive in the config's root; errors as in `load`."""
    return _found(config)[1]


def _found(config: DataConfig) -> tuple[Path, list[str], list[str]]:
    """The root, its domains, and what was passed over, a sentence each."""
    if config.root is None:
        raise FedhaError("data.root is not set; name the folder that holds one <domain>.npz for every domain")
    if not config.root.is_dir():
        raise FedhaError(f"{config.root} is no folder; correct data.root, which holds a <domain>.npz for every domain")
    known, passed = domains_in(config.root)
    if not known:
        hint = f" ({'; '.join(passed)})" if passed else ""
        raise FedhaError(f"there is no .npz file in {config.root}{hint}; put one <domain>.npz there for every domain")
    return config.root, known, passed


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
    return read(_place(root, config.target), config, None)


def load_own(config: DataConfig, cut: Cut, client_id: int) -> Domain:
    """The source of one client, from its own archive alone.

    Args:
        config: Its root, with the archive, its sources (needed if the folder has several archives), unlabelled, layout
            and scale.
        cut: As in `load`.
        client_id: The client's, in client order.

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
    name = known[0] if config.sources is None else own_source(config.sources, client_id, config.root, *FILES)
    if name not in known:  # a name comes with the config, from a server: it leads nowhere but into this folder
        raise FedhaError(f"{config.root} holds no {name}.npz, only {', '.join(known) or 'no archive'}; put it there")
    return _source(config, name, cut)


def _source(config: DataConfig, name: str, cut: Cut) -> Domain:
    return read(_place(Path(config.root or "."), name), config, cut)


def _place(root: Path, name: str) -> Path:
    """A domain's archive, or its folder."""
    folder = root / name
    return folder if not (root / f"{name}.npz").is_file() and folder.is_dir() else root / f"{name}.npz"


def read(path: Path, config: DataConfig, cut: Cut | None = None) -> Domain:
    """One archive, or folder, as a domain.

    Args:
        path: An .npz file, or a folder of .npy files; nothing in it is unpickled.
        config: Its unlabelled, layout and scale.
        cut: Which examples are held out; None: all of them, as of a target.

    Returns:
        Inputs [n, ...], labels [n] and, where the archive has them and the split heeds them, groups [n] as int64. In
        memory both parts are views of one tensor; of a mapped file they are its rows.

    Raises:
        FedhaError: The file is missing or is no .npz, an array is missing, inputs are not numbers or have one axis
            only, labels are not integers [n], groups are neither numbers nor texts [n], or there are more of the one
            than of the other.
    """
    found = members(path)
    mapped = _mapped(path, found)
    if mapped is not None:
        found = {**found, "inputs": member_of("inputs", mapped)}
    check(path, found)
    labels = torch.from_numpy(read_values(path, found["labels"]).astype(numpy.int64))
    groups, notes, metadata = None, [], dict[str, NDArray[Any]]()
    if "groups" in found and cut is not None and not cut.heeds_groups:
        notes.append("data.split is random, so the groups are not kept together")
    elif "groups" in found:
        metadata = {GROUP: read_values(path, found["groups"])}
        groups = numbered(metadata[GROUP])
    out = labels == (-(2**63) if config.unlabelled is None else config.unlabelled)
    if left_out := int(out.sum()):
        notes.append(f"{left_out} of {len(labels)} rows have no label ({config.unlabelled}) and are left out")
    layout = layout_of(str(path), found["inputs"].dtype, found["inputs"].shape, config)
    notes += [layout.note] if layout.note else []
    known = _column(path, found, config.partition_column, len(labels))
    if unread := sorted(found.keys() - {"inputs", "labels", "groups", *known}):
        notes.append(f"of the archive only inputs, labels and groups are read, not {', '.join(unread)}")
    whole = replace(
        _whole(path, found["inputs"], mapped, layout, labels, groups), metadata={**metadata, **known}
    ).counted()
    if left_out:
        whole = _ordered(whole, ~out, out)
    name = path.name if path.is_dir() else path.stem
    return _divided(name, whole, cut, tuple(notes))


def _column(path: Path, found: Mapping[str, Member], name: str | None, rows: int) -> dict[str, NDArray[Any]]:
    """The array that clients are made by, if there is one of that name; ``group`` stands for the groups."""
    own = "groups" if name == "group" and "group" not in found else name
    if name is None or own is None or own not in found:
        return {}
    values = read_values(path, found[own])
    if values.shape != (rows,) or values.dtype.kind not in "iubUS":
        raise FedhaError(
            f"{own} of {path} have type {values.dtype} and shape {values.shape}, but data.partition makes clients by "
            f"them; they must be integers or texts, one a label, [{rows}]"
        )
    return {name: values}


def _mapped(path: Path, found: Mapping[str, Member]) -> Mapped | None:
    """The inputs that stay in their file, if there is one."""
    if path.is_dir():
        return open_array(path / "inputs.npy")
    beside = path.with_name(path.stem + INPUTS)
    if not beside.is_file():
        return None
    if "inputs" in found:
        raise FedhaError(f"inputs are in {path} and in {beside}; keep one of them")
    return open_array(beside)


def _whole(
    path: Path, member: Member, mapped: Mapped | None, layout: Layout, labels: Tensor, groups: Tensor | None
) -> Examples:
    """All rows, as the file has them."""
    if mapped is not None:
        return Examples(replace(mapped, axes=layout.axes), labels, groups, divisor=layout.divisor)
    kind = kept_as(member.dtype)
    inputs = read_inputs(path, member, layout.axes, layout.divisor if kind.kind == "f" else 1.0, kind)
    return Examples(inputs, labels, groups, divisor=1.0 if kind.kind == "f" else layout.divisor)


def _ordered(whole: Examples, first: Tensor, rest: Tensor) -> Examples:
    """The first ones of some rows; in memory both are put in order where they are, and nothing is copied."""
    places = [one.nonzero()[:, 0] if one.dtype == torch.bool else one for one in (first, rest)]
    if not isinstance(whole.inputs, Tensor):
        return whole.select(places[0])
    order = torch.cat(places)
    groups = None if whole.groups is None else whole.groups[order]
    metadata = {name: column[order.numpy()] for name, column in whole.metadata.items()}
    inputs = reorder(whole.inputs, order)
    moved = replace(whole, inputs=inputs, labels=whole.labels[order], groups=groups, metadata=metadata)
    return moved.select(slice(len(places[0])))


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


def _divided(name: str, whole: Examples, cut: Cut | None, notes: tuple[str, ...]) -> Domain:
    """The domain in its two parts, where its rows are already."""
    if cut is None:
        return Domain(name, train=whole.select(slice(0, 0)), held_out=whole, notes=notes)
    train, held_out = cut.sides(name, rows_of(whole), whole.labels, whole.groups)
    if whole.groups is not None and len(whole.groups) and bool((whole.groups == whole.groups[0]).all()):
        side = "trained on" if len(train) else "held out"
        notes = (*notes, f"all rows are one group, so all are {side}")
    if not isinstance(whole.inputs, Tensor):
        return Domain(name, whole.select(train), whole.select(held_out), notes=notes)
    order, count = torch.cat([train, held_out]), len(train)
    ordered = _ordered(whole, order, order[:0])
    return Domain(name, ordered.select(slice(count)), ordered.select(slice(count, None)), notes=notes)
