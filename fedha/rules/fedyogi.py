"""FedYogi: adaptive steps along the clients' mean move, whose scale grows by what is new and not by a moving average.

With d the mean move, ``m = beta_1 m + (1 - beta_1) d`` and ``v = v - (1 - beta_2) d^2 sign(v - d^2)``; the step is
``rate m / (sqrt(v) + tau)``. As published there is no bias correction, m starts at zero and v at tau squared.

Source:
    Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, "Adaptive federated optimization" (ICLR 2021),
    algorithm 2.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedha.rules.rule import Answers, Named, Rule

_Decay = Annotated[float, Field(ge=0, lt=1)]


def fedyogi(beta_1: _Decay = 0.9, beta_2: _Decay = 0.99, tau: Annotated[float, Field(gt=0)] = 1e-3) -> Rule:
    """The rule; its rate is 0.01 where the config gives none.

    Args:
        beta_1: Decay of the mean of moves.
        beta_2: How slowly their scale follows.
        tau: What the scale is never far below.
    """

    def init(parameters: Named) -> Named:
        means = {f"mean/{name}": torch.zeros_like(value) for name, value in parameters.items()}
        return means | {f"scale/{name}": torch.full_like(value, tau**2) for name, value in parameters.items()}

    @torch.no_grad()
    def aggregate(state: Named, answers: Answers) -> tuple[Named, Named]:
        known = init(answers.parameters) if answers.restart else state
        moved, kept = dict[str, Tensor](), dict[str, Tensor]()
        for name, value in answers.parameters.items():
            move, scale = answers.update[name], known[f"scale/{name}"]
            square = move.square()
            mean = beta_1 * known[f"mean/{name}"] + (1 - beta_1) * move
            scale = scale - (1 - beta_2) * square * (scale - square).sign()
            moved[name] = value - answers.rate * mean / (scale.sqrt() + tau)
            kept |= {f"mean/{name}": mean, f"scale/{name}": scale}
        return moved, kept

    return Rule("fedyogi", ("local",), 1e-2, init=init, aggregate=aggregate)
