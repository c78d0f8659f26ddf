"""What a data set holds, and what of it is wrong: counts, duplicates by content, images that cannot be decoded."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fedha.data.domain import Domain, DomainSet, Examples
from fedha.data.examples import Chosen
from fedha.data.partition import Share
from fedha.inputs import several

PARTS = ("train", "held_out")


@dataclass(frozen=True)
class Counts:
    """One domain.

    Attributes:
        name: Its.
        role: source, target, or id_test: what of a source is for tests alone.
        parts: Examples of each class, of each part that has any.
        notes: What was left out on the way to it, a sentence each.
        sizes: Of its image files, from the smallest to the largest; "" where it has none.
    """

    name: str
    role: str
    parts: dict[str, list[int]]
    notes: tuple[str, ...]
    sizes: str = ""

    @property
    def examples(self) -> int:
        """In all."""
        return sum(map(sum, self.parts.values()))


@dataclass(frozen=True)
class Shared:
    """Contents that stand in two parts.

    Attributes:
        first: One part, as a domain and a side.
        second: The other; the same one where a content stands there twice.
        contents: How many different ones.
        other_label: How many of them have different labels.
    """

    first: str
    second: str
    contents: int
    other_label: int

    @property
    def is_leak(self) -> bool:
        """Whether what is trained on is also evaluated on, or two domains share it."""
        return self.first != self.second

    def __str__(self) -> str:
        labels = f", {self.other_label} of them with different labels" if self.other_label else ""
        if self.is_leak:
            return f"{self.contents} different contents of {self.first} are also in {self.second}{labels}"
        return f"{self.contents} different contents stand more than once in {self.first}{labels}"


@dataclass(frozen=True)
class Holding:
    """What one client trains on.

    Attributes:
        name: The client's.
        held: Examples of each class, by the source domain that they are of; of those alone that it has any of.
        held_out: How many it evaluates.
    """

    name: str
    held: dict[str, list[int]]
    held_out: int

    @property
    def examples(self) -> int:
        """That it trains on, in all."""
        return sum(map(sum, self.held.values()))


@dataclass(frozen=True)
class Examined:
    """What was found.

    Attributes:
        description: The data set's.
        classes: C.
        shape: Of one input.
        domains: Sources, then targets.
        shared: Contents that stand twice.
        notes: Of the whole set.
        problems: What should be mended, a sentence each.
        clients: What each client of a simulation holds, in client order.
    """

    description: str
    classes: int
    shape: Any
    domains: tuple[Counts, ...]
    shared: tuple[Shared, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...] = field(default=())
    clients: tuple[Holding, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "description": self.description,
            "classes": self.classes,
            "shape": self.shape if isinstance(self.shape, dict) else list(self.shape),
            "domains": [
                {"name": one.name, "role": one.role, "examples": one.examples, "classes": one.parts}
                | ({"notes": list(one.notes)} if one.notes else {})
                | ({"sizes": one.sizes} if one.sizes else {})
                for one in self.domains
            ],
            "duplicates": [
                {"first": one.first, "second": one.second, "contents": one.contents, "other_label": one.other_label}
                for one in self.shared
            ],
            "clients": [
                {"name": one.name, "examples": one.examples, "held_out": one.held_out, "domains": one.held}
                for one in self.clients
            ],
            "notes": list(self.notes),
            "problems": list(self.problems),
        }


def examine(domains: DomainSet, clients: Sequence[Share] = ()) -> Examined:
    """Look at every example of a data set once.

    Args:
        domains: A loaded one.
        clients: What each client holds of its sources.

    Raises:
        FedhaError: An input cannot be read.
    """
    named = [*((one, "source") for one in domains.sources), *((one, "target") for one in domains.targets)]
    named += [(replace(one, name=f"{one.name}, id_test"), "id_test") for one in domains.id_tests]
    counts = tuple(_counted(one, role, domains.classes) for one, role in named)
    shared = tuple(_shared([one for one, _ in named]))
    problems = [*(str(one) for one in shared if one.is_leak or one.other_label), *_lacking(counts)]
    problems += [note for one in counts for note in one.notes if " broken and left out" in note]
    holdings = tuple(_holding(one, domains) for one in clients)
    notes = (*domains.notes, *(f"client {one.client_name}: {note}" for one in clients for note in one.notes))
    return Examined(
        domains.description, domains.classes, domains.input_shape, counts, shared, notes, tuple(problems), holdings
    )


def _holding(share: Share, domains: DomainSet) -> Holding:
    held = {}
    for place, rows in sorted(share.train.items()):
        one = domains.sources[place]
        if len(rows):
            held[one.name] = torch.bincount(one.train.labels[rows], minlength=domains.classes).tolist()
    return Holding(share.client_name, held, sum(map(len, share.held_out.values())))


def _counted(domain: Domain, role: str, classes: int) -> Counts:
    parts = {name: getattr(domain, name) for name in PARTS}
    found = {name: torch.bincount(part.labels, minlength=classes).tolist() for name, part in parts.items() if len(part)}
    return Counts(domain.name, role, found, domain.notes, _sizes(domain))


def _sizes(domain: Domain) -> str:
    """Width and height of the smallest and the largest image file, by their headers."""
    from PIL import Image

    from fedha.data.images.files import ImageFiles

    found = []
    for kept in (one for name in PARTS for one in several(getattr(domain, name).inputs).values()):
        source, rows = (kept.source, kept.rows.tolist()) if isinstance(kept, Chosen) else (kept, range(len(kept)))
        files = getattr(source, "files", None)
        if not isinstance(files, ImageFiles):
            return ""
        for row in rows:
            with suppress(OSError), Image.open(files.path(row)) as image:  # a broken one is told of elsewhere
                found.append(image.size)
    if not found:
        return ""
    low, high = (pick(found, key=lambda one: one[0] * one[1]) for pick in (min, max))
    return f"{low[0]} × {low[1]}" + (f" to {high[0]} × {high[1]}" if low != high else "") + " pixels"


def _lacking(counts: Sequence[Counts]) -> Iterator[str]:
    """Classes that no source trains on, though a target has them."""
    sources = [one.parts["train"] for one in counts if one.role == "source"]
    trained = [sum(column) for column in zip(*sources, strict=True)]
    for one in counts:
        wanted = one.parts.get("held_out", []) if one.role == "target" else []
        gone = [label for label, count in enumerate(wanted) if count and not trained[label]]
        if gone:
            yield f"target {one.name} has examples of class {', '.join(map(str, gone))}, which no source trains on"


def _shared(domains: Sequence[Domain]) -> Iterator[Shared]:
    parts = {f"{one.name} ({name})": getattr(one, name) for one in domains for name in PARTS}
    held = {name: _labels_by_content(part) for name, part in parts.items() if len(part)}
    names = list(held)
    for place, name in enumerate(names):
        twice = [labels for labels in held[name].values() if len(labels) > 1]
        if twice:
            yield Shared(name, name, len(twice), sum(len(set(labels)) > 1 for labels in twice))
        for other in names[place + 1 :]:
            both = held[name].keys() & held[other].keys()
            if both:
                differing = sum(set(held[name][one]) != set(held[other][one]) for one in both)
                yield Shared(name, other, len(both), differing)


def _labels_by_content(part: Examples) -> dict[bytes, list[int]]:
    """The labels of each content, by its digest."""
    found: dict[bytes, list[int]] = {}
    for block in part.blocks():
        columns = [one.contiguous().flatten(1) for one in several(part.kept(block)).values()]
        for row, label in zip(zip(*columns, strict=True), part.labels[block].tolist(), strict=True):
            content = b"".join(one.numpy().tobytes() for one in row)
            found.setdefault(hashlib.blake2b(content, digest_size=16).digest(), []).append(label)
    return found
