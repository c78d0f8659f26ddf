"""Whole domains at the global model: one pass for all clients of a chunk, without a graph."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedha.batching.chunk import Chunk
from fedha.batching.kept import products
from fedha.batching.network import Network, forward
from fedha.batching.rows import Batch
from fedha.exchange import Request


def first_products(chunk: Chunk, network: Network, request: Request) -> Tensor | None:
    """A leading linear layer's outputs without its bias, [k, n, H]; None where the first layer is another.

    They are kept for the round's later exchanges, if it has any.
    """
    place = network.leading_linear()
    if place is None:
        return None
    weight = request.parameters[f"{network.featurizer[place].name}.weight"]
    return products.of(chunk.kept, chunk.inputs.flatten(2), weight, keep=bool(request.measure))


def whole_features(
    chunk: Chunk, network: Network, request: Request, first: Tensor | None, batches: Sequence[Batch]
) -> list[Tensor]:
    """The features of each batch, [k, b, D - 1].

    Args:
        chunk: The clients.
        network: Their model, taken apart.
        request: Of the round.
        first: What `first_products` gives.
        batches: Which rows.
    """
    layers, rows = network.featurizer, chunk.inputs
    place = network.leading_linear()
    if place is not None and first is not None:
        bias = request.parameters.get(f"{layers[place].name}.bias")
        layers, rows = layers[place + 1 :], first if bias is None else first + bias
    shared = {name: value[None] for name, value in request.parameters.items()}
    with torch.no_grad():
        features = forward(layers, shared, rows.flatten(0, 1)[None]).view(*rows.shape[:2], -1)
    return [batch.take(features) for batch in batches]
