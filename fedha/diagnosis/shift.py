"""Which kinds of shift lie between two domains: diversity, correlation, label, and the rest.

Definitions of Ye et al., "OoD-Bench: Quantifying and Understanding Two Dimensions of Out-of-Distribution
Generalization", CVPR 2022, for densities p, q of a space z, S where only one of them is and T the rest:
diversity ``1/2 int_S |p - q|``, correlation ``1/2 int_T sqrt(p q) sum_y |p(y|z) - q(y|z)|``, and of its later form
``1/2 int_T sqrt(p q) sum_y (sqrt p(y|z) - sqrt q(y|z))^2``. Label shift is taken out by weights and told on its own.

Densities are never estimated. A discriminator's eta = p / (p + q) is enough, and it only chooses: what is counted are
held-out examples. For a sign s(z, y), ``E_p[s sqrt(q/p)] - E_q[s sqrt(p/q)]`` is at most the integral with absolute
values, and for any h > 0 ``(E_p[h] + E_q[1/h]) / 2`` is at least ``int sqrt(p q)``, with equality at h = sqrt(q/p): a
discriminator that is a little wrong is wrong in second order, and to the safe side.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

from fedha.data.domain import DomainSet
from fedha.diagnosis.attributes import split_members
from fedha.diagnosis.discriminator import Sides, cross_fitted
from fedha.diagnosis.sample import Sample
from fedha.diagnosis.shapes import Seen, joined, seen_in
from fedha.inputs import nested

THRESHOLDS = (0.1, 0.05, 0.02)
CALM = 0.01  # what diversity and correlation of two random halves of one domain may be
FITTED = 2000  # examples of a class of a domain that discriminators are fitted on
WIDEST = 4096  # numbers of an input that is looked at as it is
LEAST = 8  # examples of a class in a domain, without which it is left out
_NARROW = 1e-3
_EVEN = {"auc": 0.5}  # what nothing is worth where it is not zero
_MOVED = 0.05  # of label shares: what is less is taken for none, where nothing but noise would choose the sign


@dataclass(frozen=True)
class Kinds:
    """How much of each kind of shift.

    Attributes:
        diversity: Of what only one side has.
        correlation: Of labels at what both have.
        correlation_plus: The same with square roots.
        rest: ``1/2 int_T (sqrt p - sqrt q)^2``: other shares of what both have.
        hellinger: Squared distance of the joint of space and label.
        total_variation: Of the space.
        auc: How often an example of the second is told from one of the first.
    """

    diversity: float
    correlation: float
    correlation_plus: float
    rest: float
    hellinger: float
    total_variation: float
    auc: float


@dataclass(frozen=True)
class Shift:
    """The shift between two domains in one space.

    Attributes:
        first: One domain.
        second: The other.
        space: What the discriminators saw.
        label: Total variation of the shares of the classes.
        kinds: What was found.
        chance: The same between random halves of one domain, of both, brought to the sizes of the two; None where one
            has too few examples.
        threshold: eta below which, or above one minus which, only one side is taken to be there.
        classes: That both have, and that were compared.
    """

    first: str
    second: str
    space: str
    label: float
    kinds: Kinds
    chance: Kinds | None
    threshold: float
    classes: int

    def row(self) -> dict[str, object]:
        """As plain values."""
        chance = None if self.chance is None else asdict(self.chance)
        told = {"first": self.first, "second": self.second, "space": self.space, "label": self.label}
        return {**told, **asdict(self.kinds), "chance": chance, "threshold": self.threshold, "classes": self.classes}


@dataclass(frozen=True)
class Placed:
    """A domain's examples in some space.

    Attributes:
        name: The domain.
        points: [n, d].
        labels: Class indices, [n].
        form: Of an image that a point is, [channels, height, width]; (): it is none.
    """

    name: str
    points: Tensor
    labels: Tensor
    form: tuple[int, ...] = ()


def estimate(first: Placed, second: Placed, classes: int, space: str, seed: int = 0) -> Shift | None:
    """The kinds of shift between two domains.

    Args:
        first: One domain.
        second: The other.
        classes: Of the labels.
        space: What tables call the space.
        seed: Of halves and waves.

    Returns:
        None where no class has enough examples on both sides.
    """
    seen = _seen(first, second, seed)
    both = _sides([first, second], classes, seen)
    if both is None:
        return None
    known = cross_fitted(both, seed, FITTED)
    nulls = [_null(one, classes, seed, own) for one, own in zip((first, second), seen, strict=True)]
    threshold = THRESHOLDS[-1]
    for one in reversed(THRESHOLDS):
        level = _by_chance(nulls, one)
        if level is None or max(level.diversity, level.correlation) <= CALM:
            threshold = one
    shares = [torch.bincount(one.labels, minlength=classes) / len(one.labels) for one in (first, second)]
    label = float((shares[1] - shares[0]).abs().sum()) / 2
    found = kinds(both, known, threshold)
    return Shift(first.name, second.name, space, label, found, _by_chance(nulls, threshold), threshold, both.classes)


def kinds(both: Sides, known: Tensor, threshold: float) -> Kinds:
    """The kinds of shift from held-out probabilities of every pair, [n, 2 C].

    Args:
        both: The two domains.
        known: Rows add up to 1; the first C columns are the first domain's.
        threshold: As in `Shift`.
    """
    count = both.classes
    masses = 2 * both.masses(torch.arange(len(both.pairs)))  # each side's add up to 1
    ours, theirs = masses * (both.sides == 0), masses * (both.sides == 1)
    eta = known[:, :count].sum(1).clamp(_NARROW, 1 - _NARROW)
    alone = (eta < threshold) | (eta > 1 - threshold)
    sign = torch.where(eta > 0.5, 1.0, -1.0).double()
    roots = ((1 - eta) / eta).sqrt()
    own = both.labels[:, None]
    parted = known.view(-1, 2, count).clamp_min(_NARROW**2)
    pair = parted[:, 0].gather(1, own)[:, 0] / parted.sum(1).gather(1, own)[:, 0]
    pair = pair.clamp(_NARROW, 1 - _NARROW)
    pair_roots = ((1 - pair) / pair).sqrt()
    given = parted / parted.sum(2, keepdim=True)
    apart = given[:, 0] - given[:, 1]
    leaning = torch.where(apart > 0, 1.0, -1.0).gather(1, own)[:, 0] * (apart.abs().sum(1) > _MOVED)
    kept = ~alone

    def total(values: Tensor) -> float:
        return float(values.sum())

    affinity, both_there = (ours * roots + theirs / roots) / 2, (ours * pair_roots + theirs / pair_roots) / 2
    present = total((ours + theirs) * kept) / 2
    return Kinds(
        max(0.0, total((ours - theirs) * sign * alone) / 2),
        max(0.0, total((ours * roots - theirs / roots) * leaning * kept) / 2),
        max(0.0, total(affinity * kept) - total(both_there * kept)),
        max(0.0, present - total(affinity * kept)),
        min(1.0, max(0.0, 1 - total(both_there))),
        max(0.0, total((ours - theirs) * sign) / 2),
        _auc(eta, ours, theirs),
    )


def _seen(first: Placed, second: Placed, seed: int) -> list[Seen | None]:
    """What a network that knows shapes sees in both domains' images; labels and domains have no say in it."""
    count = len(first.points)
    whole = torch.cat([first.points, second.points])
    found = seen_in(whole.view(-1, *first.form), seed) if first.form == second.form and len(first.form) == 3 else None
    places = torch.arange(len(whole))
    return [None, None] if found is None else [found.at(places[:count]), found.at(places[count:])]


