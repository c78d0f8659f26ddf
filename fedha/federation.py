"""The round as a plain loop: what every engine must reproduce, and the server's side that they share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedha.aggregation import apply_update, average_shares, risk_shares, server_optimizer
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request, Task
from fedha.recipes import STATISTICS
from fedha.reference import moving_average, weighted_mean
from fedha.training import Client, answer_measure, answer_train


@dataclass
class Server:
    """The server's state: the global model, its optimiser, and what a recipe remembers.

    Attributes:
        task: The run's task.
        parameters: The global model, by name; changed in place.
        examples: Training examples of each client, in client order; learnt from the first replies.
        averages: Moving averages of references, by statistic (FedIIR).
        weights: Group DRO's domain weights, in client order.
    """

    task: Task
    parameters: dict[str, Tensor]
    examples: list[int] = field(default_factory=list)
    averages: dict[str, Tensor] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.optimizer = server_optimizer(self.task.training, list(self.parameters.values()))

    def shares(self) -> list[float]:
        """Each client's weight in the averages, in client order."""
        return average_shares(self.task.training, self.examples)

    def request(
        self, round: int, index: int, references: Mapping[str, Tensor], measure: tuple[str, ...] = ()
    ) -> Request:
        """What one client is asked in one exchange."""
        share = self.shares()[index] if self.examples else 1.0
        return Request(self.task, round, self.parameters, references, measure, share)

    def refer(self, replies: Sequence[Reply]) -> dict[str, Tensor]:
        """Average one exchange's statistics into references."""
        replies = self._in_order(replies)
        references = weighted_mean([reply.tensors for reply in replies], self.shares())
        for term in self.task.recipe.terms:
            name = STATISTICS[term.statistic].reference
            if term.reference_average and name in references:
                self.averages[name] = moving_average(self.averages.get(name), references[name], term.reference_average)
                references[name] = self.averages[name]
        return references

    def step(self, round: int, replies: Sequence[Reply]) -> dict[str, Any]:
        """Average one round's updates, apply them, and return the round's numbers."""
        replies = self._in_order(replies)
        shares = self.shares()
        if self.task.recipe.weighting == "risk":
            previous = self.weights or [1 / len(replies)] * len(replies)
            shares = risk_shares(self.task.recipe, previous, [reply.metrics["risk"] for reply in replies])
            self.weights = shares
        update = weighted_mean([reply.tensors for reply in replies], shares)
        recipe = self.task.recipe
        if recipe.reset_optimizer and recipe.warmup_rounds and round == recipe.warmup_rounds + 1:
            self.optimizer = server_optimizer(self.task.training, list(self.parameters.values()))
        apply_update(self.task.training, self.optimizer, self.parameters, update, round)
        return _summary(self.task, round, replies)

    def _in_order(self, replies: Sequence[Reply]) -> list[Reply]:
        ordered = sorted(replies, key=lambda reply: reply.index)
        if [reply.index for reply in ordered] != list(range(len(ordered))):
            raise FedhaError(
                f"clients replied as {[reply.index for reply in ordered]}; each must have its own place "
                "from 0, so check partition-id in their node config"
            )
        self.examples = [reply.examples for reply in ordered]
        return ordered


def run_round(server: Server, clients: Sequence[Client], round: int) -> dict[str, Any]:
    """One round over clients in this process: measure, refer, train, aggregate.

    Args:
        server: Changed in place.
        clients: In client order.
        round: From 1.

    Returns:
        The round's numbers: loss, risk and accuracy by client, penalty by term, weight.
    """
    references: dict[str, Tensor] = {}
    server.examples = [len(client.domain.train) for client in clients]
    for measure in server.task.recipe.measurements():
        replies = [answer_measure(c, server.request(round, c.index, references, measure)) for c in clients]
        references |= server.refer(replies)
    replies = [answer_train(c, server.request(round, c.index, references)) for c in clients]
    return server.step(round, replies)


def _summary(task: Task, round: int, replies: Sequence[Reply]) -> dict[str, Any]:
    terms = [key for key in replies[0].metrics if key.startswith("penalty/")]
    return {
        "round": round,
        "loss": sum(reply.metrics["loss"] for reply in replies) / len(replies),
        "risk": {reply.client: reply.metrics["risk"] for reply in replies},
        "accuracy": {reply.client: reply.metrics["accuracy"] for reply in replies},
        "penalty": {
            key.removeprefix("penalty/"): sum(reply.metrics[key] for reply in replies) / len(replies) for key in terms
        },
        "weight": task.recipe.scheduled_weight(round),
    }
