"""Features of all that a config names, computed into its cache before anything is trained."""

from typing import NamedTuple

import torch

from fedha import numerics
from fedha.config import Config
from fedha.data.domain import DomainSet
from fedha.errors import FedhaError
from fedha.features.featured import Keeping, featured
from fedha.features.trunk import divided
from fedha.models import build
from fedha.placement import placed_domain


class Computed(NamedTuple):
    """What there is of one domain.

    Attributes:
        domain: Its name.
        examples: How many.
        width: Features of each.
    """

    domain: str
    examples: int
    width: int


def compute(config: Config, domains: DomainSet, device: str = "cpu") -> list[Computed]:
    """Compute what is missing in the cache of ``model.features.cache``.

    Args:
        config: Of one run.
        domains: Its data, targets included.
        device: Where to compute.

    Raises:
        FedhaError: No cache is named, the network has no frozen part that gives features, or the cache cannot be
            written.
    """
    if config.model.features.cache is None:
        raise FedhaError("model.features.cache is not set; name a folder for the features")
    numerics.configure(config.engine.threads)
    model = build(config.network, domains.input_shape, domains.classes, config.seed[0]).to(torch.device(device))
    told = []
    for domain in (*domains.sources, *domains.targets):
        whole = placed_domain(domain, model)
        form = (whole.train if len(whole.train) else whole.held_out).form
        parts = divided(model, form)
        if parts is None:
            raise FedhaError(
                f"model.features.cache is {config.model.features.cache}, but no part of network "
                f"{config.model.name!r} that gives features is frozen; set model.frozen: true, or leave it out"
            )
        for part, name in ((whole.train, "train"), (whole.held_out, "held_out")):
            if len(part):
                featured(part, parts, Keeping.of(config.model.features), f"{domain.name}, {name}", whole=False)
        told.append(Computed(domain.name, len(whole.train) + len(whole.held_out), parts.width))
    return told