def _sides(domains: Sequence[Placed], classes: int, seen: Sequence[Seen | None]) -> Sides | None:
    """Two sides, with the classes that have enough examples on both."""
    counts = torch.stack([torch.bincount(one.labels, minlength=classes) for one in domains])
    kept = torch.nonzero((counts >= LEAST).all(0))[:, 0]
    if len(kept) == 0:
        return None
    place = torch.full((classes,), -1)
    place[kept] = torch.arange(len(kept))
    labels = place[torch.cat([one.labels for one in domains])]
    sides = torch.cat([torch.full_like(one.labels, side) for side, one in enumerate(domains)])
    held = labels >= 0
    space = torch.cat([one.points for one in domains])[held]
    shown = [one for one in seen if one is not None]
    return Sides(space, sides[held], labels[held], len(kept), joined(shown).at(held) if shown else None)


def _null(one: Placed, classes: int, seed: int, seen: Seen | None) -> tuple[Sides, Tensor] | None:
    """Random halves of a domain, and what discriminators take them for."""
    sample = Sample(one.name, one.points.new_ones(len(one.labels), 1), one.labels, one.points.new_ones(1, 1), classes)
    chosen = split_members(sample, seed, 1)[0] > 0
    halves = [Placed(one.name, one.points[half], one.labels[half]) for half in (chosen, ~chosen)]
    both = _sides(halves, classes, [None if seen is None else seen.at(half) for half in (chosen, ~chosen)])
    return None if both is None else (both, cross_fitted(both, seed, FITTED))


def _by_chance(nulls: Sequence[tuple[Sides, Tensor] | None], threshold: float) -> Kinds | None:
    """What two domains of these sizes give where nothing differs, from the halves of both, as in `attributes`."""
    known = [kinds(*one, threshold) for one in nulls if one is not None]
    if len(known) < len(nulls):
        return None
    levels = {
        one.name: math.hypot(*(getattr(null, one.name) - _EVEN.get(one.name, 0.0) for null in known)) / 2
        + _EVEN.get(one.name, 0.0)
        for one in fields(Kinds)
    }
    return Kinds(**levels)


def _auc(eta: Tensor, ours: Tensor, theirs: Tensor) -> float:
    """How often an example of the first side has the larger eta; ties count half."""
    order = torch.argsort(eta)
    values, ours, theirs = eta[order], ours[order], theirs[order]
    _, groups = torch.unique_consecutive(values, return_inverse=True)
    count = int(groups.max()) + 1
    mine = torch.zeros(count, dtype=ours.dtype).index_add_(0, groups, ours)
    other = torch.zeros(count, dtype=ours.dtype).index_add_(0, groups, theirs)
    below = other.cumsum(0) - other / 2
    return float((mine * below).sum())


def given_inputs(domains: DomainSet) -> Callable[[Sample], Placed] | None:
    """A sample's inputs as points, [n, d], by the domain's name; None where they are no single array, or too wide."""
    parts = {one.name: one.train for one in domains.sources} | {one.name: one.held_out for one in domains.targets}
    form = next(iter(parts.values())).form
    if nested(form.input_shape) or not 0 < math.prod(form.input_shape) <= WIDEST:
        return None

    def placed(sample: Sample) -> Placed:
        points = parts[sample.name].take()
        return Placed(sample.name, points.flatten(1).double().cpu(), sample.labels, tuple(points.shape[1:]))

    return placed


def together(name: str, parts: Sequence[Placed]) -> Placed:
    """Several domains as one, examples counted alike."""
    points, labels = torch.cat([one.points for one in parts]), torch.cat([one.labels for one in parts])
    return Placed(name, points, labels, parts[0].form)
