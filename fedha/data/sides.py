"""On which side of a domain an example is: trained on, or held out."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fedha.config import DataConfig
from fedha.randomness import generator

Split = Literal["stratified", "random"]


@dataclass(frozen=True)
class Cut:
    """How domains are cut in two.

    Attributes:
        fraction: Held out, 0 to 1.
        split: In proportion, by label and by group, or by chance alone; a site's key is not asked.
        seed: The run's seed; it decides which examples.
        protected: Whether an example's side must depend on that example and a key alone, so that it tells of no other.
        key: The key of a site; None in simulations, where it comes from the seed.
        keys: In a simulation that repeats a deployment, the keys of its sites, by domain.
    """

    fraction: float
    split: Split = "stratified"
    seed: int = 0
    protected: bool = False
    key: bytes | None = None
    keys: Mapping[str, bytes] = field(default_factory=dict)

    def sides(
        self, domain: str, inputs: Iterable[Tensor], labels: Tensor, groups: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Places of the examples that are trained on, and of those that are held out.

        Args:
            domain: Its name; part of what decides.
            inputs: One after the other, [n, ...]; looked at only where an example's content decides.
            labels: [n].
            groups: Which group an example is in, [n], such as its patient; None for none.

        Returns:
            Disjoint, together 0 to n - 1. By chance and in proportion ``round(share * n)`` are held out, but never the
            last one, and groups are as near to that as whole groups come; by the key it is each example's own chance.
        """
        if self.protected and (self.split == "stratified" or self._own(domain) is not None):
            contents = _contents(inputs, labels) if groups is None else _named(groups)
            return by_key(contents, self.fraction, self._key(domain))
        order = torch.randperm(len(labels), generator=generator(self.seed, "data", "held out", domain))
        if self.split == "stratified" and groups is not None:
            held_out = by_group(labels, groups, self.fraction, order)
        elif self.split == "stratified":
            held_out = by_label(labels, self.fraction, order)
        else:
            held_out = torch.zeros(len(order), dtype=torch.bool)
            held_out[order[: held_out_count(len(order), self.fraction)]] = True
        return order[~held_out[order]], order[held_out[order]]

    @property
    def heeds_groups(self) -> bool:
        """Whether groups stay together; by chance alone they do not."""
        return self.split == "stratified" or self.key is not None or bool(self.keys)

    def _own(self, domain: str) -> bytes | None:
        return self.keys.get(domain, self.key)

    def _key(self, domain: str) -> bytes:
        if (key := self._own(domain)) is not None:
            return hashlib.blake2b(domain.encode(), key=key, digest_size=32).digest()
        return hashlib.blake2b(repr((self.seed, "data", "held out", domain)).encode(), digest_size=32).digest()


def cut_of(
    config: DataConfig,
    seed: int,
    *,
    protected: bool = False,
    key: bytes | None = None,
    keys: Mapping[str, bytes] | None = None,
) -> Cut:
    """The config's cut; arguments as in `Cut`."""
    return Cut(config.held_out, config.split, seed, protected, key, keys or {})


def held_out_count(examples: int, fraction: float) -> int:
    """How many are held out: the share, rounded, but never the last one."""
    return max(0, min(round(fraction * examples), examples - 1))


def by_key(contents: Iterable[bytes], fraction: float, key: bytes) -> tuple[Tensor, Tensor]:
    """Each example's own chance, from its content and a key: what the others are changes nothing.

    Args:
        contents: Of each example; those that are alike come on one side.
        fraction: The chance to be held out.
        key: At most 64 bytes.

    Returns:
        Places of those trained on and of those held out, ascending.
    """
    digests = (hashlib.blake2b(one, key=key, digest_size=8).digest() for one in contents)
    limit = int(fraction * 2**64)
    held_out = torch.tensor([int.from_bytes(one, "big") < limit for one in digests], dtype=torch.bool)
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]


