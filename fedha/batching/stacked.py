"""Parameters of k clients as one tensor each, and the optimiser that moves them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedha.batching.updates import Updates
from fedha.config import TrainingConfig
from fedha.numerics import take_step
from fedha.optimizers import set_rate
from fedha.schedule import rate_factor
from fedha.steps import local_optimizer


class StackedParameters:
    """k clients that start from the same parameters and move apart.

    Most of torch's optimisers work entry by entry, so that one of them over stacked tensors is one for each client, as
    long as all step together. A client with fewer steps is to be written out after its last one; it moves on, unread.
    """

    def __init__(self, start: Mapping[str, Tensor], clients: int, training: TrainingConfig, round: int) -> None:
        """Stack the parameters.

        Args:
            start: Where every client starts, by name.
            clients: k.
            training: Which optimiser, and the schedule of its rate.
            round: From 1.
        """
        self._start = start
        self._now = {
            name: value.detach().expand(clients, *value.shape).clone(memory_format=torch.contiguous_format)
            for name, value in start.items()
        }
        self._optimizer = local_optimizer(training, self._now, start) if start else None
        if self._optimizer is None:
            return
        set_rate(self._optimizer, training.local.learning_rate * rate_factor(training, round))
        one_pass = isinstance(self._optimizer, torch.optim.SGD | torch.optim.Adam)  # over memory; AdamW is an Adam
        for group in self._optimizer.param_groups:
            group["foreach"], group["fused"] = False, one_pass

    def leaves(self, clients: slice) -> dict[str, Tensor]:
        """These clients' parameters as leaves of a new graph."""
        return {name: value[clients].detach().requires_grad_() for name, value in self._now.items()}

    def squared_norms(self, clients: slice) -> Tensor | float:
        """Each client's sum of squares over all parameters, [k]."""
        return sum(value[clients].square().flatten(1).sum(1) for value in self._now.values())

    def receive(self, clients: slice, gradients: Mapping[str, Tensor], decay: float) -> None:
        """Note the gradients of some clients for the next step, each [k, ...], and add `decay` times the parameters."""
        for name, gradient in gradients.items():
            now = self._now[name]
            if decay:
                gradient = gradient.add(now[clients], alpha=decay)
            if len(gradient) == len(now):
                now.grad = gradient.contiguous()  # fused optimisers read a gradient as if it lay like its parameter
            else:
                now.grad = torch.zeros_like(now) if now.grad is None else now.grad
                now.grad[clients] = gradient

    def step(self) -> None:
        """Move all clients by the gradients received since the last step."""
        if self._optimizer is not None:
            take_step(self._optimizer)

    def write(self, updates: Updates, clients: slice) -> None:
        """Hand over what these clients' update is, start minus now."""
        for name, value in self._now.items():
            updates.difference(name, self._start[name], value[clients], clients)

    def write_gradients(self, updates: Updates) -> None:
        """Hand over the gradients received since the last step."""
        for name, value in self._now.items():
            if value.grad is not None:
                updates.values(name, value.grad, slice(None))
