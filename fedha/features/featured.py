"""Examples with features in their inputs' place, for the part of a network that is trained."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fedha.config import FeaturesConfig
from fedha.data.examples import Examples
from fedha.features.keys import row_keys, trunk_key
from fedha.features.source import Features, changes, of_features
from fedha.features.store import Store, stored
from fedha.features.trunk import Divided

IN_MEMORY_BYTES = 2**30  # of one part: beyond, features are read from the disk, or computed whenever they are taken


@dataclass(frozen=True)
class Keeping:
    """Where features are kept, and how.

    Attributes:
        cache: A folder; None: in memory alone.
        precision: float32, or float16: then they are rounded to it, kept or not.
        private: Whether the cache is for its owner alone, and of these data alone.
    """

    cache: Path | None = None
    precision: str = "float32"
    private: bool = False

    @classmethod
    def of(cls, config: FeaturesConfig) -> "Keeping":
        """As a config says."""
        return cls(config.cache, config.precision)


def unready(examples: Examples, parts: Divided) -> Examples:
    """Examples with features for inputs, of which nothing is computed before it is taken."""
    return of_features(examples, Features(parts.trunk, replace(examples, unusable=None), parts.width))


def featured(examples: Examples, parts: Divided, keeping: Keeping, title: str, *, whole: bool) -> Examples:
    """Examples with features for inputs.

    Args:
        examples: Placed for the network.
        parts: The network's.
        keeping: Where features are kept.
        title: Whose they are, for whoever waits.
        whole: Whether all of them are needed now: they are then tensors in memory, where these are not too large. It is
            for the config to say, not for the cache, so that what follows is the same with and without it.
    """
    usable = replace(examples, unusable=None)
    fits = len(examples) * parts.width * next(parts.trunk.parameters()).element_size() <= IN_MEMORY_BYTES
    source = Features(parts.trunk, usable, parts.width, keeping.precision == "float16", remembers=fits)
    if keeping.cache is not None and len(examples):
        about = trunk_key(parts.trunk, usable, keeping.precision)
        store = Store(keeping.cache, about, parts.width, keeping.precision, keeping.private)
        source = replace(source, known=stored(store, row_keys(usable), source.fresh, title))
    if whole and fits and not changes(examples.inputs):
        made = source.take(torch.arange(len(examples)))
        return of_features(examples, made.to(examples.labels.device))
    return of_features(examples, source)
