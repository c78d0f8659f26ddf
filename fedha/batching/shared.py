"""Synchronous clients of one process: all stand at the global model, so that one pass of all their rows serves all.

Each client's statistics are of its own slice of the features. Where the server needs no more than the clients' weighted
sum, that is the gradient of ``sum_e share_e loss_e``: one backward pass, as in a loop that has all domains at hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedha import cross_entropy
from fedha.exchange import Request
from fedha.inputs import arguments, joined
from fedha.measurement import HeadView, measure, view_head
from fedha.minibatches import measured_rows, step_sizes
from fedha.models.calls import call_with
from fedha.objective import Objective, derivatives
from fedha.targets import softening
from fedha.training import (
    Holder,
    average_offsets,
    circumstances,
    expect_next,
    known_at_start,
    objective_of,
    rows_of_a_piece,
)

Named = dict[str, Tensor]

PIECES = (
    4  # whose memory the clients' joint pass may take: one by one, each would keep a piece from measuring to training
)


@dataclass(frozen=True)
class Pass:
    """Clients' rows of a round at one model, with their graph.

    Attributes:
        round: Which.
        clients: Their places in client order.
        parameters: Leaves, by name.
        view: The head at them.
        features: Prepared features, [n, D], client after client.
        labels: [n], or soft targets, [n, C].
        sizes: Rows of each client.
        given: The request's parameters, of which these are leaves.
        versions: Theirs, which count what was changed in place.
    """

    round: int
    clients: tuple[int, ...]
    parameters: Named
    view: HeadView
    features: Tensor
    labels: Tensor
    sizes: tuple[int, ...]
    given: Mapping[str, Tensor]
    versions: tuple[int, ...]

    def is_at(self, request: Request) -> bool:
        """Whether a request's model is the one of this pass; comparing large ones takes as long as copying them."""
        theirs = request.parameters
        if theirs is self.given:
            return _versions(theirs) == self.versions
        return all(torch.equal(self.parameters[name], value) for name, value in theirs.items())

    def apart(self) -> list[tuple[Tensor, Tensor]]:
        """Each client's features and labels."""
        return list(zip(self.features.split(self.sizes), self.labels.split(self.sizes), strict=True))


@dataclass(frozen=True)
class Trained:
    """What one backward pass gives.

    Attributes:
        update: The clients' weighted sum, by parameter name.
        metrics: Of each client.
        own: Each client's statistics at the round's start, which its moving averages take in.
    """

    update: Named
    metrics: list[dict[str, float]]
    own: list[Named]


def serves(clients: Sequence[Holder], request: Request) -> bool:
    """Whether one pass gives what is asked: all stand at one model, their sum is enough, and it is not too large."""
    if request.task.training.mode != "synchronous" or not request.additive:
        return False
    rows = sum(step_sizes(request.task, len(client.domain.train))[0] for client in clients)
    return rows <= rows_of_a_piece(clients[0], request, PIECES)


def measure_all(clients: Sequence[Holder], request: Request) -> list[Named]:
    """Each client's statistics that a request asks for, without what its moving averages add."""
    seen = _pass(clients, request)
    return _measured(clients, seen, request, request.measure)


def train_all(clients: Sequence[Holder], requests: Sequence[Request]) -> Trained:
    """The gradient of the clients' weighted loss, and each one's numbers; nobody's state moves.

    Args:
        clients: Of one model.
        requests: The same exchange for each; only `averaging_weight` may differ.
    """
    request, seen = requests[0], _pass(clients, requests[0])
    known = known_at_start(request.task.recipe)
    own = _measured(clients, seen, request, known) if known else [{} for _ in clients]
    objectives = [
        objective_of(client, asked, mine, average_offsets(client, asked.task.recipe))
        for client, asked, mine in zip(clients, requests, own, strict=True)
    ]
    parts = _parts(seen, objectives)
    loss = torch.stack([asked.averaging_weight * one["loss"] for asked, one in zip(requests, parts, strict=True)]).sum()
    metrics = _numbers(parts)  # before the way back: what follows is then prepared while a card computes that
    clients[0].last_pass = None  # its graph serves once, whatever becomes of the answer
    return Trained(derivatives(loss, seen.parameters), metrics, own)


