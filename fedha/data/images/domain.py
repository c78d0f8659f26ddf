"""Images of a folder, or of a manifest, as a domain."""

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedha.config import DataConfig
from fedha.data.domain import Domain, Examples, split, unseen
from fedha.data.images.augment import augmentation
from fedha.data.images.cache import cached
from fedha.data.images.classes import labels_of
from fedha.data.images.decode import BrokenImageError, Square, channels_of
from fedha.data.images.files import Broken, ImageFiles, blocks, broken_image
from fedha.data.images.source import Images
from fedha.data.images.tree import Folder, shown
from fedha.data.numbered import GROUP, numbered
from fedha.data.sides import Cut
from fedha.errors import FedhaError, listed
from fedha.progress import Progress

USUAL_SIZE = 32
_FEW = 3  # files that are named


def square_of(config: DataConfig, sources: Sequence[Folder]) -> tuple[Square, str]:
    """What every image becomes, and what of it nobody asked for.

    Args:
        config: Its size, channels, interpolation and decode.
        sources: Whose first usable images decide on the channels, where the config does not; never the target.
    """
    told = [] if config.size else ["data.size by default"]
    channels = config.channels
    if channels is None:
        channels = max((_first_channels(one, config) for one in sources), default=3)
        told.append("as are the sources' first images" if channels == 1 else "as is one of the sources' first images")
    square = Square(config.size or USUAL_SIZE, channels, config.interpolation or "bilinear", config.decode == "scaled")
    return square, f" ({', '.join(told)})" if told else ""


def _first_channels(folder: Folder, config: DataConfig) -> int:
    for name in folder.files:
        try:
            return channels_of(folder.path / name)
        except BrokenImageError as error:
            if config.on_broken == "error":
                raise broken_image(folder.path / name, str(error)) from error
    return 1


def domain_of(folder: Folder, classes: Sequence[str], square: Square, config: DataConfig, cut: Cut | None) -> Domain:
    """One folder as a domain.

    Args:
        folder: As it was read.
        classes: In the order of their labels.
        square: What every image becomes.
        config: Its on_broken, cache, augment, workers and held_out.
        cut: Which images are held out, where no manifest says so; None: all of them, as of a target.

    Raises:
        FedhaError: A class folder is none of the classes, no image is left, or one is broken.
    """
    labels = labels_of(folder, classes, numbers=config.manifest is not None)
    files = ImageFiles(folder.path, folder.files, square, config.workers)
    inputs, broken = _inputs(files, config, trained=cut is not None)
    notes = list(folder.notes)
    metadata = {} if folder.groups is None else {GROUP: numpy.array(folder.groups)}
    whole = Examples(inputs, labels, _groups(folder, cut, notes), {**metadata, **_column(folder, config)}).counted()
    held_out = None if folder.held_out is None or cut is None else torch.tensor(folder.held_out, dtype=torch.bool)
    if broken:
        left = torch.tensor([row for row in range(len(files)) if row not in broken], dtype=torch.int64)
        whole, held_out = whole.select(left), None if held_out is None else held_out[left]
        named = listed((f"{shown(files.names[row])} ({why})" for row, why in sorted(broken.items())), _FEW, "; ")
        notes.append(f"{len(broken):,} of {len(files):,} images of {folder.name} are broken and left out: {named}")
    if not len(whole):
        raise FedhaError(f"{shown(folder.path)} holds no image that can be used; {'; '.join(notes) or 'fill it'}")
    made = unseen(folder.name, whole) if cut is None else _divided(folder.name, whole, cut, held_out, config, notes)
    return Domain(made.name, made.train, made.held_out, notes=tuple(notes))


def _divided(
    name: str, whole: Examples, cut: Cut, held_out: Tensor | None, config: DataConfig, notes: list[str]
) -> Domain:
    """A source in its two parts: as a manifest says, else as the cut draws."""
    if held_out is None:
        return split(name, whole, cut)
    if config.held_out != DataConfig.model_fields["held_out"].default:
        raise FedhaError(
            f"data.held_out is {config.held_out:g}, but the column split of {shown(config.manifest or '')} says which "
            "images are held out; leave out one of them"
        )
    if bool(held_out.all()):
        raise FedhaError(f"the column split leaves domain {name} no image to train on; mark some of them train")
    if whole.groups is not None and (shared := _shared(whole.groups, held_out)):
        notes.append(f"{shared:,} groups of {name} are both trained on and held out, as the column split says")
    return Domain(name, whole.select(~held_out), whole.select(held_out))


def _shared(groups: Tensor, held_out: Tensor) -> int:
    return len(set(groups[held_out].tolist()) & set(groups[~held_out].tolist()))


def _column(folder: Folder, config: DataConfig) -> dict[str, NDArray[Any]]:
    """The column that clients are made by, where a manifest has it."""
    name = config.partition_column
    known = folder.columns.get(name.casefold()) if name is not None else None
    return {} if known is None or name is None else {name: numpy.array(known)}


def _groups(folder: Folder, cut: Cut | None, notes: list[str]) -> Tensor | None:
    if folder.groups is None:
        return None
    if cut is not None and folder.held_out is None and not cut.heeds_groups:
        notes.append("data.split is random, so the groups are not kept together")
        return None
    return numbered(numpy.array(folder.groups))


def _inputs(files: ImageFiles, config: DataConfig, *, trained: bool) -> tuple[Images, Broken]:
    """Where the bytes come from, and which images are broken."""
    change = augmentation(config.augment, files.square) if trained else None
    skip = config.on_broken == "skip"
    if config.cache is not None:
        kept, broken = cached(config.cache, files, skip=skip)
        return Images(files, kept, change), broken
    broken = {}
    if skip and len(files):  # which rows there are must be known before they are divided
        progress = Progress(f"looking for broken images in {files.folder.name}", len(files), "images")
        for block in blocks(files, broken):
            progress.add(len(block))
        progress.end()
    return Images(files, None, change), broken
