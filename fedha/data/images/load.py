"""A data set of image folders: ``root/domain/class/image``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fedha.config import DataConfig
from fedha.data.domain import Domain, DomainSet, Examples, choose_sources, nth, split, unseen
from fedha.data.images.cache import cached
from fedha.data.images.decode import BrokenImageError, Square, channels_of
from fedha.data.images.files import Broken, ImageFiles, blocks
from fedha.data.images.tree import LAYOUT, Folder, check_names, read_domain, read_tree, shown
from fedha.data.sides import Cut
from fedha.errors import FedhaError, listed

USUAL_SIZE = 32
_FEW = 3  # files that are named


def load(config: DataConfig, cut: Cut) -> DomainSet:
    """Domains from ``<root>/<domain>/<class>/<image>``; an image may lie deeper.

    Args:
        config: Its root, target (required), sources (default: all but the target), class_names (default: the class
            folders of all domains of the root, sorted), size, channels, on_broken and cache.
        cut: Decides which images of the sources are held out.

    Returns:
        Inputs [n, channels, size, size] of bytes, decoded when they are taken and then divided by 255; labels are the
        places of their class among the names.

    Raises:
        FedhaError: No root, one domain only, no or an unknown target, a folder that cannot be read, an image that is
            broken, class folders that differ by case alone, a class without an image.
    """
    found, passed, classes = _read(config)
    if config.target is None:
        raise FedhaError(f"data.target is not set; name the unseen domain, one of {', '.join(found)}")
    names = choose_sources(list(found), config.sources, config.target, passed)
    square, told = square_of(config, [found[name] for name in names])
    sources = tuple(domain_of(found[name], classes, square, config, cut) for name in names)
    target = domain_of(found[config.target], classes, square, config, None)
    counts = [f"{one.name} {len(one.train) + len(one.held_out):,}" for one in (*sources, target)]
    return DomainSet(
        sources=sources,
        targets=(target,),
        classes=len(classes),
        description=(
            f"images from {config.root}: {', '.join(counts[:-1])}, unseen target {counts[-1]}; {len(classes)} classes; "
            f"{square}{told}"
        ),
        notes=tuple(passed),
    )


def load_target(config: DataConfig, root: Path) -> Domain:
    """The unseen domain, from its own folder alone.

    Args:
        config: Its target, and what a site needs: size, channels and class_names.
        root: Holds the domain's folder.

    Raises:
        FedhaError: As in `load`, or one of them is not set.
    """
    check_alone(config)
    if config.target is None:
        raise FedhaError("data.target is not set; name the unseen domain")
    return _alone(config, root, config.target, None)


def load_own(config: DataConfig, cut: Cut, client_id: int) -> Domain:
    """The source of one client, from its own folder alone.

    Args:
        config: Its root, which holds the domain's folder; size, channels, class_names, and sources where it holds
            several.
        cut: As in `load`.
        client_id: The client's, in client order.

    Raises:
        FedhaError: As in `load`, or there is no telling which domain, or one of the keys is not set.
    """
    if config.root is None:
        raise FedhaError("data.root is not set; name the folder that holds the client's domain/class/image")
    check_alone(config)
    if config.cache is not None:
        raise FedhaError(f"data.cache is {config.cache}, but a site's disk is its own; leave it out of a deployment")
    known, passed = read_tree(config.root)
    held = [name for name in config.sources or known if name in known]
    if len(held) != 1 and config.sources is None:
        raise FedhaError(
            f"{config.root} holds {len(known)} domains ({listed([*known, *passed])}); keep the client's own alone "
            "there, or set data.sources, whose order is that of the clients"
        )
    name = held[0] if len(held) == 1 else nth(config.sources or held, client_id)
    if name not in known:  # a name comes with the config, from a server: it leads nowhere but into this folder
        raise FedhaError(f"{config.root} holds no folder {name}, only {listed(known) or 'none'}; put it there")
    return _alone(config, config.root, name, cut)


def check_alone(config: DataConfig) -> None:
    """Refuse a config of a deployment that leaves open what only all domains together tell.

    Raises:
        FedhaError: Names the key.
    """
    for key, what in (
        ("size", "pixels a side"),
        ("channels", "1 for grey, 3 for colour"),
        ("class_names", "all class folders' names, in order"),
    ):
        if getattr(config, key) is None:
            raise FedhaError(f"data.{key} is not set; a site sees its own images alone, so the config must say: {what}")


def _read(config: DataConfig) -> tuple[dict[str, Folder], list[str], Sequence[str]]:
    """The domains of the root, what was passed over, and the classes; arguments and errors as in `load`."""
    if config.root is None:
        raise FedhaError(f"data.root is not set; name the folder of {LAYOUT}")
    found, passed = read_tree(config.root)
    told = f" ({'; '.join(passed)})" if passed else ""
    if not found:
        raise FedhaError(f"there is no domain in {shown(config.root)}{told}; the layout is {LAYOUT}")
    if len(found) == 1:
        raise FedhaError(
            f"{shown(config.root)} holds one domain, {next(iter(found))}{told}; a source and an unseen target are two, "
            f"each a folder of {LAYOUT}"
        )
    return found, passed, _classes(config, found)


def _classes(config: DataConfig, found: dict[str, Folder]) -> Sequence[str]:
    if config.class_names is not None:
        return config.class_names
    classes = sorted({name for one in found.values() for name in one.classes})
    used = {name.partition("/")[0] for one in found.values() for name in one.files}
    if empty := [name for name in classes if name not in used]:
        raise FedhaError(
            f"the class folder {empty[0]!r} holds no image in any domain of {shown(config.root or '')}; remove it, or "
            "list the classes in data.class_names"
        )
    if len(classes) < 2:
        raise FedhaError(f"all images of {shown(config.root or '')} are of one class, {classes[0]!r}; two are needed")
    return classes


def square_of(config: DataConfig, sources: Sequence[Folder]) -> tuple[Square, str]:
    """What every image becomes, and what of it nobody asked for.

    Args:
        config: Its size and channels.
        sources: Whose first usable images decide on the channels, where the config does not; never the target.
    """
    told = [] if config.size else ["data.size by default"]
    channels = config.channels
    if channels is None:
        channels = max((_first_channels(one, config) for one in sources), default=3)
        told.append("as are the sources' first images" if channels == 1 else "as is one of the sources' first images")
    return Square(config.size or USUAL_SIZE, channels), f" ({', '.join(told)})" if told else ""


def _first_channels(folder: Folder, config: DataConfig) -> int:
    for name in folder.files:
        try:
            return channels_of(folder.path / name)
        except BrokenImageError as error:
            if config.on_broken == "error":
                raise FedhaError(
                    f"cannot use the image {shown(folder.path / name)}: {error}; mend or remove it, or set "
                    "data.on_broken: skip"
                ) from error
    return 1


def _alone(config: DataConfig, root: Path, name: str, cut: Cut | None) -> Domain:
    square, _ = square_of(config, [])
    return domain_of(read_domain(root, name), config.class_names or [], square, config, cut)


def domain_of(folder: Folder, classes: Sequence[str], square: Square, config: DataConfig, cut: Cut | None) -> Domain:
    """One folder as a domain.

    Args:
        folder: As it was read.
        classes: In the order of their labels.
        square: What every image becomes.
        config: Its on_broken and cache.
        cut: Which images are held out; None: all of them, as of a target.

    Raises:
        FedhaError: A class folder is none of the classes, no image is left, or one is broken.
    """
    _check_classes(folder, classes)
    places = {name: place for place, name in enumerate(classes)}
    labels = torch.tensor([places[name.partition("/")[0]] for name in folder.files], dtype=torch.int64)
    files = ImageFiles(folder.path, folder.files, square)
    inputs, broken = _inputs(files, config)
    whole, notes = Examples(inputs, labels), list(folder.notes)
    if broken:
        whole = whole.select(torch.tensor([row for row in range(len(files)) if row not in broken], dtype=torch.int64))
        named = listed((f"{shown(files.names[row])} ({why})" for row, why in sorted(broken.items())), _FEW, "; ")
        notes.append(f"{len(broken):,} of {len(files):,} images of {folder.name} are broken and left out: {named}")
    if not len(whole):
        raise FedhaError(f"{shown(folder.path)} holds no image that can be used; {'; '.join(notes) or 'fill it'}")
    if cut is None:
        return _with(unseen(folder.name, whole), notes)
    return _with(split(folder.name, whole, cut), notes)


def _with(domain: Domain, notes: Sequence[str]) -> Domain:
    return Domain(domain.name, domain.train, domain.held_out, notes=tuple(notes))


def _check_classes(folder: Folder, classes: Sequence[str]) -> None:
    check_names(
        {f"{name!r} (data.class_names)": name for name in classes}
        | {f"{name!r} ({folder.name})": name for name in folder.classes}
    )
    if strange := [name for name in folder.classes if name not in classes]:
        raise FedhaError(
            f"{shown(folder.path / strange[0])} is none of the classes {listed(classes)}; rename or remove the folder, "
            "or name it in data.class_names"
        )


def _inputs(files: ImageFiles, config: DataConfig) -> tuple[Any, Broken]:
    """Where the bytes come from, and which images are broken."""
    skip = config.on_broken == "skip"
    if config.cache is not None:
        return cached(config.cache, files, skip=skip)
    broken: Broken = {}
    if skip and len(files):  # which rows there are must be known before they are divided
        for _ in blocks(files, broken):
            pass
    return files, broken
