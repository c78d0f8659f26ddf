"""The server's optimisers: the clients' mean update is their gradient."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedha.numerics import take_step
from fedha.rules.rule import Answers, Named, Rule

if TYPE_CHECKING:
    from fedha.config import TrainingConfig

Optimizer = torch.optim.Optimizer
Make = Callable[[Sequence[Tensor], float], Optimizer]  # of parameters and a learning rate


def sgd(training: "TrainingConfig") -> Rule:
    """Gradient descent, with momentum where the config asks for it."""
    return _descent("sgd", "synchronous", 0.1, training.momentum or 0.0)


def fedavg(training: "TrainingConfig") -> Rule:
    """The mean of the clients' moves, at rate 1."""
    return _descent("fedavg", "local", 1.0, training.momentum or 0.0)


def fedavgm(training: "TrainingConfig") -> Rule:
    """FedAvg with momentum, 0.9 if not given."""
    return _descent("fedavgm", "local", 1.0, 0.9 if training.momentum is None else training.momentum)


def adam() -> Rule:
    """Adam as torch has it."""
    return _adaptive("adam", "synchronous", 1e-3, (0.9, 0.999), 1e-8)


def fedadam() -> Rule:
    """Adam on the mean of the clients' moves, with epsilon 1e-3; torch's bias correction is left out in the paper."""
    return _adaptive("fedadam", "local", 1e-2, (0.9, 0.99), 1e-3)


def _adaptive(name: str, mode: str, rate: float, betas: tuple[float, float], epsilon: float) -> Rule:
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
            taken = float(step)
            scale = square.sqrt().div_((1 - second**taken) ** 0.5).add_(epsilon)
            moved[key] = value.addcdiv(mean, scale, value=-answers.rate / (1 - first**taken))
            kept |= {f"step/{key}": step, f"exp_avg/{key}": mean, f"exp_avg_sq/{key}": square}
        return moved, kept

    return Rule(name, (mode,), rate, init=init, aggregate=aggregate)


def _descent(name: str, mode: str, rate: float, momentum: float) -> Rule:
    if not momentum:
        return Rule(name, (mode,), rate)
    return optimized(name, mode, rate, lambda values, now: torch.optim.SGD(values, lr=now, momentum=momentum))


def optimized(name: str, mode: str, rate: float, make: Make) -> Rule:
    """A rule whose step is that of one of torch's optimisers.

    Args:
        name: The rule's.
        mode: In which it makes sense.
        rate: Its usual learning rate.
        make: Makes the optimiser. What it remembers is the server's state, as ``exp_avg/head.weight``.
    """

    def init(parameters: Named) -> Named:
        start, still = ({key: torch.zeros_like(value) for key, value in parameters.items()} for _ in range(2))
        _, slots = _stepped(make(list(start.values()), rate), start, still)
        return {key: torch.zeros_like(value) for key, value in slots.items()}

    def aggregate(state: Named, answers: Answers) -> tuple[Named, Named]:
        own = {key: value.detach().clone() for key, value in answers.parameters.items()}
        optimizer = make(list(own.values()), answers.rate)
        for key, value in (init(answers.parameters) if answers.restart else state).items():
            slot, _, parameter = key.partition("/")
            optimizer.state[own[parameter]][slot] = value.clone()
        return _stepped(optimizer, own, answers.update)

    return Rule(name, (mode,), rate, init=init, aggregate=aggregate)


def _stepped(optimizer: Optimizer, parameters: Named, gradients: Named) -> tuple[Named, Named]:
    """The parameters after a step, which moves them, and what the optimiser remembers of each."""
    for name, value in parameters.items():
        value.grad = gradients[name]
    take_step(optimizer)
    slots = {
        f"{slot}/{name}": kept
        for name, value in parameters.items()
        for slot, kept in optimizer.state[value].items()
        if isinstance(kept, Tensor)
    }
    return parameters, slots
