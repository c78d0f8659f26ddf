"""Group DRO: the domains' weights move with their risks, and the clients of a domain share its weight."""

import math
from collections.abc import Mapping

import torch

from fedha.reference import domain_means
from fedha.rules.rule import Cohort, Named, Rule


def group_dro(step_size: float) -> Rule:
    """Weights ``q_e exp(step_size * risk_e)``, normalised; a domain that took no part is then only normalised.

    The server's tensors are the domains' weights, by domain.

    Args:
        step_size: Of the recipe.

    Source:
        Sagawa, Koh, Hashimoto, Liang (ICLR 2020), algorithm 1.
    """

    def weigh(state: Named, cohort: Cohort) -> tuple[Mapping[int, float], Named]:
        risks = domain_means(
            (cohort.domains[client], risk, cohort.examples[client]) for client, risk in cohort.risks.items()
        )
        domain_weights = _moved({name: float(value) for name, value in state.items()}, risks, step_size)
        scale = 1 / sum(domain_weights[domain] for domain in risks)
        usual = dict.fromkeys(risks, 0.0)
        for client, domain in cohort.domains.items():
            usual[domain] += cohort.weights[client]
        weights = {
            client: domain_weights[domain] * scale * (cohort.weights[client] / usual[domain])
            for client, domain in cohort.domains.items()
        }
        return weights, {name: torch.tensor(value, dtype=torch.float64) for name, value in domain_weights.items()}

    return Rule("groupdro", weigh=weigh, aggregate=None)


def _moved(before: Mapping[str, float], risks: Mapping[str, float], step_size: float) -> dict[str, float]:
    known = list(dict.fromkeys([*before, *risks]))
    highest = max(risks.values())
    raised = {
        domain: before.get(domain, 1 / len(known)) * math.exp(step_size * (risks.get(domain, 0.0) - highest))
        for domain in known
    }
    total = sum(raised.values())
    return {domain: value / total for domain, value in raised.items()}
