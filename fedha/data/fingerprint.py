"""Whether data are those that they were: a digest that a checkpoint keeps."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fedha.data.domain import DomainSet
from fedha.handed import digest_of

_ROWS = 4096  # of a part whose inputs are looked at, spread over it; labels are all


def fingerprint(domains: DomainSet) -> str:
    """A digest of what is trained on and held out: names, sizes, order, labels, and inputs of many rows."""
    return digest_of(_parts(domains))


def _parts(domains: DomainSet) -> Iterator[tuple[str, Tensor]]:
    for domain in domains.sources:
        for side, part in (("train", domain.train), ("held_out", domain.held_out)):
            step = max(1, -(-len(part) // _ROWS))
            yield f"{domain.name}/{side}/labels", part.labels
            for name, inputs in part.numbers(torch.arange(0, len(part), step)).items():
                yield f"{domain.name}/{side}/inputs{name and '/'}{name}", inputs
