"""Membership from the final model, tried on every client."""

from collections.abc import Collection, Mapping

from torch import Tensor

from fedha.audit.attacker import Attacker
from fedha.audit.case import Outcomes
from fedha.audit.findings import NotRun
from fedha.audit.judging import judge
from fedha.audit.membership import (
    Question,
    balanced,
    confidences,
    likelihood_ratios,
    loss_scores,
    shadow_confidences,
    shadow_halves,
)
from fedha.audit.network import logits_of
from fedha.data.domain import Domain
from fedha.data.examples import joined
from fedha.models.split import SplitModel

ATTACKS = ("membership_loss", "membership_lira")


def run(
    final: Mapping[str, Tensor] | None,
    domains: Mapping[int, Domain] | None,
    attacker: Attacker,
    wanted: Collection[str] = ATTACKS,
) -> Outcomes:
    """Loss threshold and likelihood ratio for every client whose examples are known.

    Args:
        final: The trained model's parameters, by name; None where they are not at hand.
        domains: Of the clients, by client id; None where not known.
        attacker: Its `train` makes the shadow models.
        wanted: Of `ATTACKS`; the others are not run.
    """
    reason = "the final model is not at hand" if final is None else "the network's structure is not known"
    if domains is None:
        reason = "the clients' examples are not known"
    if final is None or attacker.model is None or domains is None:
        yield from (NotRun(attack, None, None, reason) for attack in ATTACKS)
        return
    ready = {client: one for client, one in sorted(domains.items()) if len(one.held_out) and len(one.train)}
    for client in domains.keys() - ready.keys():
        reason = "the client holds out no examples to compare members with"
        yield from (NotRun(attack, None, client, reason) for attack in ATTACKS)
    if ATTACKS[0] in wanted:
        for client, domain in ready.items():
            yield from _threshold(attacker.model, final, client, domain, attacker)
    if ATTACKS[1] in wanted:
        yield from _ratios(attacker.model, final, ready, attacker)


def _threshold(
    model: SplitModel, final: Mapping[str, Tensor], client: int, domain: Domain, attacker: Attacker
) -> Outcomes:
    inside, outside = (
        loss_scores(logits_of(model, final, part), part.labels) for part in (domain.train, domain.held_out)
    )
    yield from judge(ATTACKS[0], None, client, len(domain.train), (inside, outside), attacker.seed)


def _ratios(
    model: SplitModel, final: Mapping[str, Tensor], domains: Mapping[int, Domain], attacker: Attacker
) -> Outcomes:
    if attacker.train is None:
        yield from (NotRun(ATTACKS[1], None, one, "no training of shadow models was given") for one in domains)
        return
    questions = {client: _question(client, domain, attacker) for client, domain in domains.items()}
    shadows = shadow_confidences(attacker.train, questions)
    for client, question in questions.items():
        both, members = question.candidates, len(question.candidates) - len(domains[client].held_out)
        own = confidences(logits_of(model, final, both), both.labels)
        ratios = likelihood_ratios(own, shadows[client], question.inside)
        scores = (ratios[:members], ratios[members:])
        yield from judge(ATTACKS[1], None, client, len(domains[client].train), scores, attacker.seed)


def _question(client: int, domain: Domain, attacker: Attacker) -> Question:
    """As many members as there are others are in question, and each of both is in half of the shadows."""
    questioned, always = balanced(len(domain.train), len(domain.held_out), attacker.seed)
    members, others = domain.train.select(questioned), domain.held_out
    both = joined([members, others])
    inside = shadow_halves(len(both), attacker.shadows, attacker.seed, client)
    return Question(both, domain.train.select(always), inside)
