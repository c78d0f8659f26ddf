"""The transfer measure from one domain to another around a learned head, beside its bound.

Definitions: Zhang, Zhao, Yu and Poupart, "Quantifying and Improving Transferability in Domain Generalization",
NeurIPS 2021. What an attack finds is a lower end of the measure, so tables say "measured, at least".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedha.diagnosis.attack import Climb, climb
from fedha.diagnosis.bound import Around, Bound, bounds
from fedha.diagnosis.curvature import Curvature, difference
from fedha.diagnosis.lanczos import start_vectors
from fedha.diagnosis.minima import Minimum, minima
from fedha.diagnosis.party import Answers, Party

Told = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much

RANDOM_STARTS = 2
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Transfer:
    """From a source to a target, over one ball.

    Attributes:
        source: Whose risk is subtracted.
        target: Whose risk is raised.
        radius: Of the ball, in weights of the head.
        measured: Lower end of the largest ``risk_T - risk_S`` in the ball.
        bound: Upper end of the same.
        parts: Of the bound.
        climb: Of the attack.
        excess: Lower end of the measure itself: risks above what the ball's best head for each has.
        excess_bound: Upper end of the same; None where neither is defined.
        least: What the two could have at best in the ball: of the source, of the target.
        accuracies: Of every domain, at the learned head and at the worst one.
        risks: Likewise.
        symmetric: Lower end of the larger of both directions, at least 0; None where one was measured.
        symmetric_bound: Upper end of the same.
    """

    source: str
    target: str
    radius: float
    measured: float
    bound: float
    parts: Bound
    climb: Climb
    excess: float | None
    excess_bound: float | None
    least: tuple[Minimum, Minimum] | None
    accuracies: dict[str, tuple[float, float]]
    risks: dict[str, tuple[float, float]]
    symmetric: float | None = None
    symmetric_bound: float | None = None


def both_ways(
    source: Party,
    target: Party,
    head: Tensor,
    radii: Sequence[float],
    everyone: Sequence[Party],
    *,
    known: Curvature | None = None,
    seed: int = 0,
    told: Told = lambda doing, done, total: None,
) -> list[Transfer]:
    """The measure in both directions: for each radius from the source to the target, then back.

    Args:
        source: S.
        target: T.
        head: The learned head, [C, D].
        radii: In ascending order, each positive.
        everyone: Whose accuracies are looked at at the worst heads.
        known: The curvature of the pair, target minus source, where it is known already.
        seed: Of random starts.
        told: Told of progress.
    """
    shape = (head.shape[0], head.shape[1])
    known = known or difference(source, target, shape, seed=seed)
    title = f"from {source.name} to {target.name}"
    told(f"own minima, {title}", 0, 1)
    least = (minima(source, head, radii), minima(target, head, radii))
    told(f"attack, {title}", 0, 1)
    there = one_way(source, target, head, radii, everyone, known, least, seed=seed)
    told(f"attack, from {target.name} to {source.name}", 0, 1)
    back = one_way(target, source, head, radii, everyone, turned(known), (least[1], least[0]), seed=seed)
    found = []
    for ahead, behind in zip(there, back, strict=True):
        measured, bound = max(ahead.measured, behind.measured, 0.0), max(ahead.bound, behind.bound, 0.0)
        found += [replace(one, symmetric=measured, symmetric_bound=bound) for one in (ahead, behind)]
    return [*found[::2], *found[1::2]]


def one_way(
    source: Party,
    target: Party,
    head: Tensor,
    radii: Sequence[float],
    everyone: Sequence[Party],
    known: Curvature,
    least: tuple[Sequence[Minimum], Sequence[Minimum]] | None,
    *,
    seed: int = 0,
) -> list[Transfer]:
    """As `both_ways`, in one direction; `least` are the minima of source and target."""
    shape = (head.shape[0], head.shape[1])
    ours, theirs = source.heads(head[None]), target.heads(head[None])
    slope = theirs.gradients - ours.gradients
    climbs = climb(source, target, head, radii, starts(slope, known, seed))
    around = Around(
        float(theirs.risks[0] - ours.risks[0]), float(slope.norm()), known.spectrum.high_end, known.spectrum.norm
    )
    upper = bounds(source, target, shape, around, radii, seed=seed)
    looked = look(everyone, head, climbs)
    found = []
    for place, (climbed, parts) in enumerate(zip(climbs, upper, strict=True)):
        lows = (least[0][place], least[1][place]) if least else None
        found.append(_told(source.name, target.name, climbed, parts, lows, looked, place))
    return found


def starts(slope: Tensor, known: Curvature, seed: int) -> Tensor:
    """Where attacks begin: the gradients' difference, both ends of the curvature either way, random directions."""
    ends = torch.stack([known.spectrum.top, known.spectrum.bottom])
    drawn = start_vectors(RANDOM_STARTS, tuple(slope.shape[1:]), seed, "starts")
    return torch.cat([slope, ends, -ends, drawn])


