"""Examples with features in their inputs' place, for the part of a network that is trained."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fedha.config import FeaturesConfig
from fedha.data.examples import Examples
from fedha.errors import FedhaError
from fedha.features.keys import row_keys, trunk_key
from fedha.features.source import Features, changes, of_features
from fedha.features.store import Store, stored
from fedha.features.trunk import Divided, divided
from fedha.models.split import SplitModel
from fedha.placement import placed

IN_MEMORY_BYTES = 2**30  # of one part: beyond, features are read from the disk, or computed whenever they are taken


@dataclass(frozen=True)
class Keeping:
    """Where features are kept, and how.

    Attributes:
        cache: A folder; None: in memory alone.
        precision: float32, or float16: then they are rounded to it, kept or not.
        views: Of each example that is trained on, where chance changes it; 0: it is computed afresh each time.
        private: Whether the cache is for its owner alone, and of these data alone.
        quiet: Whether features beyond its precision become infinite, of which the owner is warned, and are no error: it
            would tell a server of them.
    """

    cache: Path | None = None
    precision: str = "float32"
    private: bool = False
    views: int = 0
    quiet: bool = False

    @classmethod
    def of(cls, config: FeaturesConfig) -> "Keeping":
        """As a config says."""
        return cls(config.cache, config.precision, views=config.views)


def unready(examples: Examples, parts: Divided) -> Examples:
    """Examples with features for inputs, of which nothing is computed before it is taken."""
    return of_features(examples, Features(parts.trunk, replace(examples, unusable=None), parts.width))


def featured(
    examples: Examples, parts: Divided, keeping: Keeping, title: str, *, whole: bool, trained: bool = False
) -> Examples:
    """Examples with features for inputs.

    Args:
        examples: Placed for the network.
        parts: The network's.
        keeping: Where features are kept.
        title: Whose they are, for whoever waits.
        whole: Whether all of them are needed now: they are then tensors in memory, where these are not too large. It is
            for the config to say, not for the cache, so that what follows is the same with and without it.
        trained: Whether they are trained on, so that chance changes them.

    Raises:
        FedhaError: Views are wanted of what nothing changes; or see `fedha.features.store.stored`.
    """
    source = source_of(examples, parts, keeping, title, trained=trained)
    if keeping.cache is not None and len(examples):
        keys = row_keys(source.examples, source.views)
        source = replace(source, known=stored(store_of(source, keeping), keys, source.fresh, title))
    if whole and source.remembers and not changes(examples.inputs):
        made = source.take(torch.arange(len(examples)))
        return of_features(examples, made.to(examples.labels.device))
    return of_features(examples, source)


def behind_trunk(model: SplitModel, examples: Examples, keeping: Keeping, title: str) -> tuple[SplitModel, Examples]:
    """A network and examples to evaluate it on, placed for it; of one with a frozen trunk what is behind, and features.

    Args:
        model: With its constants.
        examples: As they are kept.
        keeping: Where features are kept.
        title: Whose they are, for whoever waits.
    """
    there = placed(examples, model)
    parts = divided(model, there.form)
    if parts is None:
        return model, there
    return parts.rest, featured(there, parts, keeping, title, whole=True)


def source_of(examples: Examples, parts: Divided, keeping: Keeping, title: str, *, trained: bool) -> Features:
    """Features of which nothing is known yet; arguments as in `featured`.

    Raises:
        FedhaError: Views are wanted of what nothing changes.
    """
    usable, views = replace(examples, unusable=None), keeping.views if trained and len(examples) else 0
    if views and not changes(examples.inputs):
        raise FedhaError(
            f"model.features.views is {views}, but nothing changes the inputs of {title}, so that they have one view; "
            "set data.augment, or leave it out"
        )
    size = len(examples) * (1 + views) * parts.width * next(parts.trunk.parameters()).element_size()
    half, fits = keeping.precision == "float16", size <= IN_MEMORY_BYTES
    return Features(parts.trunk, usable, parts.width, half, views, remembers=fits, quiet=keeping.quiet)


def store_of(source: Features, keeping: Keeping) -> Store:
    """Where features are kept.

    Raises:
        FedhaError: No folder is named.
    """
    if keeping.cache is None:
        raise FedhaError("model.features.cache is not set; name a folder for the features")
    about = trunk_key(source.trunk, source.examples, keeping.precision)
    return Store(keeping.cache, about, source.width, keeping.precision, keeping.private)
