"""Every attribute that a recipe may align: how far two domains differ in it, beside chance, and in which part.

Chance: between random halves of one domain, each of n/2 examples, a mean differs with four times the variance that it
has itself. So the difference of two domains' means, were they alike, has the variance of the halves' of both together,
over four; for the mean of E domains each counts with the square of 1/E.

Parts: with shares pi_c of the classes and a mean s_c in each, ``s_b - s_a`` is exactly ``sum (pi_b - pi_a)_c (s_a +
s_b)_c / 2`` (label part) and ``sum (pi_a + pi_b)_c / 2 (s_b - s_a)_c`` (conditional part).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha.diagnosis import weighted
from fedha.diagnosis.lanczos import extremes, start_vectors
from fedha.diagnosis.sample import Sample, free_dimensions
from fedha.diagnosis.weighted import Directions, Sums
from fedha.randomness import generator

SPLITS = 20
_BUDGET = 2**23  # numbers of halves' statistics that are held at once

Levels = dict[tuple[str, str], tuple[float, float] | None]  # by domain and row
Size = Callable[[Tensor, Tensor], Tensor]  # statistics of two sides, [S, k] each, to how far they differ, [S]


@dataclass(frozen=True)
class Attribute:
    """A row of the table.

    Attributes:
        title: What is compared.
        aligned_by: Recipes that align it.
        sums: Its statistic.
        size: How far two values of it are apart.
        linear: Whether the size is one of the difference alone, so that it has a label part and a conditional one.
        shrinks: Whether chance makes it as a mean's error does, less with more examples; else its chance is not told.
    """

    title: str
    aligned_by: str
    sums: Sums
    size: Size
    linear: bool = True
    shrinks: bool = True


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a domain, or the plain mean of several.

    Attributes:
        name: What tables call it.
        samples: One or more.
    """

    name: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Difference:
    """How far two sides are apart in one attribute.

    Attributes:
        attribute: The row's title.
        first: One side.
        second: The other.
        value: The size of the difference.
        chance: Its mean where nothing differs; None where that is not known.
        chance_95: What it stays below in 95 of 100 cases where nothing differs.
        label_part: The size of the part that shares of the classes explain.
        conditional_part: The size of the rest.
        aligned_by: Recipes that align it.
    """

    attribute: str
    first: str
    second: str
    value: float
    chance: float | None
    chance_95: float | None
    label_part: float | None
    conditional_part: float | None
    aligned_by: str


