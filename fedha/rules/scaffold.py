"""SCAFFOLD: control variates take out of each local step what pulls clients apart.

The server keeps c and each client i its c_i, zero at first. A step of client i is along ``g + c - c_i``. After K steps
at rate r from x to y, ``c_i' = c_i - c + (x - y) / (K r)`` (option II). The server takes its step on the mean update,
and adds ``|S| / N`` times the mean of the moves ``c_i' - c_i`` to c, S the clients that answered, N all.

Both means are weighted as `training.averaging` says; the paper has equal weights (``averaging: clients``). A client
that trained and whose answer was lost has moved its c_i all the same.

Source:
    Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic controlled averaging for federated learning"
    (ICML 2020), algorithm 1.
"""

from typing import TYPE_CHECKING

import torch

from fedha.errors import FedhaError
from fedha.rules.rule import Answers, Named, Rule, Step, Work, mean_step

if TYPE_CHECKING:
    from fedha.config import TrainingConfig


def scaffold(training: "TrainingConfig") -> Rule:
    """The rule.

    Args:
        training: Looked at for what it cannot be combined with.

    Raises:
        FedhaError: The clients' steps are not plain SGD's, so that ``(x - y) / (K r)`` is no mean gradient; or the
            server's are to have momentum.
    """
    local = training.local
    if local.optimizer != "sgd" or local.momentum:
        raise FedhaError(
            f"training.optimizer is 'scaffold', whose controls are means of plain SGD's gradients, and training.local "
            f"has optimizer {local.optimizer!r} and momentum {local.momentum:g}; set them to sgd and 0"
        )
    if training.momentum is not None:
        raise FedhaError(
            f"training.momentum is {training.momentum:g}, which training.optimizer 'scaffold' does not read; leave it "
            "out"
        )
    return Rule(
        "scaffold",
        ("local",),
        init=_zeros,
        init_client=_zeros,
        sends=_control,
        correct=_correct,
        answer=_answer,
        aggregate=_aggregate,
    )


def _zeros(parameters: Named) -> Named:
    return {name: torch.zeros_like(value) for name, value in parameters.items()}


def _control(state: Named) -> Named:
    return state


def _correct(step: Step) -> Named:
    return {name: value + step.sent[name] - step.state[name] for name, value in step.gradient.items()}


def _answer(work: Work) -> tuple[Named, Named]:
    moves = {
        name: (start - work.end[name]) / (work.steps * work.rate) - work.sent[name]
        for name, start in work.start.items()
    }
    return moves, {name: work.state[name] + move for name, move in moves.items()}


def _aggregate(control: Named, answers: Answers) -> tuple[Named, Named]:
    parameters, _ = mean_step(control, answers)
    part = answers.answered / answers.clients
    return parameters, {name: value + part * answers.extra[name] for name, value in control.items()}
