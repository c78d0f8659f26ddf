"""The server's optimisers: the clients' mean update is their gradient."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedha.optimizers import rate_of
from fedha.rules.rule import Answers, Named, Rule

if TYPE_CHECKING:
    from fedha.config import TrainingConfig

_ALIKE: Mapping[str, float] = MappingProxyType({})  # all parameters at one rate


def sgd(training: "TrainingConfig") -> Rule:
    """Gradient descent, with momentum where the config asks for it."""
    return _descent("sgd", "synchronous", 0.1, training.momentum or 0.0, training.rates)


def fedavg(training: "TrainingConfig") -> Rule:
    """The mean of the clients' moves, at rate 1."""
    return _descent("fedavg", "local", 1.0, training.momentum or 0.0)


def fedavgm(training: "TrainingConfig") -> Rule:
    """FedAvg with momentum, 0.9 if not given."""
    return _descent("fedavgm", "local", 1.0, 0.9 if training.momentum is None else training.momentum)


def adam(training: "TrainingConfig") -> Rule:
    """Adam as torch has it."""
    return _adaptive("adam", "synchronous", 1e-3, (0.9, 0.999), 1e-8, training.rates)


def fedadam() -> Rule:
    """Adam on the mean of the clients' moves, with epsilon 1e-3; torch's bias correction is left out in the paper."""
    return _adaptive("fedadam", "local", 1e-2, (0.9, 0.99), 1e-3)


def _adaptive(
    name: str,
    mode: str,
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
    rates: Mapping[str, float] = _ALIKE,
) -> Rule:
    """Adam's step, to the bits of `torch.optim.Adam`, written as a function: what is new is not copied first."""

    def init(parameters: Named) -> Named:
        return {
            f"{slot}/{key}": value.new_zeros((), dtype=torch.float32) if slot == "step" else torch.zeros_like(value)
            for key, value in parameters.items()
            for slot in ("step", "exp_avg", "exp_avg_sq")
        }

    @torch.no_grad()
    def aggregate(state: Named, answers: Answers) -> tuple[Named, Named]:
        first, second = betas
        known = init(answers.parameters) if answers.restart else state
        moved, kept = dict[str, Tensor](), dict[str, Tensor]()
        for key, value in answers.parameters.items():
            gradient, step = answers.update[key], known[f"step/{key}"] + 1
            mean = known[f"exp_avg/{key}"].lerp(gradient, 1 - first)
            square = (known[f"exp_avg_sq/{key}"] * second).addcmul_(gradient, gradient, value=1 - second)
            taken, own = float(step), answers.rate * rate_of(key, rates)
            scale = square.sqrt().div_((1 - second**taken) ** 0.5).add_(epsilon)
            moved[key] = value.addcdiv(mean, scale, value=-own / (1 - first**taken))
            kept |= {f"step/{key}": step, f"exp_avg/{key}": mean, f"exp_avg_sq/{key}": square}
        return moved, kept

    return Rule(name, (mode,), rate, init=init, aggregate=aggregate)


def _descent(name: str, mode: str, rate: float, momentum: float, rates: Mapping[str, float] = _ALIKE) -> Rule:
    """Gradient descent to the bits of `torch.optim.SGD`, written as a function as `_adaptive` is."""

    def moved(answers: Answers, update: Named) -> Named:
        return {
            key: value.add(update[key], alpha=-answers.rate * rate_of(key, rates))
            for key, value in answers.parameters.items()
        }

    if not momentum:
        return Rule(name, (mode,), rate, aggregate=lambda state, answers: (moved(answers, answers.update), state))

    def init(parameters: Named) -> Named:
        return {f"momentum_buffer/{key}": torch.zeros_like(value) for key, value in parameters.items()}

    @torch.no_grad()
    def aggregate(state: Named, answers: Answers) -> tuple[Named, Named]:
        known = init(answers.parameters) if answers.restart else state
        update = {key: (known[f"momentum_buffer/{key}"] * momentum).add_(one) for key, one in answers.update.items()}
        return moved(answers, update), {f"momentum_buffer/{key}": value for key, value in update.items()}

    return Rule(name, (mode,), rate, init=init, aggregate=aggregate)
