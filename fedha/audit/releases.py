"""From the messages of a round to releases: what each client sent, and what the server learned of all together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fedha.audit.overheard import Exchange
from fedha.audit.sent import Sent
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request
from fedha.flower.wire import unpack_reply, unpack_request
from fedha.models.split import head_matrix
from fedha.piggyback import RIDING

_READ = ("query.measure", "train")
_PLAIN = "tensors"  # the record of a reply whose tensors are a client's own, as they are


@dataclass
class _Heard:
    """What one client has said in a round so far."""

    examples: int
    share: float
    statistics: dict[str, Tensor] = field(default_factory=dict)
    update: dict[str, Tensor] | None = None


def releases_of(exchanges: Sequence[Exchange]) -> list[Sent]:
    """The releases of one round: each client's in client order, then the aggregate's.

    A statistic that rode along with an update was measured at the model that the update starts from, so it belongs to
    the same release.

    Args:
        exchanges: All of a round, in order.

    Raises:
        FedhaError: No client's own tensors are among them.
    """
    heard: dict[int, _Heard] = {}
    request: Request | None = None
    for exchange in exchanges:
        if exchange.kind not in _READ:
            continue
        for question, reply in _pairs(exchange):
            request = question
            one = heard.setdefault(reply.index, _Heard(reply.examples, question.share))
            _sort(one, exchange.kind, reply.tensors)
    if request is None:
        raise FedhaError(
            f"no client's own tensors were among the messages of round {exchanges[0].round if exchanges else '?'}; "
            "attacks on single clients have nothing to read"
        )
    own = [_sent(request, place, one) for place, one in sorted(heard.items())]
    return [*own, _mean(own, [heard[place].share for place in sorted(heard)], request)]


def opened(content: Mapping[str, object]) -> bool:
    """Whether an answer holds a client's own tensors as they are, not a sum over clients and not masked."""
    return _PLAIN in content


def _pairs(exchange: Exchange) -> Iterator[tuple[Request, Reply]]:
    for node, answer in exchange.answered.items():
        if opened(answer):
            yield unpack_request(exchange.asked[node]), unpack_reply(answer)


def _sort(one: _Heard, kind: str, tensors: Mapping[str, Tensor]) -> None:
    if kind != "train":
        one.statistics |= tensors
        return
    riding = {name: value for name, value in tensors.items() if name.startswith(RIDING)}
    one.statistics |= {name.removeprefix(RIDING): value for name, value in riding.items()}
    one.update = {name: value for name, value in tensors.items() if name not in riding}


def _sent(request: Request, place: int, one: _Heard) -> Sent:
    parameters = request.parameters
    linear = {"head.weight", "head.bias"} <= parameters.keys()
    head = head_matrix(parameters["head.weight"], parameters["head.bias"]) if linear else None
    mode = request.task.training.mode
    return Sent(request.round, place, head, one.statistics, one.update, one.examples, parameters, mode)


def _mean(own: Sequence[Sent], weights: Sequence[float], request: Request) -> Sent:
    """What the server makes of them; updates that it weighs by risk (group DRO) are left out, their weights are its."""
    total = sum(weights)
    shares = {one.client: weight / total for one, weight in zip(own, weights, strict=True) if one.client is not None}

    def mean(each: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        common = [name for name in each[0] if all(name in one for one in each)]
        return {
            name: sum((share * one[name] for share, one in zip(shares.values(), each, strict=True)), 0 * each[0][name])
            for name in common
        }

    updates = [one.update for one in own if one.update is not None]
    known = len(updates) == len(own) and request.task.recipe.weighting == "average"
    first = own[0]
    return Sent(
        first.round,
        None,
        first.head,
        mean([one.statistics for one in own]),
        mean(updates) if known else None,
        sum(one.examples for one in own),
        first.parameters,
        first.mode,
        shares,
    )