def by_label(labels: Tensor, fraction: float, order: Tensor) -> Tensor:
    """Hold out each label in proportion, and of every label that two examples have at least one on each side.

    Args:
        labels: [n].
        fraction: Held out.
        order: A permutation of the places, [n]; the first of each label are held out.

    Returns:
        Whether an example is held out, [n].
    """
    _, classes, counts = labels.unique(return_inverse=True, return_counts=True)
    quotas = _quotas(counts.double(), held_out_count(len(labels), fraction), fraction)
    mixed = classes[order]
    sorted_places = mixed.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    ranks = torch.empty_like(order)
    ranks[sorted_places] = torch.arange(len(order)) - starts[mixed[sorted_places]]
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[order] = ranks < quotas[mixed]
    return held_out


def by_group(labels: Tensor, groups: Tensor, fraction: float, order: Tensor) -> Tensor:
    """Hold out whole groups, so that each label comes as near to its share as they allow.

    The largest groups are placed first; each is held out where that brings the held-out counts nearer to the share of
    every label, by squared distance over the label's count.

    Args:
        labels: [n].
        groups: Which group an example is in, [n].
        fraction: Held out.
        order: A permutation of the places, [n]; decides between groups of one size.

    Returns:
        Whether an example is held out, [n]. With two groups or more, and a share of at least half an example, neither
        side is empty, and a label that two groups have is on both where the other labels allow it.
    """
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    if held_out_count(len(labels), fraction) == 0:
        return held_out
    _, classes, totals = labels.unique(return_inverse=True, return_counts=True)
    members = members_of(groups, order)
    wanted, weights = fraction * totals.double(), 1 / totals.double()
    held = torch.zeros_like(wanted)
    taken = torch.zeros(len(members), dtype=torch.bool)
    whose = torch.empty_like(order)
    for place, one in enumerate(members):
        whose[one] = place
        more = torch.bincount(classes[one], minlength=len(totals)).double()
        if bool((weights * more * (2 * (held - wanted) + more)).sum() < 0):
            held += more
            taken[place] = True
    _mend(taken, whose, classes, len(totals))
    return taken[whose]


def _mend(taken: Tensor, whose: Tensor, classes: Tensor, count: int) -> None:
    """Bring a label to a side that lacks it, by its smallest group, where another one stays; no side is empty."""
    for label in range(count):
        owners = whose[classes == label].unique()
        sides = taken[owners]
        if len(owners) > 1 and (bool(sides.all()) or not bool(sides.any())):
            taken[owners[-1]] = not bool(sides[0])
    if len(taken) > 1 and not bool(taken.any()):
        taken[-1] = True
    if bool(taken.all()):
        taken[-1] = False


def members_of(groups: Tensor, order: Tensor) -> list[Tensor]:
    """The places of each group's examples: the largest group first, those of one size as the order has them."""
    _, codes, sizes = groups[order].unique(return_inverse=True, return_counts=True)
    members = order[codes.argsort(stable=True)].split(sizes.tolist())
    first = torch.full((len(sizes),), len(order)).scatter_reduce(0, codes, torch.arange(len(order)), "amin")
    ranked = sorted(range(len(members)), key=lambda one: (-len(members[one]), int(first[one])))
    return [members[one] for one in ranked]


def _quotas(counts: Tensor, held_out: int, fraction: float) -> Tensor:
    """How many of each label are held out: as near to the share as whole numbers with this sum come."""
    least = ((counts >= 2) & (held_out > 0)).double()
    most = torch.where(counts >= 2, counts - 1, torch.zeros_like(counts))
    quotas = (fraction * counts).floor().clamp(min=least).clamp(max=most)
    while (missing := held_out - int(quotas.sum())) != 0:
        step = 1.0 if missing > 0 else -1.0
        movable = (quotas < most if missing > 0 else quotas > least).nonzero()[:, 0]
        if not len(movable):
            least, most = torch.zeros_like(counts), counts
            continue
        gains = step * (fraction * counts - quotas)[movable]
        quotas[movable[gains.argsort(descending=True, stable=True)[: abs(missing)]]] += step
    return quotas.long()


def _contents(inputs: Iterable[Tensor], labels: Tensor) -> Iterator[bytes]:
    for one, label in zip(inputs, labels.tolist(), strict=True):
        yield one.contiguous().numpy().tobytes() + _bytes(label)


def _named(groups: Tensor) -> Iterator[bytes]:
    return map(_bytes, groups.tolist())


def _bytes(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)
