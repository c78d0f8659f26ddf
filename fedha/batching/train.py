"""Training of one chunk: a gradient, or local steps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedha.batching.chunk import Chunk
from fedha.batching.metrics import Sums
from fedha.batching.network import Network
from fedha.batching.objective import Stacked
from fedha.batching.rows import Batch, steps, whole
from fedha.batching.start import begin
from fedha.batching.updates import Updates
from fedha.batching.weights import Weights, decay_of
from fedha.batching.whole import first_products, whole_features
from fedha.exchange import Request
from fedha.penalty import active_terms
from fedha.training import looks_at_start


@dataclass(frozen=True)
class Trained:
    """What training a chunk gives beside the updates.

    Attributes:
        metrics: Of each client.
        averages: Each client's moving averages after this round, by statistic.
    """

    metrics: list[dict[str, float]]
    averages: list[dict[str, Tensor]]


def one_gradient(chunk: Chunk, network: Network, request: Request, updates: Updates) -> Trained:
    """The gradient of each client's loss on its whole domain, at the global model.

    Args:
        chunk: The clients.
        network: Their model, taken apart.
        request: Of the round.
        updates: Where they go.
    """
    batches = whole(chunk.sizes, not active_terms(request.task.recipe, request.averaging_weight), chunk.inputs.device)
    weights = Weights(chunk, network, request, first_products(chunk, network, request), chunk.sizes[:1])
    seen = [weights.features(batch) for batch in batches]
    looked = seen if active_terms(request.task.recipe, request.averaging_weight) else []
    start = begin(chunk, network, request, batches[: len(looked)], [features for features, _ in looked])
    sums = Sums(len(chunk.clients))
    for batch, (features, leaves) in zip(batches, seen, strict=True):
        _descend(chunk, batch, features, leaves, request, start.objective, weights, sums)
    weights.write_gradients(updates)
    accuracy = {name: value for name, value in start.numbers.items() if name == "accuracy"}
    return Trained(sums.means(accuracy), start.averages)


def local_steps(chunk: Chunk, network: Network, request: Request, updates: Updates) -> Trained:
    """Each client's local steps, as `one_gradient`; the update is the global minus the local parameters."""
    pad, device = not active_terms(request.task.recipe, request.averaging_weight), chunk.inputs.device
    taken = list(steps(chunk.sizes, [client.client_id for client in chunk.clients], request, pad, device))
    lengths = [max(batch.rows for batch in batches) for batches, _ in taken]
    products = first_products(chunk, network, request)
    weights = Weights(chunk, network, request, products, lengths)
    batches = whole(chunk.sizes, pad, device) if looks_at_start(request) else []
    looked = whole_features(chunk, network, request, products, batches) if batches else []
    start = begin(chunk, network, request, batches, looked)
    sums = Sums(len(chunk.clients))
    for batches, ending in taken:
        for batch in batches:
            features, leaves = weights.features(batch)
            _descend(chunk, batch, features, leaves, request, start.objective, weights, sums)
        weights.step()
        for clients in ending:
            weights.write_moves(updates, clients)
    return Trained(sums.means(start.numbers), start.averages)


def _descend(
    chunk: Chunk,
    batch: Batch,
    features: Tensor,
    leaves: dict[str, Tensor],
    request: Request,
    objective: Stacked,
    weights: Weights,
    sums: Sums,
) -> None:
    """Take the loss's derivatives on one batch, and its numbers. L2 has its derivative added where weights move."""
    parts = objective.parts(leaves, features, batch.take(chunk.labels), batch)
    loss = parts["loss"]
    gradients = torch.autograd.grad(loss.sum(), list(leaves.values()), materialize_grads=True)  # zeros where unreached
    value = loss.detach()
    if decay := request.task.training.weight_decay:
        value = value + decay * weights.squared_norms(batch.clients) / objective.common.divisor
    sums.add(batch, {**parts, "loss": value})
    weights.receive(batch, dict(zip(leaves, gradients, strict=True)), decay_of(request))
