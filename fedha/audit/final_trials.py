"""Membership from the final model, tried on every client."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedha.audit.attacker import Attacker
from fedha.audit.case import Outcomes
from fedha.audit.findings import NotRun
from fedha.audit.judging import judge
from fedha.audit.membership import (
    balanced,
    confidences,
    likelihood_ratios,
    loss_scores,
    shadow_confidences,
    shadow_halves,
)
from fedha.audit.network import logits_of
from fedha.data.domain import Domain, Examples
from fedha.models.split import SplitModel

ATTACKS = ("membership_loss", "membership_lira")


def run(final: Mapping[str, Tensor] | None, domains: Mapping[int, Domain] | None, attacker: Attacker) -> Outcomes:
    """Loss threshold and likelihood ratio for every client whose examples are known.

    Args:
        final: The trained model's parameters, by name; None where they are not at hand.
        domains: Of the clients, by place; None where not known.
        attacker: Its `train` makes the shadow models.
    """
    reason = "the final model is not at hand" if final is None else "the network's structure is not known"
    if domains is None:
        reason = "the clients' examples are not known"
    if final is None or attacker.model is None or domains is None:
        yield from (NotRun(attack, None, None, reason) for attack in ATTACKS)
        return
    for client, domain in sorted(domains.items()):
        if not len(domain.held_out) or not len(domain.train):
            reason = "the client holds out no examples to compare members with"
            yield from (NotRun(attack, None, client, reason) for attack in ATTACKS)
            continue
        yield from _threshold(attacker.model, final, client, domain, attacker)
        yield from _ratio(attacker.model, final, client, domain, attacker)


def _threshold(
    model: SplitModel, final: Mapping[str, Tensor], client: int, domain: Domain, attacker: Attacker
) -> Outcomes:
    inside, outside = (
        loss_scores(logits_of(model, final, part.inputs.to(_dtype(final))), part.labels)
        for part in (domain.train, domain.held_out)
    )
    yield from judge(ATTACKS[0], None, client, len(domain.train), (inside, outside), attacker.seed)


def _ratio(model: SplitModel, final: Mapping[str, Tensor], client: int, domain: Domain, attacker: Attacker) -> Outcomes:
    train = attacker.train
    if train is None:
        yield NotRun(ATTACKS[1], None, client, "no training of shadow models was given")
        return
    questioned, always = balanced(len(domain.train), len(domain.held_out), attacker.seed)
    members, others = domain.train.select(questioned), domain.held_out
    both = Examples(torch.cat([members.inputs, others.inputs]), torch.cat([members.labels, others.labels]))
    inside = shadow_halves(len(both), attacker.shadows, attacker.seed)
    own = confidences(logits_of(model, final, both.inputs.to(_dtype(final))), both.labels)
    shadows = shadow_confidences(
        lambda examples, number: train(client, examples, number), both, domain.train.select(always), inside
    )
    ratios = likelihood_ratios(own, shadows, inside)
    scores = (ratios[: len(members)], ratios[len(members) :])
    yield from judge(ATTACKS[1], None, client, len(domain.train), scores, attacker.seed)


def _dtype(parameters: Mapping[str, Tensor]) -> torch.dtype:
    return next(iter(parameters.values())).dtype
