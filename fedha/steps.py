"""A client's local steps: an optimiser that is fresh each round, the rate of every step, and the clipping before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedha import optimizers
from fedha.config import TrainingConfig
from fedha.numerics import take_step
from fedha.optimizers import Group
from fedha.rules.table import named_rule
from fedha.schedule import step_factors

Named = Mapping[str, Tensor]


@dataclass
class LocalSteps:
    """Steps of one round.

    Attributes:
        parameters: Leaves, which move in place.
        optimizer: Over them.
        rates: The learning rate of each step, of which a group has its part.
        clip_norm: Largest norm of a step's gradient; None: any.
    """

    parameters: Named
    optimizer: torch.optim.Optimizer
    rates: Sequence[float]
    clip_norm: float | None = None
    taken: int = field(default=0, init=False)

    @property
    def rate(self) -> float:
        """Of the last step that was taken."""
        return self.rates[max(0, self.taken - 1)]

    def take(self, gradients: Named) -> None:
        """One step along these gradients, by parameter."""
        if not self.taken or self.rates[self.taken] != self.rate:
            optimizers.set_rate(self.optimizer, self.rates[self.taken])
        clipped = optimizers.clip(gradients, self.clip_norm)
        for name, value in self.parameters.items():
            value.grad = clipped[name]
        take_step(self.optimizer)
        self.taken += 1


def local_steps(training: TrainingConfig, round: int, steps: int, parameters: Named) -> LocalSteps:
    """The steps of a client in a round.

    Args:
        training: How.
        round: From 1.
        steps: How many it will take.
        parameters: Leaves, by name.
    """
    rates = [training.local.learning_rate * factor for factor in step_factors(training, round, steps)]
    return LocalSteps(parameters, local_optimizer(training, parameters), rates, training.clip_norm)


def local_optimizer(training: TrainingConfig, parameters: Named, like: Named | None = None) -> torch.optim.Optimizer:
    """The clients' optimiser at its full rate.

    Args:
        training: Which.
        parameters: By name.
        like: As in `optimizers.groups`: what they are stacks of.

    Raises:
        FedhaError: It does not take such parameters.
    """
    local = training.local
    name, options = named_rule(local.optimizer)
    own = name in ("sgd", "adam") and not options
    usual = optimizers.usual_options(name).get("weight_decay", 0.0)
    decayed = 0.0 if own else float(options.get("weight_decay", usual))
    groups = optimizers.groups(parameters, training.rates, training.decay, decayed, like)
    if own and name == "adam":
        return torch.optim.Adam(_at(groups, local.learning_rate))
    if own:
        return torch.optim.SGD(_at(groups, local.learning_rate), momentum=local.momentum)
    return optimizers.make(name, optimizers.checked(name, options), groups, local.learning_rate)


def moving_in(training: TrainingConfig, round: int, parameters: Named) -> Named:
    """Those of some parameters that move in a round: the head's alone where the others still rest."""
    if round > training.head_rounds:
        return parameters
    return {name: value for name, value in parameters.items() if name.startswith("head.")}


def check_steps(training: TrainingConfig, parameters: Named) -> None:
    """Look whether clients, or the server, can step such parameters, before the first round.

    Raises:
        FedhaError: A factor of the rate has no parameter, or the optimiser takes no such parameters.
    """
    optimizers.check_rates(training.rates, list(parameters))
    if training.mode == "local":
        local_optimizer(training, {name: torch.empty_like(value) for name, value in parameters.items()})


def _at(groups: Sequence[Group], rate: float) -> list[Group]:
    return [{**one, "lr": rate * one["scale"]} for one in groups]
