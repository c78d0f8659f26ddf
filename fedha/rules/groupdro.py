"""Group DRO and AFL: the domains' weights move with their risks, and the clients of a domain share its weight."""

import math
from collections.abc import Callable, Mapping

import torch

from fedha.reference import domain_means
from fedha.rules.rule import Cohort, Named, Rule

Moved = Callable[[Mapping[str, float], Mapping[str, float]], dict[str, float]]


def group_dro(step_size: float) -> Rule:
    """Weights ``q_e exp(step_size * risk_e)``, normalised; a domain that took no part is then only normalised.

    Args:
        step_size: Of the recipe.

    Source:
        Sagawa, Koh, Hashimoto, Liang (ICLR 2020), algorithm 1.
    """
    return _weighing("groupdro", lambda before, risks: _multiplied(before, risks, step_size))


def agnostic(step_size: float) -> Rule:
    """AFL: weights ``q_e + step_size * risk_e``, put back to the nearest that are none below zero and sum to one.

    Args:
        step_size: Of the recipe.

    Source:
        Mohri, Sivek, Suresh, "Agnostic federated learning" (ICML 2019), its stochastic algorithm.
    """
    return _weighing("afl", lambda before, risks: _projected(before, risks, step_size))


def _weighing(name: str, moved: Moved) -> Rule:
    """A rule whose tensors at the server are the domains' weights, by domain.

    Args:
        name: The rule's.
        moved: The weights after a round, from those before and the risks of who took part; equal at first.
    """

    def weigh(state: Named, cohort: Cohort) -> tuple[Mapping[int, float], Named]:
        risks = domain_means(
            (cohort.domains[client], risk, cohort.examples[client]) for client, risk in cohort.risks.items()
        )
        before = {name: float(value) for name, value in state.items()}
        known = list(dict.fromkeys([*before, *risks]))
        domain_weights = moved({domain: before.get(domain, 1 / len(known)) for domain in known}, risks)
        kept = {name: torch.tensor(value, dtype=torch.float64) for name, value in domain_weights.items()}
        present = sum(domain_weights[domain] for domain in risks)
        if present == 0:  # of those that took part none counts: this once as the config says
            return cohort.weights, kept
        scale = 1 / present
        usual = dict.fromkeys(risks, 0.0)
        for client, domain in cohort.domains.items():
            usual[domain] += cohort.weights[client]
        weights = {
            client: domain_weights[domain] * scale * (cohort.weights[client] / usual[domain])
            for client, domain in cohort.domains.items()
        }
        return weights, kept

    return Rule(name, weigh=weigh, aggregate=None)


def _multiplied(before: Mapping[str, float], risks: Mapping[str, float], step_size: float) -> dict[str, float]:
    highest = max(risks.values())
    raised = {
        domain: weight * math.exp(step_size * (risks.get(domain, 0.0) - highest)) for domain, weight in before.items()
    }
    total = sum(raised.values())
    return {domain: value / total for domain, value in raised.items()}


def _projected(before: Mapping[str, float], risks: Mapping[str, float], step_size: float) -> dict[str, float]:
    """The nearest weights: all are lowered alike, down to zero, until they sum to one (Duchi et al., ICML 2008)."""
    raised = {domain: weight + step_size * risks.get(domain, 0.0) for domain, weight in before.items()}
    total, level = 0.0, 0.0
    for count, value in enumerate(sorted(raised.values(), reverse=True), 1):
        total += value
        if value > (total - 1) / count:
            level = (total - 1) / count
    return {domain: max(0.0, value - level) for domain, value in raised.items()}
