"""The server's step with an optimiser of torch's: the clients' mean gradient is its gradient."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from fedha import optimizers
from fedha.numerics import take_step
from fedha.rules.rule import Answers, Named, Rule

if TYPE_CHECKING:
    from fedha.config import TrainingConfig

_STEPS = "steps"  # that were taken since the optimiser was fresh


def torch_rule(name: str, options: Mapping[str, Any], training: "TrainingConfig") -> Rule:
    """The rule of one of torch's optimisers, to its bits.

    Its state is what torch keeps of each parameter, as ``slot/parameter``. An optimiser object is made for every step,
    over copies: a rule changes nothing in place.

    Args:
        name: Of `fedha.optimizers.known`.
        options: As the config gives them.
        training: For the parts of the rate, and what is decayed.

    Raises:
        FedhaError: The options do not fit.
    """
    taken = optimizers.checked(name, options)
    decayed = float(taken.get("weight_decay", optimizers.usual_options(name).get("weight_decay", 0.0)))

    def over(parameters: Named, rate: float) -> torch.optim.Optimizer:
        groups = optimizers.groups(parameters, training.rates, training.decay, decayed)
        return optimizers.make(name, taken, groups, rate)

    def init(parameters: Named) -> Named:
        return {_STEPS: torch.tensor(0), **_slots_of(over, parameters)}

    @torch.no_grad()
    def aggregate(state: Named, answers: Answers) -> tuple[Named, Named]:
        parameters = {key: value.detach().clone() for key, value in answers.parameters.items()}
        optimizer = over(parameters, answers.rate)
        steps = torch.tensor(0) if answers.restart else state[_STEPS]
        if steps:  # a fresh one fills its slots itself, as it begins
            for key, value in parameters.items():
                optimizer.state[value] = _below(state, key)
        for key, value in parameters.items():
            value.grad = answers.update[key].clone()  # some optimisers write to it
        take_step(optimizer)
        return parameters, {_STEPS: steps + 1, **_slots(optimizer, parameters)}

    return Rule(name, ("synchronous",), optimizers.usual_rate(name), init=init, aggregate=aggregate)


def _slots_of(over: Any, parameters: Named) -> dict[str, torch.Tensor]:
    """The slots that an optimiser will have, filled with zeros: what it keeps is known once it has stepped."""
    copies = {key: value.detach().clone() for key, value in parameters.items()}
    optimizer = over(copies, 0.0)
    for value in copies.values():
        value.grad = torch.zeros_like(value)
    take_step(optimizer)
    return {key: torch.zeros_like(value) for key, value in _slots(optimizer, copies).items()}


def _slots(optimizer: torch.optim.Optimizer, parameters: Named) -> dict[str, torch.Tensor]:
    return {
        f"{slot}/{key}": kept
        for key, value in parameters.items()
        for slot, kept in optimizer.state.get(value, {}).items()
        if isinstance(kept, torch.Tensor)
    }


def _below(state: Named, key: str) -> dict[str, torch.Tensor]:
    """Copies of one parameter's slots."""
    ends = f"/{key}"
    return {name.removesuffix(ends): value.clone() for name, value in state.items() if name.endswith(ends)}
