"""Answers of many clients at once: what `fedha.training` answers one by one, up to the order of sums."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from math import isfinite

import torch
from torch import Tensor

from fedha import cross_entropy
from fedha.batching import shared
from fedha.batching.chunk import Chunk, budget, group, stack
from fedha.batching.memory import measuring_bytes, training_bytes
from fedha.batching.network import forward, take_apart
from fedha.batching.objective import measure_stacked
from fedha.batching.rows import whole
from fedha.batching.train import local_steps, one_gradient
from fedha.batching.updates import Rows, Updates, WeightedSum
from fedha.batching.whole import first_products, whole_features
from fedha.data.domain import Examples
from fedha.data.groups import groups_of
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request
from fedha.metrics.asked import Asked
from fedha.metrics.counts import Numbers, numbers_of
from fedha.minibatches import measured_rows
from fedha.numerics import first_not_finite, marks_of
from fedha.pieces import rows_at_once
from fedha.reference import weighted_mean
from fedha.training import Holder, average_offsets, move_averages

_ROWS = 2048  # examples evaluated in one pass: these stay in the cache


def answer_measure(clients: Sequence[Holder], requests: Sequence[Request]) -> list[Reply]:
    """Measure the statistics that the requests ask for, on each client's whole domain at the global model.

    Args:
        clients: Of one model, on one device.
        requests: The same exchange for each; only `averaging_weight` may differ.

    Returns:
        A reply a client, in the order given.

    Raises:
        ValueError: The requests differ, or a domain is too small for a statistic. Whatever is raised, nothing has
            changed: `fedha.training` finds the client to blame.
        FedhaError: A statistic is not finite.
    """
    request = _common(requests)
    if shared.serves(clients, request):
        found = shared.measure_all(clients, request)
        _check_finite(torch.stack(marks_of([value for one in found for value in one.values()])), request)
        return _summed(clients, requests, [_corrected(*one, request) for one in zip(clients, found, strict=True)])
    network, head = take_apart(clients[0].model), _head(request)
    answers: dict[int, dict[str, Tensor]] = {}
    seen = [_with_drawn(client, request) for client in clients]
    sizes = [len(client.domain.train) for client in seen]
    for places in group(sizes, measuring_bytes(clients[0], request), budget(_device(request))):
        chunk = stack(seen, requests, places)
        batches = whole(chunk.sizes, False, chunk.inputs.device)
        first = first_products(chunk, network, request)
        for batch, features in zip(batches, whole_features(chunk, network, request, first, batches), strict=True):
            labels = batch.take(chunk.labels)
            values = measure_stacked(request.measure, clients[0].model, head, features, labels, request)
            _check_finite(torch.stack([value.abs().amax() for value in values.values()]), request)
            for row, place in enumerate(places[batch.clients]):
                answers[place] = {name: value[row] for name, value in values.items()}
    return _summed(
        clients, requests, [_corrected(client, answers[place], request) for place, client in enumerate(clients)]
    )


def _summed(
    clients: Sequence[Holder], requests: Sequence[Request], measured: Sequence[Mapping[str, Tensor]]
) -> list[Reply]:
    """Replies with each client's statistics, or with their weighted sum where that is enough."""
    if not requests[0].additive:
        return [client.reply(own) for client, own in zip(clients, measured, strict=True)]
    total = weighted_mean(zip(measured, (one.averaging_weight for one in requests), strict=True))
    return _weighed(clients, total, [{} for _ in clients])


