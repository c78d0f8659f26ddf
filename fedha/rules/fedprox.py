"""FedProx: each local step is also pulled back to the round's global model.

A client minimises its loss plus ``mu / 2 |w - w_0|^2``, w_0 the model that it was sent: a step's gradient has
``mu (w - w_0)`` more. With mu 0 it is FedAvg.

Source:
    Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated optimization in heterogeneous networks" (MLSys 2020),
    algorithm 2, with as many steps as the config says for its gamma-inexact solutions.
"""

from typing import Annotated

from pydantic import Field

from fedha.rules.rule import Named, Rule, Step


def fedprox(mu: Annotated[float, Field(ge=0)] = 0.01) -> Rule:
    """The rule.

    Args:
        mu: Of the proximal term; the paper tries 0.001 to 1.
    """

    def correct(step: Step) -> Named:
        return {
            name: value.add(step.parameters[name] - step.start[name], alpha=mu) for name, value in step.gradient.items()
        }

    return Rule("fedprox", ("local",), correct=correct)