def look(everyone: Sequence[Party], head: Tensor, climbs: Sequence[Climb]) -> dict[str, Answers]:
    """What every domain says of the learned head, and of each climb's."""
    heads = torch.cat([head[None], *((head + one.head)[None] for one in climbs)])
    return {one.name: one.heads(heads) for one in everyone}


def turned(known: Curvature) -> Curvature:
    """The same pair, seen from its other end."""
    ends = known.spectrum
    swapped = replace(
        ends,
        high=-ends.low,
        low=-ends.high,
        high_end=-ends.low_end,
        low_end=-ends.high_end,
        top=ends.bottom,
        bottom=ends.top,
    )
    return replace(known, first=known.second, second=known.first, spectrum=swapped)


def check(measured: float, bound: float, what: str) -> None:
    """What is proven must hold.

    Raises:
        RuntimeError: It does not: an error of fedha's.
    """
    if not measured <= bound + _ROUNDING * max(1.0, abs(bound)):
        raise RuntimeError(
            f"{what}: measured {measured!r} is above the bound {bound!r}, which is an error in fedha; please report it"
        )


def _told(
    source: str,
    target: str,
    climbed: Climb,
    parts: Bound,
    lows: tuple[Minimum, Minimum] | None,
    looked: dict[str, Answers],
    place: int,
) -> Transfer:
    what = f"from {source} to {target}, radius {climbed.radius:.4g}"
    check(climbed.value, parts.total, what)
    excess = excess_bound = None
    if lows is not None:
        ours, theirs = lows
        excess = climbed.value - theirs.value + ours.value - ours.gap
        excess_bound = parts.total - theirs.value + theirs.gap + ours.value
        check(excess, excess_bound, f"excess {what}")
    row = place + 1
    return Transfer(
        source,
        target,
        climbed.radius,
        climbed.value,
        max(parts.total, climbed.value),
        parts,
        climbed,
        excess,
        excess_bound,
        lows,
        {name: (float(one.accuracies[0]), float(one.accuracies[row])) for name, one in looked.items()},
        {name: (float(one.risks[0]), float(one.risks[row])) for name, one in looked.items()},
    )


def worst_pair(
    everyone: Sequence[Party], head: Tensor, radii: Sequence[float], curvatures: Sequence[Curvature], *, seed: int = 0
) -> list[Transfer]:
    """The published form: the largest risk of all domains minus the smallest, whichever they are at a head.

    A step for the pair that is farthest apart cannot lower the largest difference. The bound is the largest of those of
    all ordered pairs; minima have no meaning here.

    Args:
        everyone: Two domains or more.
        head: The learned head, [C, D].
        radii: In ascending order.
        curvatures: Of all pairs, first before second in the order of `everyone`.
        seed: Of random starts.
    """
    shape = (head.shape[0], head.shape[1])
    lowest, highest = _extreme(everyone, highest=False), _extreme(everyone, highest=True)
    slope = highest.heads(head[None]).gradients - lowest.heads(head[None]).gradients
    begin = torch.cat([starts(slope, one, seed) for one in curvatures])
    climbs = climb(lowest, highest, head, radii, begin)
    by_name = {one.name: one for one in everyone}
    upper: list[list[Bound]] = []
    for one in (*curvatures, *map(turned, curvatures)):
        ours, theirs = by_name[one.first], by_name[one.second]
        here, there = ours.heads(head[None]), theirs.heads(head[None])
        around = Around(
            float(there.risks[0] - here.risks[0]),
            float((there.gradients - here.gradients).norm()),
            one.spectrum.high_end,
            one.spectrum.norm,
        )
        upper.append(bounds(ours, theirs, shape, around, radii, seed=seed))
    looked, found = look(everyone, head, climbs), []
    for place, climbed in enumerate(climbs):
        parts = max((one[place] for one in upper), key=lambda one: one.total)
        found.append(_told("the best domain", "the worst domain", climbed, parts, None, looked, place))
    return found


def _extreme(everyone: Sequence[Party], *, highest: bool) -> Party:
    """At each head the domain with the highest, or the lowest, risk."""
    sizes = [one.sizes for one in everyone]

    def heads(at: Tensor) -> Answers:
        found = [one.heads(at) for one in everyone]
        risks = torch.stack([one.risks for one in found])
        chosen = (risks.argmax(0) if highest else risks.argmin(0)).tolist()
        pick = list(enumerate(chosen))
        return Answers(
            torch.stack([found[who].risks[row] for row, who in pick]),
            torch.stack([found[who].gradients[row] for row, who in pick]),
            torch.stack([found[who].accuracies[row] for row, who in pick]),
        )

    def directions(along: Tensor) -> Tensor:
        raise RuntimeError("which domain is meant depends on the head; ask the domains themselves")

    top = max(sizes, key=lambda one: one.top_moment)
    return Party("the worst domain" if highest else "the best domain", heads, directions, top)
