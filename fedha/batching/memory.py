"""What one client adds to a chunk's working memory, counted in numbers, roughly."""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import torch

from fedha.batching.first_layer import pays
from fedha.batching.network import Layer, forward, take_apart
from fedha.exchange import Request
from fedha.inputs import Form
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
    form = client.domain.train.form
    numbers, itemsize = form.numbers, next(client.model.parameters()).itemsize
    weights = sum(value.numel() for value in request.parameters.values())
    seen = _numbers_seen(client)
    names = [term.statistic for term in active_terms(request.task.recipe, request.averaging_weight)]
    place = network.leading_linear()
    first = 0 if place is None else request.parameters[f"{network.featurizer[place].name}.weight"].numel()
    hidden = first // numbers

    def count(examples: int) -> int:
        sizes = step_sizes(request.task, examples)
        rows = max(sizes)
        batch = 2 * rows * seen + _statistics(names, client, request, rows)
        if training.mode == "synchronous":
            return itemsize * (batch + rows * numbers + _COPIES * (weights - first))
        if first and pays(examples, numbers, len(sizes), rows, training):
            kept = examples * examples + 2 * examples * hidden
            return itemsize * (batch + kept + _COPIES * (weights - first))
        return itemsize * (batch + rows * numbers + _COPIES * weights)

    return cache(count)


def measuring_bytes(client: Holder, request: Request) -> Callable[[int], int]:
    """As `training_bytes`, for measuring."""
    itemsize = next(client.model.parameters()).itemsize
    seen = client.domain.train.form.numbers + _numbers_seen(client)
    return cache(
        lambda examples: itemsize * (examples * seen + _statistics(request.measure, client, request, examples))
    )


def multiplications(client: Holder, request: Request) -> int:
    """Multiplications of one step of a client, forward, in the layers' products.

    Raises:
        Exception: What torch.func.vmap raises for a layer that it cannot take.
    """
    idle = unreached(client.model, client.domain.train.form)
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
    return _layers_on_paper(client.model, client.domain.train.form)


@lru_cache(maxsize=8)
def _layers_on_paper(model: SplitModel, form: Form) -> tuple[tuple[Layer, torch.Size], ...]:
    """Each layer of a model and the shape of what it puts out for one example, [1, 1, ...]; nothing is computed.

    Kept, because torch takes longer over tensors without numbers than over a small client's whole step.
    """
    network = take_apart(model)
    rows = form.zeros(1, 1, device="meta")
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
