"""Domains that somebody's program or function made, as one federation's data."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fedha.data.checked import checked_domain
from fedha.data.domain import Domain, DomainSet, unseen
from fedha.data.examples import Chosen, Examples, joined
from fedha.data.labels import count_classes
from fedha.data.taking import within
from fedha.errors import FedhaError
from fedha.inputs import Form, several
from fedha.objects import Pieces, digest_of

_LOOKED_AT = 2**28  # bytes of a part whose rows are compared with others'


def domain_set(domains: Sequence[object], targets: Sequence[str], classes: int | None, description: str) -> DomainSet:
    """Domains as somebody has them: arrays become tensors, and each target's parts are evaluated together.

    Args:
        domains: Should be `Domain`s with names of their own.
        targets: Names of the unseen ones among them; the first is the one that tables speak of.
        classes: C; None: one more than the highest label.
        description: How the description begins.

    Raises:
        FedhaError: One is no domain, or there is none of a target's name.
    """
    given = [
        checked_domain(one, client_id, trained=getattr(one, "name", None) not in targets)
        for client_id, one in enumerate(domains)
    ]
    names = [one.name for one in given]
    for name in targets:
        if name not in names:
            raise FedhaError(f"target names {name!r}, which is no domain; the domains are {', '.join(names)}")
    sources = tuple(one for one in given if one.name not in targets)
    unseen_ones = tuple(whole(given[names.index(name)]) for name in targets)
    labels = {one.name: torch.cat([one.train.labels, one.held_out.labels]) for one in (*sources, *unseen_ones)}
    sizes = ", ".join(f"{one.name} {len(one.train)}" for one in sources)
    description = f"{description}: {sizes} examples" + (f", unseen {', '.join(targets)}" if targets else "")
    notes = (*_divided([*sources, *unseen_ones]), *_twice([*sources, *unseen_ones]))
    return DomainSet(sources, unseen_ones, classes or count_classes(labels), description, notes)


def digest(domains: DomainSet) -> str:
    """A digest of every number of the domains, by which they are known again."""
    return digest_of(_parts(domains))


def whole(domain: Domain) -> Domain:
    """A domain as an unseen one: its two parts are evaluated together."""
    parts = [one for one in (domain.train, domain.held_out) if len(one)] or [domain.held_out]
    return replace(unseen(domain.name, joined(parts)), notes=domain.notes)


def _divided(domains: Sequence[Domain]) -> list[str]:
    """What is done to pixels, a sentence a type and shape."""
    told = {}
    for one in domains:
        for name, inputs in several(one.held_out.inputs).items():
            if (divisor := one.held_out.divisor_of(inputs)) != 1:
                what = f"inputs {name!r}" if name else "inputs"
                kind = str(inputs.dtype).removeprefix("torch.")
                told[f"{what} {kind} {[*inputs.shape[1:]]}: divided by {divisor:g}"] = True
    return list(told)


def _twice(domains: Sequence[Domain]) -> list[str]:
    """Rows that stand in two parts, a sentence a pair; reported, for it may be meant."""
    rows, large = dict[str, set[bytes]](), list[str]()
    for one in domains:
        for title, part in (("train", one.train), ("held-out", one.held_out)):
            if _is_costly(part):
                continue
            name = f"{one.name!r} ({title})"
            if len(part) * Form.like(part.inputs).bytes > _LOOKED_AT:
                large.append(name)
                continue
            with within(one.name, title):
                rows[name] = _rows(part)
    notes, names = [], list(rows)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            if shared := len(rows[name] & rows[other]):
                notes.append(f"{shared} rows of {name} are also in {other}")
    if large:
        notes.append(f"{', '.join(large)}: too large to look for rows that are also in another part")
    return notes


def _is_costly(examples: Examples) -> bool:
    """Whether some inputs are made one by one, such as images that are decoded: `fedha data check` looks at them."""
    kept = (one.source if isinstance(one, Chosen) else one for one in several(examples.inputs).values())
    return any(getattr(one, "costly", False) for one in kept)


def _rows(examples: Examples) -> set[bytes]:
    """A digest of each example's inputs."""
    found: set[bytes] = set()
    for block in examples.blocks():
        parts = [one.contiguous().flatten(1).view(torch.uint8).numpy() for one in examples.kept(block).values()]
        for row in zip(*parts, strict=True):
            content = b"".join(one.tobytes() for one in row)
            found.add(hashlib.blake2b(content, digest_size=16).digest())
    return found


def _parts(domains: DomainSet) -> Iterator[tuple[str, Tensor | Pieces]]:
    for one in (*domains.sources, *domains.targets):
        for title, part in (("train", one.train), ("held_out", one.held_out)):
            yield f"{one.name}/{title}/labels", part.labels
            for name, inputs in several(part.inputs).items():
                pieces = map(partial(_kept, part, name), part.blocks())
                yield (
                    f"{one.name}/{title}/inputs{name and '/'}{name}",
                    Pieces(tuple(inputs.shape), inputs.dtype, pieces),
                )


def _kept(part: Examples, name: str, rows: slice) -> Tensor:
    return part.kept(rows)[name]
