"""A data set of image folders: ``root/domain/class/image``."""

from collections.abc import Sequence
from pathlib import Path

from fedha.config import DataConfig
from fedha.data.domain import Domain, DomainSet, choose_sources, nth
from fedha.data.images.augment import NONE
from fedha.data.images.classes import classes_of
from fedha.data.images.domain import domain_of, square_of
from fedha.data.images.manifest import read_manifest
from fedha.data.images.tree import LAYOUT, Folder, read_domain, read_tree, shown
from fedha.data.sides import Cut
from fedha.errors import FedhaError, listed


def load(config: DataConfig, cut: Cut) -> DomainSet:
    """Domains from ``<root>/<domain>/<class>/<image>``, where an image may lie deeper, or from a manifest.

    Args:
        config: Its root or manifest, target (required), sources (default: all but the target), class_names (default:
            those of all domains, sorted), size, channels, augment, on_broken, workers and cache.
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
            f"images from {config.manifest or config.root}: {', '.join(counts[:-1])}, unseen target {counts[-1]}; "
            f"{len(classes)} classes; {square}{told}{_changed(config)}"
        ),
        notes=tuple(passed),
        class_names=tuple(classes),
    )


def domain_names(config: DataConfig) -> list[str]:
    """The domains of the config's root or manifest; errors as in `load`."""
    return list(_read(config)[0])


def _changed(config: DataConfig) -> str:
    name = config.augment if isinstance(config.augment, str) else config.augment["name"]
    return "" if name == NONE else f"; augmented by {name} where they are trained on"


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
    known, passed = domains_in(config, config.root, own=True)
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


def domains_in(config: DataConfig, root: Path | None, *, own: bool = False) -> tuple[dict[str, Folder], list[str]]:
    """The domains of a folder, or of a manifest, by name, and what was passed over, a sentence each.

    Args:
        config: Its manifest.
        root: The folder.
        own: Whether it is a site's, whose manifest is in its own folder.

    Raises:
        FedhaError: As in `read_tree` or `read_manifest`; or neither is named.
    """
    if (manifest := config.manifest) is None:
        if root is None:
            raise FedhaError(f"data.root is not set; name the folder of {LAYOUT}, or a data.manifest")
        return read_tree(root)
    if own and (manifest.is_absolute() or ".." in manifest.parts):
        raise FedhaError(f"data.manifest is {manifest}, but a site's list is in its own folder; give its name there")
    inside = None if root is None else root / manifest
    place = inside if inside is not None and (own or inside.is_file()) else manifest
    skip, column = config.on_broken == "skip", config.partition_column
    return read_manifest(place, root, missing=skip, column=column)


def _read(config: DataConfig) -> tuple[dict[str, Folder], list[str], Sequence[str]]:
    """The domains, what was passed over, and the classes; arguments and errors as in `load`."""
    found, passed = domains_in(config, config.root)
    where, told = shown(config.manifest or config.root or ""), f" ({'; '.join(passed)})" if passed else ""
    if not found:
        raise FedhaError(f"there is no domain in {where}{told}; the layout is {LAYOUT}")
    if len(found) == 1:
        ((name, only),) = found.items()
        deeper = config.manifest is None and any(len(Path(one).parts) > 2 for one in only.files)
        hint = f"; where {name} holds the domains, set data.root to {where}/{name}" if deeper else ""
        raise FedhaError(
            f"{where} holds one domain, {name}{told}; a source and an unseen target are two, each a folder of "
            f"{LAYOUT}{hint}"
        )
    return found, passed, classes_of(found, config.class_names, where, numbers=config.manifest is not None)


def _alone(config: DataConfig, root: Path, name: str, cut: Cut | None) -> Domain:
    square, _ = square_of(config, [])
    if config.manifest is None:
        folder = read_domain(root, name)
    else:
        known, _ = domains_in(config, root, own=cut is not None)
        if name not in known:
            raise FedhaError(f"{shown(config.manifest)} has no image of domain {name}, only of {listed(known)}")
        folder = known[name]
    return domain_of(folder, config.class_names or [], square, config, cut)
