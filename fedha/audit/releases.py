"""From the messages of a round to releases: what each client sent, and what the server learned of all together."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedha.audit.overheard import Exchange
from fedha.audit.sent import Sent
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request
from fedha.federation import Server
from fedha.flower.wire import unpack_reply, unpack_request
from fedha.models.split import head_matrix
from fedha.models.state import RUNNING
from fedha.piggyback import RIDING
from fedha.rules.applied import EXTRA

_READ = ("query.measure", "train")
_MASKED = "masked"  # the one tensor of an answer under secure aggregation: fixed-point words with masks on
_STEP = 2.0**-47  # about a fixed-point step; of words with masks on, no step makes sense


@dataclass
class _Heard:
    """What one client has said in a round so far."""

    statistics: dict[str, Tensor] = field(default_factory=dict)
    update: dict[str, Tensor] | None = None


def releases_of(exchanges: Sequence[Exchange], server: Server, examples: Mapping[int, int]) -> list[Sent]:
    """The releases of one round: each client's in client order, then the aggregate's.

    A statistic that rode along with an update was measured at the model that the update starts from, so it belongs to
    the same release. Under secure aggregation a client's answer is one vector of words with masks on; it is read as
    who ignores the masks would read it.

    Args:
        exchanges: All of the round, in order.
        server: Right after the round.
        examples: How many each client holds, by client id: under secure aggregation no message tells.

    Raises:
        FedhaError: No client was asked to train.
    """
    heard: dict[int, _Heard] = {}
    request: Request | None = None
    for exchange in exchanges:
        for question, reply in _pairs(exchange):
            request = question
            names = question.measure if exchange.kind == "query.measure" else tuple(server.parameters)
            shapes = {name: server.learned[name].shape for name in names if name in server.learned}
            _sort(heard.setdefault(reply.client_id, _Heard()), exchange.kind, _read(reply.tensors, shapes))
    if request is None:
        raise FedhaError("no client answered in a round, so there is nothing to audit in it")
    own = [
        _sent(request, client_id, one.statistics, one.update, examples[client_id])
        for client_id, one in sorted(heard.items())
    ]
    together = _Heard()
    other = (*server.parameters, *server.extra_shapes)
    beside = ((name, value) for name, value in server.learned.items() if name not in other)
    measured = {name: value for name, value in beside if not name.startswith(RUNNING)}
    together.statistics = {name.removeprefix(RIDING): value for name, value in measured.items()}
    together.update = {name: value for name, value in server.learned.items() if name in server.parameters}
    count = sum(examples[client_id] for client_id in server.averaging_weights)
    total = _sent(request, None, together.statistics, together.update, count, server.averaging_weights)
    return [*own, total]


def shows_single_clients(exchanges: Sequence[Exchange]) -> bool:
    """Whether any client's own tensors reached the server as they are."""
    return any(set(reply.tensors) - {_MASKED} for exchange in exchanges for _, reply in _pairs(exchange))


def _pairs(exchange: Exchange) -> Iterator[tuple[Request, Reply]]:
    if exchange.kind in _READ:
        for node, answer in exchange.answered.items():
            yield unpack_request(exchange.asked[node], exchange.kind), unpack_reply(answer)


def _read(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> Mapping[str, Tensor]:
    """A client's tensors as they are; or, from masked words, what stands where they would."""
    if set(tensors) != {_MASKED}:
        return tensors
    words = tensors[_MASKED].to(torch.float64) * _STEP
    sizes = [math.prod(shape) for shape in shapes.values()]
    parts = words[: sum(sizes)].split(sizes)
    return {name: part.reshape(shape).float() for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _sort(one: _Heard, kind: str, tensors: Mapping[str, Tensor]) -> None:
    if kind != "train":
        one.statistics |= tensors
        return
    riding = {name: value for name, value in tensors.items() if name.startswith(RIDING)}
    one.statistics |= {name.removeprefix(RIDING): value for name, value in riding.items()}
    one.update = {name: value for name, value in tensors.items() if not name.startswith((RIDING, RUNNING, EXTRA))}


def _sent(
    request: Request,
    client_id: int | None,
    statistics: Mapping[str, Tensor],
    update: Mapping[str, Tensor] | None,
    examples: int,
    averaging_weights: Mapping[int, float] | None = None,
) -> Sent:
    parameters = {**request.parameters, **request.running} if request.running else request.parameters
    linear = {"head.weight", "head.bias"} <= parameters.keys()
    head = head_matrix(parameters["head.weight"], parameters["head.bias"]) if linear else None
    mode = request.task.training.mode
    return Sent(
        request.round, client_id, head, statistics, update, examples, parameters, mode, dict(averaging_weights or {})
    )
