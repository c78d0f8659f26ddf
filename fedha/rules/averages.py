"""A moving average of the rounds' models, which is what is evaluated and kept; training goes on with the last one.

Source:
    Polyak, Juditsky, "Acceleration of stochastic approximation by averaging" (1992), with the exponential weights of
    Tarvainen and Valpola's mean teacher (NeurIPS 2017): the first rounds are averaged evenly, until the decay is that
    of the average.
"""

from typing import Annotated

import torch
from pydantic import Field

from fedha.rules.rule import Answers, Named, Rule

_ROUNDS = "rounds"  # that are in the average


def ema(decay: Annotated[float, Field(ge=0, lt=1)] = 0.99) -> Rule:
    """The rule: after round r the average moves by ``max(1 - decay, 1 / r)`` of the way to the round's model.

    Args:
        decay: Of the average; 0 is the last model.
    """

    def init(parameters: Named) -> Named:
        zeros = {f"mean/{name}": torch.zeros_like(value) for name, value in parameters.items()}
        return {_ROUNDS: torch.zeros((), dtype=torch.float64), **zeros}

    def aggregate(state: Named, answers: Answers) -> tuple[Named, Named]:
        rounds = state[_ROUNDS] + 1
        part = max(1 - decay, 1 / float(rounds))
        means = {f"mean/{name}": state[f"mean/{name}"].lerp(value, part) for name, value in answers.parameters.items()}
        return answers.parameters, {_ROUNDS: rounds, **means}

    def shows(state: Named, parameters: Named, over: bool) -> Named:
        return {name: state[f"mean/{name}"] for name in parameters} if float(state[_ROUNDS]) else parameters

    return Rule("ema", init=init, aggregate=aggregate, shows=shows)
