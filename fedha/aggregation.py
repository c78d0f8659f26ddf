"""The server's step: weights of the domains by risk, and the optimiser that applies the clients' mean update."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedha.config import TrainingConfig
from fedha.numerics import take_step
from fedha.recipes import Recipe
from fedha.schedule import rate_factor

_RATES = {"sgd": 0.1, "adam": 1e-3, "fedavg": 1.0, "fedavgm": 1.0, "fedadam": 1e-2}


def risk_shares(recipe: Recipe, previous: Sequence[float], risks: Sequence[float | None]) -> list[float]:
    """Group DRO's domain weights: ``q_e exp(step_size * risk_e)``, normalised (Sagawa et al., 2020).

    Args:
        recipe: Its step_size.
        previous: The weights so far, one a domain.
        risks: The round's risks; None where a domain took no part, whose weight is then only normalised.
    """
    highest = max(risk for risk in risks if risk is not None)
    raised = [
        q * math.exp(recipe.step_size * ((0.0 if r is None else r) - highest))
        for q, r in zip(previous, risks, strict=True)
    ]
    return [value / sum(raised) for value in raised]


def server_optimizer(training: TrainingConfig, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """The optimiser that takes the mean update as its gradient.

    sgd and adam take gradients (synchronous mode). fedavg is sgd at rate 1 on the mean of the clients' moves, fedavgm
    adds momentum (Hsu et al., 2019), fedadam is Adam with epsilon 1e-3 (Reddi et al., ICLR 2021; with torch's bias
    correction, which the paper leaves out).
    """
    name = optimizer_name(training)
    rate = _RATES[name] if training.learning_rate is None else training.learning_rate
    if name == "adam":
        return torch.optim.Adam(parameters, lr=rate)
    if name == "fedadam":
        return torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.99), eps=1e-3)
    usual = 0.9 if name == "fedavgm" else 0.0
    momentum = usual if training.momentum is None else training.momentum
    return torch.optim.SGD(parameters, lr=rate, momentum=momentum)


def optimizer_name(training: TrainingConfig) -> str:
    """The optimiser's name, with the mode's usual one where the config is silent."""
    return training.optimizer or ("adam" if training.mode == "synchronous" else "fedavg")


def apply_update(
    training: TrainingConfig,
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    update: Mapping[str, Tensor],
    round: int,
) -> None:
    """Step the parameters in place, with the round's learning rate."""
    base = _RATES[optimizer_name(training)] if training.learning_rate is None else training.learning_rate
    server_schedule = training.mode == "synchronous"  # in local mode the clients' rate follows the schedule
    for group in optimizer.param_groups:
        group["lr"] = base * (rate_factor(training, round) if server_schedule else 1.0)
    for name, value in parameters.items():
        value.grad = update[name]
    take_step(optimizer)
