"""The server's optimisers: the clients' mean update is their gradient."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim.adam import adam as adam_in_place

from fedha.optimizers import rate_of
from fedha.rules.rule import Answers, Named, Rule

if TYPE_CHECKING:
    from fedha.config import TrainingConfig

_ALIKE: Mapping[str, float] = MappingProxyType({})  # all parameters at one rate
_MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam's state


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
    """Adam's step, to the bits of `torch.optim.Adam(fused=True)`; what it moves are copies.

    On a processor it is torch's fused one, a single pass over memory; on a card all parameters are stepped at once.
    """

    def init(parameters: Named) -> Named:
        state = dict[str, Tensor]()
        for key, value in parameters.items():
            state[f"step/{key}"] = torch.zeros((), dtype=torch.float32)  # read each time: never on a card
            state |= {f"exp_avg/{key}": torch.zeros_like(value), f"exp_avg_sq/{key}": torch.zeros_like(value)}
        return state

    @torch.no_grad()
    def aggregate(state: Named, answers: Answers) -> tuple[Named, Named]:
        known = init(answers.parameters) if answers.restart else state
        moved = _copies(answers.parameters)
        kept = _copies({f"step/{key}": known[f"step/{key}"] for key in moved})
        for slot in _MOMENTS:
            copies = _copies({key: known[f"{slot}/{key}"] for key in moved})
            kept |= {f"{slot}/{key}": _lying_as(moved[key], value) for key, value in copies.items()}
        devices = {value.device.type for value in moved.values()}
        for factor, keys in _by_rate(moved, rates).items():
            adam_in_place(
                [moved[key] for key in keys],
                [_lying_as(moved[key], answers.update[key]) for key in keys],
                [kept[f"exp_avg/{key}"] for key in keys],
                [kept[f"exp_avg_sq/{key}"] for key in keys],
                [],
                [kept[f"step/{key}"] for key in keys],
                foreach=devices == {"cuda"},
                fused=devices == {"cpu"},
                amsgrad=False,
                beta1=betas[0],
                beta2=betas[1],
                lr=answers.rate * factor,
                weight_decay=0.0,
                eps=epsilon,
                maximize=False,
            )
        return moved, kept

    return Rule(name, (mode,), rate, init=init, aggregate=aggregate)


def _by_rate(parameters: Named, rates: Mapping[str, float]) -> dict[float, list[str]]:
    """The parameters that move at each part of the rate."""
    groups = dict[float, list[str]]()
    for key in parameters:
        groups.setdefault(rate_of(key, rates), []).append(key)
    return groups


def _copies(tensors: Named) -> dict[str, Tensor]:
    """Tensors of their own with the same numbers; on a card all of them in one launch."""
    return dict(zip(tensors, torch._foreach_mul(list(tensors.values()), 1), strict=True)) if tensors else {}


def _lying_as(value: Tensor, other: Tensor) -> Tensor:
    """A tensor's numbers in memory as another's lie, which the fused step takes for granted."""
    return other if other.stride() == value.stride() else torch.empty_like(value).copy_(other)


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
