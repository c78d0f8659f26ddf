"""Features of all that a config names, computed into its cache before anything is trained; and what that costs."""

import shutil
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy
import torch

from fedha import numerics
from fedha.config import Config
from fedha.data.domain import DomainSet
from fedha.errors import FedhaError
from fedha.features.featured import Keeping, source_of, store_of
from fedha.features.keys import KEY_BYTES, Keys, row_keys
from fedha.features.source import Features
from fedha.features.store import Store, lacking, stored
from fedha.features.trunk import BLOCK, Divided, divided
from fedha.inputs import Form
from fedha.models import SplitModel, build
from fedha.placement import placed_domain


@dataclass(frozen=True)
class Part:
    """One part of one domain, whose features are kept.

    Attributes:
        domain: The domain's name.
        name: train or held_out.
        source: Computes them.
        store: Where they are kept.
    """

    domain: str
    name: str
    source: Features
    store: Store


class Computed(NamedTuple):
    """What there is of one domain.

    Attributes:
        domain: Its name.
        examples: How many.
        width: Features of each.
        views: Of each that is trained on, beside it as it is.
    """

    domain: str
    examples: int
    width: int
    views: int


class Cost(NamedTuple):
    """What it takes to make a cache whole.

    Attributes:
        wanted: Examples and views, each content once.
        missing: How many of them are still to be computed.
        bytes: That these take on the disk.
        free: Bytes that the disk has left.
        rate: How many are computed a second, decoding included; 0 where none is missing.
    """

    wanted: int
    missing: int
    bytes: int
    free: int
    rate: float


def parts_of(config: Config, domains: DomainSet, device: str = "cpu") -> list[Part]:
    """The parts of all domains of one run that have examples, with where their features are kept.

    Args:
        config: Of one run.
        domains: Its data, targets included.
        device: Where to compute.

    Raises:
        FedhaError: No cache is named, or the network has no frozen part that gives features.
    """
    keeping, found = Keeping.of(config.model.features), list[Part]()
    if keeping.cache is None:
        raise FedhaError("model.features.cache is not set; name a folder for the features")
    numerics.configure(config.engine.threads)
    model = build(config.network, domains.input_shape, domains.classes, config.seed[0]).to(torch.device(device))
    for domain in (*domains.sources, *domains.targets, *domains.id_tests):
        whole = placed_domain(domain, model)
        for part, name in ((whole.train, "train"), (whole.held_out, "held_out")):
            if not len(part):
                continue
            parts, title = frozen_part(config, model, part.form), f"{domain.name}, {name}"
            source = source_of(part, parts, keeping, title, trained=name == "train")
            found.append(Part(domain.name, name, source, store_of(source, keeping)))
    return found


def frozen_part(config: Config, model: SplitModel, form: Form) -> Divided:
    """A network in two: what gives the features that its config wants kept, and the rest.

    Raises:
        FedhaError: Nothing of it is frozen.
    """
    if (parts := divided(model, form)) is None:
        raise FedhaError(
            f"model.features.cache is {config.model.features.cache}, but no part of network {config.model.name!r} that "
            "gives features is frozen; set model.frozen: true, or model.features.cache: null"
        )
    return parts


def compute(parts: list[Part]) -> list[Computed]:
    """Compute what is missing of some parts.

    Raises:
        FedhaError: A cache cannot be written.
    """
    for one in parts:
        keys = row_keys(one.source.examples, one.source.views)
        stored(one.store, keys, one.source.fresh, f"{one.domain}, {one.name}")
    told = []
    for name in dict.fromkeys(one.domain for one in parts):
        sources = [one.source for one in parts if one.domain == name]
        told.append(Computed(name, sum(map(len, sources)), sources[0].width, max(one.views for one in sources)))
    return told


def cost(parts: list[Part]) -> Cost:
    """What is missing of some parts of one network; a block of it is computed to see how long the rest takes."""
    store, keys = parts[0].store, [row_keys(one.source.examples, one.source.views) for one in parts]
    joined = numpy.concatenate(keys)
    missing = len(lacking(store, joined))
    place = next(one for one in (store.folder.absolute(), *store.folder.absolute().parents) if one.is_dir())
    free, size = shutil.disk_usage(place).free, missing * (store.row_bytes + KEY_BYTES)
    return Cost(len(numpy.unique(joined)), missing, size, free, _rate(parts, keys))


def _rate(parts: list[Part], keys: list[Keys]) -> float:
    """Features a second of the first block that is missing, taken twice: the first time much is made ready."""
    for one, own in zip(parts, keys, strict=True):
        some = lacking(one.store, own)[:BLOCK]
        if len(some):
            one.source.fresh(some)
            begun = perf_counter()
            one.source.fresh(some)
            return len(some) / (perf_counter() - begun)
    return 0.0