def _parts(seen: Pass, objectives: Sequence[Objective]) -> list[Named]:
    norms = objectives[0].norms(seen.parameters)
    if not any(objective.terms for objective in objectives):
        return _risks(seen, objectives, norms)
    found = []
    for objective, (features, labels) in zip(objectives, seen.apart(), strict=True):
        with cross_entropy.shared():
            parts = objective.parts(*objective.measure(seen.view, features, labels), norms)
            right = seen.view.functions.accuracy(*seen.view.arguments, features, labels)  # shares the risk's logits
        found.append({**parts, "accuracy": right})
    return found


def _risks(seen: Pass, objectives: Sequence[Objective], norms: Tensor | float) -> list[Named]:
    """Where nothing is aligned: the risks of all rows at once."""
    logits = seen.view.functions.logits(*seen.view.arguments, seen.features, seen.labels)
    risks = [own.mean() for own in cross_entropy.losses(logits, seen.labels).split(seen.sizes)]
    right = [own.mean() for own in cross_entropy.hits(logits, seen.labels).to(logits.dtype).split(seen.sizes)]
    return [
        {**objective.parts(risk, {}, norms), "accuracy": own}
        for objective, risk, own in zip(objectives, risks, right, strict=True)
    ]


def _numbers(parts: Sequence[Named]) -> list[dict[str, float]]:
    """As numbers, all at once."""
    values = torch.stack([value.detach() for one in parts for value in one.values()]).tolist()
    names = list(parts[0])
    rows = [values[start : start + len(names)] for start in range(0, len(values), len(names))]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _measured(clients: Sequence[Holder], seen: Pass, request: Request, names: Sequence[str]) -> list[Named]:
    found = []
    for client, (features, labels) in zip(clients, seen.apart(), strict=True):
        around, features = circumstances(client, request, reference=True), features.detach()
        with torch.no_grad(), cross_entropy.shared():
            found.append({name: measure(name, seen.view, features, labels, around) for name in names})
    return found


def _pass(clients: Sequence[Holder], request: Request) -> Pass:
    """The round's pass; what the first client keeps of it serves the round's later exchanges."""
    kept, client_ids = clients[0].last_pass, tuple(client.client_id for client in clients)
    if isinstance(kept, Pass) and (kept.round, kept.clients) == (request.round, client_ids) and kept.is_at(request):
        return kept
    fresh = _computed(clients, request, client_ids)
    clients[0].last_pass = fresh
    return fresh


def _computed(clients: Sequence[Holder], request: Request, client_ids: tuple[int, ...]) -> Pass:
    model = clients[0].model
    parameters = _leaves(model, request.parameters)
    inputs, labels = [], []
    for client in clients:
        rows = measured_rows(request, len(client.domain.train), client.client_id)
        inputs.append(client.domain.train.take(rows, (request.task.seed, request.round, client.client_id)))
        soften = softening(request.task.training, model, client.domain.train)
        labels.append(soften(client.domain.train.labels[slice(None) if rows is None else rows]))
    for client in clients:
        expect_next(client, request, len(client.domain.train))
    view = view_head(model, parameters)
    own = {name.removeprefix("featurizer."): v for name, v in parameters.items() if name.startswith("featurizer.")}
    features = view.prepare(call_with(model.featurizer, own, *arguments(joined(inputs))))
    sizes, versions = tuple(map(len, labels)), _versions(request.parameters)
    joint = torch.cat(labels)
    return Pass(request.round, client_ids, parameters, view, features, joint, sizes, request.parameters, versions)


def _leaves(model: nn.Module, parameters: Mapping[str, Tensor]) -> Named:
    """Leaves at these parameters: copies, since nobody's network is handed the model itself."""
    values = list(parameters.values())
    if _only_reads(model):
        leaves = [value.detach() for value in values]
    else:
        leaves = [torch.empty_like(value) for value in values]
        with torch.no_grad():
            torch._foreach_copy_(leaves, values)
    return {name: value.requires_grad_() for name, value in zip(parameters, leaves, strict=True)}


def _versions(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    return tuple(value._version for value in tensors.values())


def _only_reads(model: nn.Module) -> bool:
    """Whether a network is made of torch's own layers alone, none of which writes to its parameters."""
    return all(
        type(one).__module__.startswith("torch.nn.modules.") and not one._forward_hooks and not one._forward_pre_hooks
        for one in model.modules()
        if one is not model
    )
