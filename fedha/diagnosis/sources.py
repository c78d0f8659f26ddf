"""How far a run's sources are apart at one head, in a few numbers: what a run logs on its way, and what may predict.

Of every number the largest over the pairs of sources: no target has a say in any of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import torch
from torch import Tensor

from fedha.diagnosis.attributes import Attribute, Side, by_chance, feature_spread, halves, mean_of, spectral_halves
from fedha.diagnosis.curvature import Curvature, difference, norms
from fedha.diagnosis.party import Party, pooled
from fedha.diagnosis.sample import Sample, logit_unit
from fedha.diagnosis.transfer import both_ways
from fedha.diagnosis.weighted import feature_means, gradients
from fedha.errors import FedhaError

_GRADIENT = Attribute("gradient", "", gradients, lambda a, b: (b - a).norm(dim=1))


@dataclass(frozen=True)
class Apart:
    """How far the heads' derivatives of two sources are apart, of the pair that is farthest apart in each.

    Attributes:
        hessian: Spectral norm of the Hessians' difference; a lower end.
        hessian_chance: The same of random halves of one domain, root mean square, brought to the sources' sizes.
        hessian_chance_95: What that stays below in 95 of 100 cases.
        gradient: Length of the gradients' difference.
        gradient_chance: As of the Hessians.
        gradient_chance_95: Likewise.
    """

    hessian: float
    hessian_chance: float | None
    hessian_chance_95: float | None
    gradient: float
    gradient_chance: float | None
    gradient_chance_95: float | None

    def row(self) -> dict[str, float]:
        """What is known, by name."""
        known = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Between:
    """How far two sides are apart at a head; of sources, of the pair that is farthest apart in each number.

    Attributes:
        hessian: Spectral norm of the Hessians' difference; a lower end.
        hessian_upper: An upper end of it.
        gradient: Length of the gradients' difference.
        features: Distance of the features' means, in units of their spread.
        risk_gap: Difference of the risks.
        measured: Transfer measure, the larger of both directions, at least that much: risk gap form.
        bound: What no head of the ball exceeds.
        excess: The same above what the ball's best head for each has.
        excess_bound: Upper end of that.
        radius: Of the ball, in weights of the head.
        logits: The same in logit units.
    """

    hessian: float
    hessian_upper: float
    gradient: float
    features: float
    risk_gap: float
    measured: float
    bound: float
    excess: float
    excess_bound: float
    radius: float
    logits: float


def apart(samples: Sequence[Sample], seed: int) -> Apart:
    """How far sources are apart, beside chance.

    Args:
        samples: Two or more, at one head.
        seed: Of random starts and halves.
    """
    slopes = [mean_of(one, gradients) for one in samples]
    lengths = [float((b - a).norm()) for a, b in combinations(slopes, 2)]
    norms = [one.lower for one in _norms(samples, [one.party() for one in samples], seed)]
    of_gradients = {one.name: halves(one, _GRADIENT, seed) for one in samples}
    of_hessians = {one.name: spectral_halves(one, seed) for one in samples}
    sides = [Side(one.name, (one,)) for one in samples]
    found: list[float | None] = []
    for values, levels in ((norms, of_hessians), (lengths, of_gradients)):
        value, pair = max(zip(values, combinations(sides, 2), strict=True), key=lambda one: one[0])
        found += [value, *by_chance(*pair, levels)]
    return Apart(*found)  # type: ignore[arg-type]  # the values are known, their chance may not be


def between(samples: Sequence[Sample], seed: int, logits: float = 1.0) -> Between:
    """What sources say of a head.

    Args:
        samples: At one head.
        seed: Of random starts.
        logits: Radius of the ball, in logit units.

    Raises:
        FedhaError: There is one source alone.
    """
    if len(samples) < 2:
        raise FedhaError("sources are compared with each other, and this run has one; take a run with two or more")
    parties, scale = [one.party() for one in samples], _Scale(logits, logits * logit_unit(samples), seed)
    means = [mean_of(one, feature_means) for one in samples]
    spread, head = feature_spread(samples), samples[0].head
    found = [
        _told(parties[a], parties[b], head, known, float((means[b] - means[a]).norm()) / spread, scale)
        for known, (a, b) in zip(_norms(samples, parties, seed), combinations(range(len(samples)), 2), strict=True)
    ]
    return Between(**{one.name: max(getattr(pair, one.name) for pair in found) for one in fields(Between)})


def toward(samples: Sequence[Sample], target: Sample, seed: int, logits: float = 1.0) -> Between:
    """The same numbers between the mean of sources and a domain that nobody trained on.

    Args:
        samples: Sources, at one head.
        target: At the same.
        seed: Of random starts.
        logits: Radius of the ball, in logit units.
    """
    source, scale = (
        pooled([one.party() for one in samples], "the sources"),
        _Scale(logits, logits * logit_unit(samples), seed),
    )
    known = difference(source, target.party(), (target.head.shape[0], target.head.shape[1]), seed=seed)
    middle = torch.stack([mean_of(one, feature_means) for one in samples]).mean(0)
    distance = float((mean_of(target, feature_means) - middle).norm()) / feature_spread(samples)
    return _told(source, target.party(), target.head, known, distance, scale)


@dataclass(frozen=True)
class _Scale:
    logits: float
    radius: float
    seed: int


def _told(first: Party, second: Party, head: Tensor, known: Curvature, distance: float, scale: _Scale) -> Between:
    """What there is between two sides whose features' means are so far apart."""
    there, back = both_ways(first, second, head, [scale.radius], (), known=known, seed=scale.seed)
    return Between(
        hessian=known.lower,
        hessian_upper=known.upper,
        gradient=there.parts.gradient / scale.radius,
        features=distance,
        risk_gap=abs(there.parts.risk_gap),
        measured=there.symmetric or 0.0,
        bound=there.symmetric_bound or 0.0,
        excess=max(there.excess or 0.0, back.excess or 0.0),
        excess_bound=max(there.excess_bound or 0.0, back.excess_bound or 0.0),
        radius=scale.radius,
        logits=scale.logits,
    )


def _norms(samples: Sequence[Sample], parties: Sequence[Party], seed: int) -> list[Curvature]:
    return norms(parties, (samples[0].head.shape[0], samples[0].head.shape[1]), seed=seed)
