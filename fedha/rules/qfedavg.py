"""q-FedAvg: clients whose risk is larger count more, by the power q of it; with q 0 it is FedAvg.

Client k, at risk F_k with the model that it was sent, moves by ``d_k = L (w - w_k)`` with L one over its steps' rate.
The server takes ``w - sum_k F_k^q d_k / sum_k h_k`` with ``h_k = q F_k^(q - 1) |d_k|^2 + L F_k^q``. Both sums are
averaged as `training.averaging` says; with equal weights (``averaging: clients``) it is the paper's step. Sums are all
that the server needs, so that they may be secure.

Source:
    Li, Sanjabi, Beirami, Smith, "Fair resource allocation in federated learning" (ICLR 2020), algorithm 2.
"""

from typing import Annotated

import torch
from pydantic import Field

from fedha.rules.rule import Answers, Named, Rule, Work

_SCALE = "scale"
_LEAST = 1e-10  # a risk of zero has no power below zero


def qfedavg(q: Annotated[float, Field(ge=0)] = 1.0) -> Rule:
    """The rule.

    Args:
        q: How much a larger risk counts; the paper tries 0.001 to 15.
    """

    def answer(work: Work) -> tuple[Named, Named]:
        risk, steepness = max(work.risks["start"], _LEAST), 1 / work.rate
        moves = {name: steepness * (start - work.end[name]) for name, start in work.start.items()}
        norm = torch.stack([move.square().sum() for move in moves.values()]).sum()
        scale = q * risk ** (q - 1) * norm + steepness * risk**q
        return {**{f"move/{name}": risk**q * move for name, move in moves.items()}, _SCALE: scale}, {}

    def aggregate(state: Named, answers: Answers) -> tuple[Named, Named]:
        rate = answers.rate / answers.extra[_SCALE]
        moved = {name: value - rate * answers.extra[f"move/{name}"] for name, value in answers.parameters.items()}
        return moved, state

    return Rule("qfedavg", ("local",), answer=answer, aggregate=aggregate, measures=("start",))
