"""What a chunk knows at the round's start: risk, accuracy, own statistics, and where the moving averages stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha import cross_entropy
from fedha.batching.chunk import Chunk
from fedha.batching.network import Network, forward
from fedha.batching.objective import Named, Stacked, common_circumstances, measure_stacked, stacked_objective
from fedha.batching.rows import Batch
from fedha.exchange import Request
from fedha.objective import Objective
from fedha.penalty import active_terms
from fedha.recipes import Recipe, Term
from fedha.reference import moving_average
from fedha.training import average_offsets


@dataclass(frozen=True)
class Start:
    """A chunk at the global model.

    Attributes:
        numbers: Risk, in nats, and accuracy of each client's whole domain, [k] each; empty where nobody looks.
        objective: The round's loss.
        averages: Each client's moving averages after this round, by statistic; not yet the clients' own.
    """

    numbers: dict[str, Tensor]
    objective: Stacked
    averages: list[dict[str, Tensor]]


def begin(
    chunk: Chunk, network: Network, request: Request, batches: Sequence[Batch], features: Sequence[Tensor]
) -> Start:
    """Look at a chunk's whole domains at the global model.

    Args:
        chunk: The clients.
        network: Their model, taken apart.
        request: Of the round.
        batches: All rows of every client, as batches; none where nobody looks at the start.
        features: The featurizer's output on each, [k, b, D - 1]; no derivative is taken.
    """
    terms = active_terms(request.task.recipe, request.averaging_weight)
    features = [one.detach() for one in features]
    labels = [batch.take(chunk.labels) for batch in batches]
    head = {name: value for name, value in request.parameters.items() if name.startswith("head.")}
    names = [term.statistic for term in terms if term.target == "others" or term.client_average]
    model = chunk.clients[0].model
    measured = [measure_stacked(names, model, head, *data, request) for data in zip(features, labels, strict=True)]
    own = {name: torch.cat([one[name] for one in measured]) for name in names}
    recipe, weights = request.task.recipe, next(iter(head.values())).new_tensor(chunk.averaging_weights)
    common = Objective(
        recipe, request.round, terms, 0.0, common_circumstances(request), {}, {}, request.averaging_weight
    )
    offsets = _offsets(chunk, recipe, own)
    objective = stacked_objective(model, network, common, chunk.clients, request, weights, own, offsets)
    numbers = _numbers(network, head, features, labels, batches) if features else {}
    return Start(numbers, objective, _moved(chunk, terms, own))


def _numbers(
    network: Network, head: Named, features: Sequence[Tensor], labels: Sequence[Tensor], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    shared = {name: value[None] for name, value in head.items()}
    risks, accuracies = [], []
    with torch.no_grad():
        for batch, seen, truth in zip(batches, features, labels, strict=True):
            logits = forward(network.head, shared, seen.flatten(0, 1)[None])
            logits = logits.view(*seen.shape[:2], -1)
            risks.append(batch.mean(cross_entropy.losses(logits, truth)))
            accuracies.append(batch.mean(cross_entropy.hits(logits, truth).to(logits.dtype)))
    return {"risk": torch.cat(risks), "accuracy": torch.cat(accuracies)}


def _offsets(chunk: Chunk, recipe: Recipe, own: Mapping[str, Tensor]) -> Named:
    """What each moving average adds, [k, ...]: zero for a client that has none yet."""
    offsets = [average_offsets(client, recipe) for client in chunk.clients]
    names = dict.fromkeys(name for one in offsets for name in one if name in own)
    zero = {name: torch.zeros_like(own[name][0]) for name in names}
    return {name: torch.stack([one.get(name, zero[name]) for one in offsets]) for name in names}


def _moved(chunk: Chunk, terms: Sequence[Term], own: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    averaged = [term for term in terms if term.client_average]
    return [
        {
            term.statistic: moving_average(
                client.state.averages.get(term.statistic), own[term.statistic][place], term.client_average
            )
            for term in averaged
        }
        for place, client in enumerate(chunk.clients)
    ]