def answer_train(clients: Sequence[Holder], requests: Sequence[Request], *, later: bool = False) -> list[Reply]:
    """Minimise risk plus penalty from the global model, and return the updates.

    The update is what the server subtracts: the gradient in synchronous mode, the global minus the local parameters in
    local mode. All updates of a parameter lie in one tensor, of which the replies hold rows; where the requests are
    additive, the first reply holds the clients' weighted sum, and the others nothing.

    Args:
        clients: Of one model, on one device; their moving averages move on.
        requests: As in `answer_measure`.
        later: Whether somebody looks at the numbers of their sum (`fedha.verdict.check_mean`), and ends the run: a card
            then need not be waited for.

    Returns:
        A reply a client, in the order given.

    Raises:
        FedhaError: An update is not finite.
        ValueError: As in `answer_measure`.
    """
    request = _common(requests)
    if shared.serves(clients, request):
        return _trained_at_once(clients, requests, later)
    train = one_gradient if request.task.training.mode == "synchronous" else local_steps
    network = take_apart(clients[0].model)
    rows = () if request.additive else (len(clients),)
    updates = {name: value.new_zeros(*rows, *value.shape) for name, value in request.parameters.items()}
    metrics: dict[int, dict[str, float]] = {}
    averages: dict[int, dict[str, Tensor]] = {}
    order: list[int] = []
    seen = [_with_drawn(client, request) for client in clients]
    sizes = [len(client.domain.train) for client in seen]
    for places in group(sizes, training_bytes(clients[0], request), budget(_device(request))):
        chunk = stack(seen, requests, places)
        into = _updates(updates, chunk, len(order), additive=request.additive)
        trained = train(chunk, network, request, into)
        _check_finite(into.finite, request)
        metrics |= dict(zip(places, trained.metrics, strict=True))
        averages |= dict(zip(places, trained.averages, strict=True))
        order += places
    for place, client in enumerate(clients):  # only now that nothing can fail any more
        client.state = replace(client.state, averages={**client.state.averages, **averages[place]})
        client.last_pass = None
    if request.additive:
        return _weighed(clients, updates, [metrics[place] for place in range(len(clients))])
    row = {place: number for number, place in enumerate(order)}
    return [
        client.reply({name: value[row[place]] for name, value in updates.items()}, metrics[place])
        for place, client in enumerate(clients)
    ]


def _trained_at_once(clients: Sequence[Holder], requests: Sequence[Request], later: bool) -> list[Reply]:
    trained = shared.train_all(clients, requests)
    if not all(isfinite(value) for one in trained.metrics for value in one.values()):
        raise _not_finite(requests[0])
    if not later and first_not_finite(trained.update) is not None:
        raise _not_finite(requests[0])
    for client, own in zip(clients, trained.own, strict=True):  # only now that nothing can fail any more
        move_averages(client, requests[0].task.recipe, own)
        client.last_pass = None
    return _weighed(clients, trained.update, trained.metrics)


def answer_evaluate(clients: Sequence[Holder], requests: Sequence[Request]) -> list[Reply]:
    """Evaluate the global model on the parts of the domains that the requests name: held_out, train.

    Args, Returns, Raises: As in `answer_measure`.
    """
    request = _common(requests)
    numbers: list[Numbers] = [{} for _ in clients]
    for name in request.evaluate:
        parts: list[Examples] = [getattr(client.domain, name) for client in clients]
        for place, values in enumerate(_evaluate(clients[0], request.parameters, parts, request.asked)):
            numbers[place] |= {f"{name}/{key}": value for key, value in values.items()}
    return [client.reply({}, own) for client, own in zip(clients, numbers, strict=True)]


