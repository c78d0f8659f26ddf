"""FedGMA: where clients agree on the sign of a parameter's move it is taken whole, elsewhere as far as they agree.

With A the absolute mean of the signs of the clients' moves, entry by entry, the mean move is multiplied by 1 where A is
at least the threshold, and by A elsewhere. The signs are averaged as the moves are; the paper has equal weights
(``averaging: clients``). Means are all that the server needs, so that sums may be secure.

Source:
    Tenison, Sreeramadas, Mugunthan, Oyallon, Rish, Belilovsky, "Gradient masked averaging for federated learning"
    (TMLR 2023), the soft mask; declearn's ``GradientMaskedAveraging`` is the same.
"""

from typing import Annotated

from pydantic import Field

from fedha.rules.rule import Answers, Named, Rule, Work

_ROUNDING = 1e-6  # what a mean of signs may be off by


def fedgma(threshold: Annotated[float, Field(ge=0, le=1)] = 0.4) -> Rule:
    """The rule.

    Args:
        threshold: The paper's tau, tried there from 0.1 to 0.9.
    """

    def answer(work: Work) -> tuple[Named, Named]:
        return {name: (start - work.end[name]).sign() for name, start in work.start.items()}, {}

    def aggregate(state: Named, answers: Answers) -> tuple[Named, Named]:
        moved = {}
        for name, value in answers.parameters.items():
            agreement = answers.extra[name].abs()
            mask = agreement.masked_fill(agreement >= threshold - _ROUNDING, 1.0)
            moved[name] = value - answers.rate * mask * answers.update[name]
        return moved, state

    return Rule("fedgma", ("local",), answer=answer, aggregate=aggregate, one_rate=False)
