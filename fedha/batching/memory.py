"""What one client adds to a chunk's working memory, counted in numbers, roughly."""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import torch

from fedha.batching.first_layer import pays
from fedha.batching.network import Layer, forward, take_apart
from fedha.exchange import Request
from fedha.measurement import space_of, view_head
from fedha.minibatches import step_sizes
from fedha.models.reach import unreached
from fedha.models.split import SplitModel
from fedha.penalty import active_terms
from fedha.registry import statistic
from fedha.training import Holder

_COPIES = 2  # of a parameter: itself and its gradient


def training_bytes(client: Holder, request: Request) -> Callable[[int], int]:
    """Bytes that a step touches for a client of n examples, as a function of n.

    Args:
        client: Whose model and input shape all have.
        request: Of the round.
    """
    network, training = take_apart(client.model), request.task.training
    inputs = client.domain.train.inputs[:1]
    weights = sum(value.numel() for value in request.parameters.values())
    seen = _numbers_seen(client)
    names = [term.statistic for term in active_terms(request.task.recipe, request.share)]
    place = network.leading_linear()
    first = 0 if place is None else request.parameters[f"{network.featurizer[place].name}.weight"].numel()
    hidden = first // inputs.numel()

    def count(examples: int) -> int:
        sizes = step_sizes(request.task, examples)
        rows = max(sizes)
        batch = 2 * rows * seen + _statistics(names, client, request, rows)
        if training.mode == "synchronous":
            return inputs.itemsize * (batch + rows * inputs.numel() + _COPIES * (weights - first))
        if first and pays(examples, inputs.numel(), len(sizes), rows, training):
            kept = examples * examples + 2 * examples * hidden
            return inputs.itemsize * (batch + kept + _COPIES * (weights - first))
        return inputs.itemsize * (batch + rows * inputs.numel() + _COPIES * weights)

    return cache(count)


def measuring_bytes(client: Holder, request: Request) -> Callable[[int], int]:
    """As `training_bytes`, for measuring."""
    inputs = client.domain.train.inputs[:1]
    seen = inputs.numel() + _numbers_seen(client)
    return cache(
        lambda examples: inputs.itemsize * (examples * seen + _statistics(request.measure, client, request, examples))
    )


def multiplications(client: Holder, request: Request) -> int:
    """Multiplications of one step of a client, forward, in the layers' products.

    Raises:
        Exception: What torch.func.vmap raises for a layer that it cannot take.
    """
    idle = unreached(client.model, client.domain.train.inputs.shape[1:])
    return max(step_sizes(request.task, len(client.domain.train))) * sum(
        weight.numel() * shape[3:].numel()
        for layer, shape in _of(client)
        for name, weight in layer.module.named_parameters()
        if weight.dim() > 1 and f"{layer.name}.{name}" not in idle
    )


def _numbers_seen(client: Holder) -> int:
    """Numbers that all layers put out for one example."""
    return sum(shape.numel() for _, shape in _of(client))


def _of(client: Holder) -> tuple[tuple[Layer, torch.Size], ...]:
    inputs = client.domain.train.inputs
    return _layers_on_paper(client.model, inputs.shape[1:], inputs.dtype)


@lru_cache(maxsize=8)
def _layers_on_paper(
    model: SplitModel, shape: torch.Size, precision: torch.dtype
) -> tuple[tuple[Layer, torch.Size], ...]:
    """Each layer of a model and the shape of what it puts out for one example, [1, 1, ...]; nothing is computed.

    Kept, because torch takes longer over tensors without numbers than over a small client's whole step.
    """
    network = take_apart(model)
    rows = torch.empty(1, 1, *shape, dtype=precision, device="meta")
    shared = {name: value.detach()[None].to("meta") for name, value in model.named_parameters()}
    found = []
    for layer in (*network.featurizer, *network.head):
        rows = forward([layer], shared, rows)
        found.append((layer, rows.shape))
    return tuple(found)


def _statistics(names: Sequence[str], client: Holder, request: Request, rows: int) -> int:
    """Numbers that statistics hold at once for one client."""
    head = {name: value for name, value in request.parameters.items() if name.startswith("head.")}
    view = view_head(client.model, head)
    space = space_of(view, rows, request.task.recipe.probes)
    return 3 * sum(rows * row.each(space) + row.once(space) for row in map(statistic, names))