def _evaluate(
    client: Holder, parameters: Mapping[str, Tensor], parts: Sequence[Examples], wanted: Asked
) -> list[Numbers]:
    """Accuracy, risk and number of examples of each part, and what more is wanted; several parts in one pass."""
    network = take_apart(client.model)
    layers, most = (*network.featurizer, *network.head), min(_ROWS, rows_at_once(client.model, parts[0].form, (), 1))
    shared = {name: value[None] for name, value in parameters.items()}
    answers: list[Numbers] = [{"examples": 0} for _ in parts]
    filled = [place for place, part in enumerate(parts) if len(part)]
    for chosen in group([len(parts[place]) for place in filled], lambda size: size, _ROWS, ordered=False):
        places = [filled[one] for one in chosen]
        inputs = torch.cat([parts[place].take() for place in places])
        labels = torch.cat([parts[place].labels for place in places])
        seen, known = list[Tensor](), list[Tensor]()
        with torch.no_grad():
            for rows, truth in zip(inputs.split(most), labels.split(most), strict=True):
                logits = forward(layers, shared, rows[None])[0]
                both = cross_entropy.losses(logits, truth), cross_entropy.hits(logits, truth)
                seen.append(torch.stack([one.double() for one in both]))
                known += [logits] if wanted else []
        sizes = [len(parts[place]) for place in places]
        sums = [own.sum(1).tolist() for own in torch.cat(seen, 1).split(sizes, 1)]
        for place, size, (risk, correct) in zip(places, sizes, sums, strict=True):
            answers[place] = {"accuracy": correct / size, "risk": risk / size, "examples": size}
        if wanted:
            apart = zip(places, torch.cat(known).split(sizes), torch.cat(seen, 1).split(sizes, 1), strict=True)
            for place, logits, (losses, hits) in apart:
                groups = groups_of(parts[place], wanted.groups)
                more = numbers_of(losses, hits, logits, parts[place].labels, wanted, groups)
                answers[place] = {**more, **answers[place]}
    return answers


def _with_drawn(client: Holder, request: Request) -> Holder:
    """The client with the examples alone that it measures in this round; its state is its own."""
    rows = measured_rows(request, len(client.domain.train), client.client_id)
    if rows is None or request.task.training.mode == "local":
        return client
    drawn = copy(client)
    drawn.domain = replace(client.domain, train=client.domain.train.select(rows))
    return drawn


def _updates(updates: dict[str, Tensor], chunk: Chunk, done: int, *, additive: bool) -> Updates:
    """Where a chunk's updates go, after those of `done` clients."""
    if additive:
        some = next(iter(updates.values()))
        return WeightedSum(updates, some.new_tensor(chunk.averaging_weights))
    return Rows({name: value[done : done + len(chunk.clients)] for name, value in updates.items()})


def _weighed(
    clients: Sequence[Holder], total: Mapping[str, Tensor], metrics: Sequence[Mapping[str, float]]
) -> list[Reply]:
    """Replies of which the first has what all of them sent, weighed and added up."""
    return [
        client.reply(total if place == 0 else {}, own, weighed=True)
        for place, (client, own) in enumerate(zip(clients, metrics, strict=True))
    ]


def _corrected(client: Holder, tensors: dict[str, Tensor], request: Request) -> dict[str, Tensor]:
    """Statistics with what the client's moving averages add."""
    offsets = average_offsets(client, request.task.recipe)
    return {name: value + offsets[name] if name in offsets else value for name, value in tensors.items()}


def _head(request: Request) -> dict[str, Tensor]:
    return {name: value for name, value in request.parameters.items() if name.startswith("head.")}


def _device(request: Request) -> torch.device:
    return next(iter(request.parameters.values())).device


def _common(requests: Sequence[Request]) -> Request:
    """The first of requests that agree but for their share."""
    first = requests[0]
    for other in {id(one): one for one in requests[1:] if one is not first}.values():
        same = (other.task, other.kind, other.round) == (first.task, first.kind, first.round)
        same = same and (other.measure, other.evaluate, other.asked) == (first.measure, first.evaluate, first.asked)
        for mine, theirs in ((first.parameters, other.parameters), (first.references, other.references)):
            same = same and (theirs is mine or _equal(mine, theirs))
        if not same:
            raise ValueError("the requests are not of one exchange; answer them one by one")
    return first


def _equal(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return mine.keys() == theirs.keys() and all(
        theirs[name] is value or torch.equal(theirs[name], value) for name, value in mine.items()
    )


def _check_finite(largest: Tensor, request: Request) -> None:
    if not bool(largest.isfinite().all()):
        raise _not_finite(request)


def _not_finite(request: Request) -> FedhaError:
    return FedhaError(
        f"a loss or statistic is not finite in round {request.round}; lower training.learning_rate or the recipe's "
        "weight"
    )