def rows(samples: Sequence[Sample], directions: Directions) -> list[Attribute]:
    """The table's rows for some domains.

    Args:
        samples: The sources: features are measured in units of their spread.
        directions: Shared by all domains.
    """
    spread = feature_spread(samples)
    probes, axes, width = len(directions.probes), len(directions.axes), samples[0].features.shape[1] - 1
    matrix = 1 if directions.exact else axes**0.5
    length = _length
    hessians = weighted.products(directions.probes)

    def off_diagonal(first: Tensor, second: Tensor) -> Tensor:
        """Along signs the squared length of a matrix is the mean of its products'."""
        size = samples[0].head.numel()
        change = (second - first).view(len(first), probes + 1, size)
        whole = (change[:, :-1] ** 2).sum((1, 2)) / probes
        return (whole - (change[:, -1] ** 2).sum(1)).clamp_min(0).sqrt()

    def with_diagonal(sample: Sample, weights: Tensor) -> Tensor:
        return torch.cat([hessians(sample, weights), weighted.diagonals(sample, weights)], 1)

    def covariance(first: Tensor, second: Tensor) -> Tensor:
        ours, theirs = (_covariances(one, directions.axes, width) for one in (first, second))
        return _length(ours, theirs) / matrix / (2 * width)

    return [
        Attribute(
            "label shares, total variation", "none", weighted.labels, lambda a, b: (b - a).abs().sum(1) / 2, False
        ),
        Attribute("label shares, Hellinger", "none", weighted.labels, _hellinger, False),
        Attribute("risk", "vrex, groupdro", weighted.risks, length),
        Attribute("accuracy", "none", weighted.hits, length),
        Attribute("feature mean, in spreads", "coral", weighted.feature_means, lambda a, b: length(a, b) / spread),
        Attribute("feature covariance, CORAL's scale", "coral", weighted.moments(directions.axes), covariance, False),
        Attribute(
            "class means, in spreads", "none", weighted.class_means, _class_means(samples[0].classes, spread), False
        ),
        Attribute("error", "iga, hgp, hutchinson, cma", weighted.errors, lambda a, b: (b - a).abs().sum(1) / 2),
        Attribute("largest probability", "none", weighted.confidences, lambda a, b: (b - a).abs()[:, 0]),
        Attribute(
            "sum of squared probabilities", "cma, hutchinson", weighted.confidences, lambda a, b: (b - a).abs()[:, 1]
        ),
        Attribute("entropy of predictions", "none", weighted.confidences, lambda a, b: (b - a).abs()[:, 2]),
        Attribute("error × feature (gradient)", "iga, fish, fediir, hgp, hutchinson, cma", weighted.gradients, length),
        Attribute("gradient, one minus the cosine", "fish", weighted.gradients, _turn, False, False),
        Attribute("Hessian, diagonal", "hutchinson, exact_diagonal, cma", weighted.diagonals, length),
        Attribute("Hessian, off the diagonal", "cma, hutchinson_shared", with_diagonal, off_diagonal),
        Attribute("Hessian along the gradient", "hgp, cma", weighted.products(directions.along[None]), length),
    ]


def compare(
    first: Side, second: Side, row: Attribute, seed: int, splits: int = SPLITS, known: Levels | None = None
) -> Difference:
    """How far two sides are apart in one attribute, beside chance, and in which part.

    Args:
        first: One side.
        second: The other.
        row: The attribute.
        seed: Of the random halves.
        splits: Of each domain into halves.
        known: Halves' levels that were computed before, by domain and row; added to.
    """
    known = {} if known is None else known
    for one in (*first.samples, *second.samples):
        if (one.name, row.title) not in known:
            known[one.name, row.title] = halves(one, row, seed, splits) if row.shrinks else None
    ours, theirs = _whole(first, row.sums), _whole(second, row.sums)
    value = float(row.size(ours, theirs)[0])
    chance, chance_95 = by_chance(
        first, second, {one: level for (one, title), level in known.items() if title == row.title}
    )
    parts = parted(first, second, row.sums) if row.linear else None
    zero = torch.zeros_like(ours)
    label, rest = (None, None) if parts is None else (float(row.size(zero, one[None])[0]) for one in parts)
    return Difference(row.title, first.name, second.name, value, chance, chance_95, label, rest, row.aligned_by)


def by_chance(
    first: Side, second: Side, levels: Mapping[str, tuple[float, float] | None]
) -> tuple[float | None, float | None]:
    """Root mean square and 95 % of a difference between alike sides, from the levels of every domain's halves."""
    found = [(levels[one.name], 1 / len(side.samples)) for side in (first, second) for one in side.samples]
    sound = [(level, share) for level, share in found if level is not None]
    if len(sound) < len(found):
        return None, None
    middle, high = (float(math.hypot(*(share * level[place] for level, share in sound))) / 2 for place in (0, 1))
    return middle, high


def parted(first: Side, second: Side, sums: Sums) -> tuple[Tensor, Tensor]:
    """Label part and conditional part of a difference, [k] each; their sum is the difference, to rounding.

    A class that one side lacks has the other's statistic there: all of it is label part.
    """
    label = conditional = torch.zeros(())
    for place in range(first.samples[0].classes):
        ours, theirs = (_in_class(side, sums, place) for side in (first, second))
        if ours is None and theirs is None:
            continue
        share_a, mean_a = ours if ours is not None else (0.0, theirs[1])  # type: ignore[index]
        share_b, mean_b = theirs if theirs is not None else (0.0, mean_a)
        label = label + (share_b - share_a) * (mean_a + mean_b) / 2
        conditional = conditional + (share_a + share_b) / 2 * (mean_b - mean_a)
    return label, conditional


