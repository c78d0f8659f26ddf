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
_SMALL = 2**12  # numbers of a parameter that takes longer to call for than to step
_SLOTS = ("step", "exp_avg", "exp_avg_sq")  # of Adam's state


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
        state = dict[str, Tensor]()
        for key, value in parameters.items():
            state[f"step/{key}"] = torch.zeros((), dtype=torch.float32)  # read each time: never on a card
            state |= {f"exp_avg/{key}": torch.zeros_like(value), f"exp_avg_sq/{key}": torch.zeros_like(value)}
        return state

    @torch.no_grad()
    def aggregate(state: Named, answers: Answers) -> tuple[Named, Named]:
        first, second = betas
        known = init(answers.parameters) if answers.restart else state
        moved, kept = dict[str, Tensor](), dict[str, Tensor]()
        for keys in _groups(answers.parameters):
            values, gradients = ([of[key] for key in keys] for of in (answers.parameters, answers.update))
            before = {slot: [known[f"{slot}/{key}"] for key in keys] for slot in _SLOTS}
            steps = torch._foreach_add(before["step"], 1)
            taken = torch.stack(steps).tolist()
            means = torch._foreach_lerp(before["exp_avg"], gradients, 1 - first)
            squares = torch._foreach_mul(before["exp_avg_sq"], second)
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - second)
            scales = torch._foreach_sqrt(squares)
            torch._foreach_div_(scales, [(1 - second**count) ** 0.5 for count in taken])
            torch._foreach_add_(scales, epsilon)
            own = [answers.rate * rate_of(key, rates) for key in keys]
            factors = [-one / (1 - first**count) for one, count in zip(own, taken, strict=True)]
            moved |= dict(zip(keys, torch._foreach_addcdiv(values, means, scales, factors), strict=True))
            for slot, new in zip(_SLOTS, (steps, means, squares), strict=True):
                kept |= {f"{slot}/{key}": value for key, value in zip(keys, new, strict=True)}
        return {key: moved[key] for key in answers.parameters}, kept

    return Rule(name, (mode,), rate, init=init, aggregate=aggregate)


def _groups(parameters: Named) -> list[list[str]]:
    """The parameters that are stepped at once: on a card all, whose launches cost most; else the small ones, and each
    large one by itself, for memory's sake.
    """
    on_card = all(value.is_cuda for value in parameters.values())
    large = [key for key, value in parameters.items() if not on_card and value.numel() > _SMALL]
    small = [key for key in parameters if key not in set(large)]
    return [*([small] if small else []), *([key] for key in large)]


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
