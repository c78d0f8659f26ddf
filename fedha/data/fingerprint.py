"""Whether data are those that they were: a digest that a checkpoint keeps."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fedha.data.domain import Domain, DomainSet, Examples
from fedha.data.examples import digest_of_rows
from fedha.inputs import several
from fedha.objects import Pieces, digest_of

_ROWS = 4096  # of a part whose inputs are looked at, spread over it; labels are all


def fingerprint(domains: DomainSet) -> str:
    """A digest of what is trained on and held out: names, sizes, order, labels, and inputs of many rows."""
    return domains.mark or digest_of(_parts(domains.sources))


def split_fingerprint(domain: Domain) -> str:
    """A digest of the examples of one domain, and of which are held out, whatever it is called."""
    return digest_of(_parts([replace(domain, name="")]))


def _parts(domains: Iterable[Domain]) -> Iterator[tuple[str, Tensor | Pieces]]:
    for domain in domains:
        for side, part in (("train", domain.train), ("held_out", domain.held_out)):
            yield f"{domain.name}/{side}/labels", part.labels
            step = max(1, -(-len(part) // _ROWS))
            told = {name: _digest(inputs, step) for name, inputs in several(part.inputs).items()}
            some = part.select(torch.arange(0, len(part), step)) if step > 1 else part
            for name, inputs in several(some.inputs).items():
                place, own = f"{domain.name}/{side}/inputs{name and '/'}{name}", told[name]
                if own is not None:
                    yield place, torch.frombuffer(bytearray(own), dtype=torch.uint8)
                    continue
                kind = inputs.dtype if inputs.dtype.is_floating_point else torch.float32
                pieces = map(partial(_numbers, some, name), some.blocks())
                yield place, Pieces(tuple(inputs.shape), kind, pieces)


def _digest(inputs: Any, step: int) -> bytes | None:
    """What a source says of itself; None of what is in memory, or is as cheaply taken."""
    return None if isinstance(inputs, Tensor) else digest_of_rows(inputs, torch.arange(len(inputs)), step)


def _numbers(part: Examples, name: str, rows: slice) -> Tensor:
    return part.numbers(rows)[name]