def halves(sample: Sample, row: Attribute, seed: int, splits: int = SPLITS) -> tuple[float, float] | None:
    """Root mean square and 95 % of an attribute's size between random halves of one domain; None of one example."""
    total = len(sample)
    if total < 2:
        return None
    members = split_members(sample, seed, splits)
    whole = row.sums(sample, members.new_full((1, total), 1 / total))
    step = max(1, _BUDGET // max(whole.shape[1], total))
    sizes = []
    for some in members.split(step):
        counts = some.sum(1, keepdim=True)
        one = row.sums(sample, some / counts)
        other = (total * whole - counts * one) / (total - counts)
        sizes.append(row.size(one, other))
    found = torch.cat(sizes)
    return float((found**2).mean().sqrt()), float(torch.quantile(found, 0.95))


def split_members(sample: Sample, seed: int, splits: int) -> Tensor:
    """Random halves of one domain, [splits, n], 1 for the first half; groups stay together where there are some."""
    drawn = generator(seed, "diagnosis", "halves", sample.name)
    groups = torch.arange(len(sample)) if sample.groups is None else sample.groups
    places = torch.unique(groups, return_inverse=True)[1]
    count = int(places.max()) + 1
    chosen = torch.zeros(splits, count, dtype=torch.float64)
    for row in chosen:
        row[torch.randperm(count, generator=drawn)[: max(1, count // 2)]] = 1.0
    return chosen[:, places]


def spectral_halves(sample: Sample, seed: int, splits: int = SPLITS) -> tuple[float, float] | None:
    """As `halves`, of the spectral norm of the Hessians' difference; all splits side by side."""
    if len(sample) < 2:
        return None
    members = split_members(sample, seed, splits)
    counts = members.sum(1, keepdim=True)
    weights = members / counts - (1 - members) / (len(sample) - counts)
    shape = tuple(sample.head.shape)
    starts = start_vectors(splits, shape, seed, "halves")
    found = extremes(
        lambda along: sample.directions(along, weights),
        starts,
        free_dimensions(shape),
        steps=20,
        tolerance=0.02,
        width=10,
    )
    norms = torch.tensor([one.norm for one in found], dtype=torch.float64)
    return float((norms**2).mean().sqrt()), float(torch.quantile(norms, 0.95))


def spectral_parts(first: Side, second: Side, seed: int) -> tuple[float, float]:
    """Spectral norms of the label part and the conditional part of the Hessians' difference, as in `parted`.

    Both are sums over the examples of both sides, with weights of either sign.
    """
    every, shape = (*first.samples, *second.samples), tuple(first.samples[0].head.shape)
    weights = part_weights(first, second)
    found = extremes(
        lambda along: torch.stack([one.directions(along, own) for one, own in zip(every, weights, strict=True)]).sum(0),
        start_vectors(2, shape, seed, "parts"),
        free_dimensions(shape),
    )
    return found[0].norm, found[1].norm


def part_weights(first: Side, second: Side) -> list[Tensor]:
    """What each example counts in both parts of a difference, [2, n] of each domain, the first side's first."""
    sides = [(at, one) for at, side in enumerate((first, second)) for one in side.samples]
    even = [1 / len(one) / len((first, second)[at].samples) for at, one in sides]
    shares = torch.zeros(2, first.samples[0].classes, dtype=torch.float64)
    for (at, one), mass in zip(sides, even, strict=True):
        shares[at] += mass * torch.bincount(one.labels, minlength=shares.shape[1])
    both = (shares > 0).all(0)
    change = (shares[1] - shares[0]) / (1.0 + both)  # where a side lacks a class, the other's mean stands for it
    kept = shares.mean(0) * both
    found = []
    for (at, one), mass in zip(sides, even, strict=True):
        of_class = torch.stack([change, kept * (2 * at - 1)]) / shares[at].clamp_min(1e-300)
        found.append(mass * of_class[:, one.labels])
    return found


def own(sample: Sample) -> dict[str, float]:
    """What one domain is like at the learned head.

    Returns:
        Calibration in the large, largest probability, sum of squares and entropy of the predictions, length of the
        gradient, and how far Fishr's proxy, the variance of the examples' gradients, is from the diagonal of the
        Hessian, beside it.
    """
    confidence, squares, entropy = mean_of(sample, weighted.confidences).tolist()
    gradient, diagonal = mean_of(sample, weighted.gradients), mean_of(sample, weighted.diagonals)
    apart = mean_of(sample, weighted.gradient_squares) - gradient**2 - diagonal
    gap = apart.norm() / diagonal.norm().clamp_min(1e-300)
    return {
        "calibration": float(mean_of(sample, weighted.errors).abs().sum()) / 2,
        "confidence": confidence,
        "sum_of_squares": squares,
        "entropy": entropy,
        "gradient": float(gradient.norm()),
        "fisher_gap": float(gap),
    }


def mean_of(sample: Sample, sums: Sums) -> Tensor:
    """A statistic's mean over a domain's examples, [k]."""
    return sums(sample, sample.features.new_full((1, len(sample)), 1 / len(sample)))[0]


def _whole(side: Side, sums: Sums) -> Tensor:
    return torch.stack([mean_of(one, sums) for one in side.samples]).mean(0)[None]


def _in_class(side: Side, sums: Sums, place: int) -> tuple[float, Tensor] | None:
    """The share of a class on a side, and the statistic in it; None where it has none."""
    share, total = 0.0, torch.zeros(())
    for one in side.samples:
        members = (one.labels == place).to(one.features.dtype)[None] / (len(one) * len(side.samples))
        if bool(members.any()):
            share += float(members.sum())
            total = total + sums(one, members)[0]
    return (share, total / share) if share else None


def _length(first: Tensor, second: Tensor) -> Tensor:
    length: Tensor = (second - first).norm(dim=1)
    return length


def _turn(first: Tensor, second: Tensor) -> Tensor:
    lengths = first.norm(dim=1) * second.norm(dim=1)
    turn: Tensor = 1 - (first * second).sum(1) / lengths.clamp_min(1e-300)
    return turn


def _hellinger(first: Tensor, second: Tensor) -> Tensor:
    apart: Tensor = ((first.clamp_min(0).sqrt() - second.clamp_min(0).sqrt()) ** 2).sum(1)
    return (apart / 2).sqrt()


def _covariances(moments: Tensor, axes: Tensor, width: int) -> Tensor:
    means, seconds = moments[:, :width], moments[:, width:].view(len(moments), len(axes), width)
    return (seconds - (means @ axes.T)[:, :, None] * means[:, None, :]).flatten(1)


def _class_means(classes: int, spread: float) -> Size:
    def size(first: Tensor, second: Tensor) -> Tensor:
        ours, theirs = (one.view(len(one), classes, -1) for one in (first, second))
        both = (ours[:, :, 0] > 0) & (theirs[:, :, 0] > 0)
        apart: Tensor = (theirs[:, :, 1:] / theirs[:, :, :1] - ours[:, :, 1:] / ours[:, :, :1]).norm(dim=2)
        return torch.where(both, apart, 0.0).sum(1) / both.sum(1).clamp_min(1) / spread

    return size


def feature_spread(samples: Sequence[Sample]) -> float:
    """Root mean square distance of features from their domain's mean, over the sources."""
    means = [one.features[:, :-1].mean(0) for one in samples]
    squares = [
        sum(float(((one.features[rows, :-1] - mean) ** 2).sum()) for rows in one.rows(1)) / len(one)
        for one, mean in zip(samples, means, strict=True)
    ]
    return max(math.sqrt(sum(squares) / len(squares)), 1e-300)
