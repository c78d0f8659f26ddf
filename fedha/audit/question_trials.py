"""What a server draws from the answers of a diagnosis: gradients at heads of its choice, at the final model.

A steep head that splits the examples along a direction at a threshold has predictions of 0 and 1. Between two
thresholds its gradient changes by the sum of the features of the examples between them, over n: of a single one, by
that one's. So each head tells about one example more, whatever the domain.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fedha.audit.attacker import Attacker
from fedha.audit.case import Outcomes
from fedha.audit.findings import Finding, NotRun
from fedha.audit.network import features_at
from fedha.data.domain import Domain
from fedha.diagnosis.party import Heads
from fedha.diagnosis.sample import Sample
from fedha.diagnosis.subject import learned_head
from fedha.errors import FedhaError
from fedha.randomness import generator

ATTACKS = ("feature_heads",)
ASKED = 200  # heads: about what one diagnosis of one target asks of a domain
_STEEP, _OTHERS, _ENDS = 1e9, -1e9, 40
_CLOSE = 0.01  # relative error of a feature that counts as recovered


def run(final: Mapping[str, Tensor] | None, domains: Mapping[int, Domain] | None, attacker: Attacker) -> Outcomes:
    """Single examples' features from answers at many heads, for every client whose examples are known.

    Args:
        final: The trained model's parameters, by name; None where they are not at hand.
        domains: Of the clients, by client id; None where not known.
        attacker: Says whether clients would answer.
    """
    (attack,) = ATTACKS
    reason = attacker.unasked or ("" if final is not None and attacker.model is not None else "there is no final model")
    if domains is None or final is None or attacker.model is None or reason:
        yield NotRun(attack, None, None, reason or "the clients' examples are not known")
        return
    try:
        head = learned_head(attacker.model, final)
    except FedhaError as error:
        yield NotRun(attack, None, None, f"no client answers: {error}")
        return
    for client, domain in sorted(domains.items()):
        if len(domain.train):
            features = features_at(attacker.model, final, domain.train).double().cpu()
            sample = Sample(domain.name, features, domain.train.labels.cpu(), head, attacker.classes)
            found = drawn(sample.heads, tuple(head.shape), len(sample), ASKED, attacker.seed)
            mean = features.mean(0)[None]
            yield Finding(
                attack,
                None,
                client,
                share(found, features),
                share(mean, features),
                None,
                len(sample),
                {"heads": ASKED, "drawn": len(found)},
            )


@dataclass(frozen=True)
class _Split:
    """The sum over the examples above a threshold, [D], labels' part left in."""

    threshold: float
    total: Tensor


def drawn(heads: Heads, shape: tuple[int, ...], examples: int, asked: int, seed: int) -> Tensor:
    """Features of single examples, [found, D].

    Args:
        heads: What a domain answers.
        shape: Of its head, [C, D].
        examples: n, which clients tell.
        asked: Heads, at most.
        seed: Of the direction.
    """
    direction = torch.randn(shape[1] - 1, dtype=torch.float64, generator=generator(seed, "questions"))

    def splits(thresholds: list[float]) -> list[_Split]:
        at = torch.zeros(len(thresholds), *shape, dtype=torch.float64)
        at[:, 0, :-1] = _STEEP * direction
        at[:, 0, -1] = -_STEEP * torch.tensor(thresholds, dtype=torch.float64)
        at[:, 2:, -1] = _OTHERS * _STEEP
        answers = heads(at)
        return [_Split(t, examples * one[0]) for t, one in zip(thresholds, answers.gradients, strict=True)]

    ends = [sign * 2.0**power for power in range(-8, _ENDS // 2 - 8) for sign in (-1.0, 1.0)]
    known = splits(sorted(ends))
    left = asked - len(known)
    while left > 0:
        wide = [
            (low.threshold + high.threshold) / 2
            for low, high in pairwise(known)
            if _count(low, high) > 1 and high.threshold - low.threshold > 1e-9
        ][:left]
        if not wide:
            break
        known = sorted([*known, *splits(wide)], key=lambda one: one.threshold)
        left -= len(wide)
    singles = [low.total - high.total for low, high in pairwise(known) if _count(low, high) == 1]
    return torch.stack(singles) if singles else torch.zeros(0, shape[1], dtype=torch.float64)


def share(found: Tensor, features: Tensor) -> float:
    """The share of examples of which one of the found features is as good as theirs."""
    if not len(found):
        return 0.0
    lengths = features.norm(dim=1).clamp_min(1e-300)
    return float((torch.cdist(features, found).min(1).values <= _CLOSE * lengths).double().mean())


def _count(low: _Split, high: _Split) -> int:
    """How many examples lie between two thresholds: the column of ones."""
    return round(float(low.total[-1] - high.total[-1]))
