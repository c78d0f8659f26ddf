"""The transfer measure from one domain to another around a learned head, beside its bound.

Definitions: Zhang, Zhao, Yu and Poupart, "Quantifying and Improving Transferability in Domain Generalization",
NeurIPS 2021. What an attack finds is a lower end of the measure, so tables say "measured, at least".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedha.diagnosis.attack import Climb, climbing
from fedha.diagnosis.bound import Around, Bound, bounds
from fedha.diagnosis.curvature import Curvature, difference
from fedha.diagnosis.hessians import Hessians
from fedha.diagnosis.lanczos import start_vectors
from fedha.diagnosis.minima import Minimum, minimising
from fedha.diagnosis.party import Answers, Asking, Party, asked, beside, done

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
    hessians: Hessians | None = None,
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
        hessians: What is known of the domains' Hessians; None: they are asked.
        seed: Of random starts.
        told: Told of progress.
    """
    shape = (head.shape[0], head.shape[1])
    known = known or difference(source, target, shape, seed=seed, hessians=hessians)
    return done(measuring(source, target, head, radii, everyone, known, hessians, seed=seed, told=told))


def measuring(
    source: Party,
    target: Party,
    head: Tensor,
    radii: Sequence[float],
    everyone: Sequence[Party],
    known: Curvature,
    hessians: Hessians | None,
    *,
    seed: int,
    told: Told,
) -> Asking[list[Transfer]]:
    """As `both_ways`, asking: minima and attacks of both directions side by side."""
    told(f"own minima and attacks, from {source.name} to {target.name} and back", 0, 1)
    shape = (head.shape[0], head.shape[1])
    ours, theirs = yield [(source, "heads", head[None]), (target, "heads", head[None])]
    slope, gap = theirs.gradients - ours.gradients, float(theirs.risks[0] - ours.risks[0])
    back = turned(known)
    works: tuple[Asking[Any], ...] = (
        minimising(source, head, radii),
        minimising(target, head, radii),
        climbing(source, target, head, radii, starts(slope, known, seed)),
        climbing(target, source, head, radii, starts(-slope, back, seed)),
    )
    low_source, low_target, there_climbs, back_climbs = yield from beside(*works)
    heads = torch.cat([head[None], *((head + one.head)[None] for one in (*there_climbs, *back_climbs))])
    looked = dict(zip([one.name for one in everyone], (yield [(one, "heads", heads) for one in everyone]), strict=True))
    ways = []
    for a, b, lows, climbs, curved, sign, first in (
        (source, target, (low_source, low_target), there_climbs, known, 1, 1),
        (target, source, (low_target, low_source), back_climbs, back, -1, 1 + len(radii)),
    ):
        around = Around(sign * gap, float(slope.norm()), curved.spectrum.high_end, curved.spectrum.norm)
        upper = bounds(a, b, shape, around, radii, seed=seed, hessians=hessians)
        ways.append(
            [
                _told(a.name, b.name, climbed, parts, (lows[0][place], lows[1][place]), looked, first + place)
                for place, (climbed, parts) in enumerate(zip(climbs, upper, strict=True))
            ]
        )
    return _symmetric(*ways)


def _symmetric(there: Sequence[Transfer], back: Sequence[Transfer]) -> list[Transfer]:
    """Both directions with the larger of the two, first there, then back."""
    found = []
    for ahead, behind in zip(there, back, strict=True):
        measured, bound = max(ahead.measured, behind.measured, 0.0), max(ahead.bound, behind.bound, 0.0)
        found += [replace(one, symmetric=measured, symmetric_bound=bound) for one in (ahead, behind)]
    return [*found[::2], *found[1::2]]


def starts(slope: Tensor, known: Curvature, seed: int) -> Tensor:
    """Where attacks begin: the gradients' difference, both ends of the curvature either way, random directions."""
    ends = torch.stack([known.spectrum.top, known.spectrum.bottom])
    drawn = start_vectors(RANDOM_STARTS, tuple(slope.shape[1:]), seed, "starts")
    return torch.cat([slope, ends, -ends, drawn])


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
    row: int,
) -> Transfer:
    what = f"from {source} to {target}, radius {climbed.radius:.4g}"
    check(climbed.value, parts.total, what)
    excess = excess_bound = None
    if lows is not None:
        ours, theirs = lows
        excess = climbed.value - theirs.value + ours.value - ours.gap
        excess_bound = parts.total - theirs.value + theirs.gap + ours.value
        check(excess, excess_bound, f"excess {what}")
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
    everyone: Sequence[Party],
    head: Tensor,
    radii: Sequence[float],
    curvatures: Sequence[Curvature],
    *,
    seed: int = 0,
    hessians: Hessians | None = None,
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
        hessians: What is known of the domains' Hessians; None: they are asked.
    """
    shape = (head.shape[0], head.shape[1])
    lowest, highest = _extreme(everyone, highest=False), _extreme(everyone, highest=True)
    slope = highest.heads(head[None]).gradients - lowest.heads(head[None]).gradients
    begin = torch.cat([starts(slope, one, seed) for one in curvatures])
    climbs = done(climbing(lowest, highest, head, radii, begin))
    by_name = {one.name: one for one in everyone}
    heads = torch.cat([head[None], *((head + one.head)[None] for one in climbs)])
    looked = dict(zip(by_name, asked([(one, "heads", heads) for one in everyone]), strict=True))
    at_head = dict(zip(by_name, asked([(one, "heads", head[None]) for one in everyone]), strict=True))
    upper: list[list[Bound]] = []
    for one in (*curvatures, *map(turned, curvatures)):
        ours, theirs = by_name[one.first], by_name[one.second]
        here, there = at_head[one.first], at_head[one.second]
        around = Around(
            float(there.risks[0] - here.risks[0]),
            float((there.gradients - here.gradients).norm()),
            one.spectrum.high_end,
            one.spectrum.norm,
        )
        upper.append(bounds(ours, theirs, shape, around, radii, seed=seed, hessians=hessians))
    found = []
    for place, climbed in enumerate(climbs):
        parts = max((one[place] for one in upper), key=lambda one: one.total)
        found.append(_told("the best domain", "the worst domain", climbed, parts, None, looked, 1 + place))
    return found


def _extreme(everyone: Sequence[Party], *, highest: bool) -> Party:
    """At each head the domain with the highest, or the lowest, risk."""
    sizes = [one.sizes for one in everyone]

    def heads(at: Tensor) -> Answers:
        found = asked([(one, "heads", at) for one in everyone])
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
