"""One exchange a round: the next round's statistics and this model's evaluation ride along with the update.

In a deployment an exchange costs seconds, whatever it carries. A client that has the model can measure it, train from
it and evaluate it at once. What it measures serves the next round, so the mean that round r's clients are told is that
of their statistics at the model of round r - 1. Held against it, statistics would be kept from moving at all: the pull
would be towards where all of them were. So each client carries the mean forward by its own change,

    reference_e = mean(r - 1) + s_e(r) - s_e(r - 1),

whose mean over the clients is the exact one of round r: what is one round old is only how far a client is from the
others. Signs are drawn for the round that will use them. HGP's product is taken with the mean gradient that is known,
one round older still.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from fedha import answers, batching
from fedha.client import Client
from fedha.exchange import Reply, Request
from fedha.metrics.asked import NOTHING
from fedha.recipes import Recipe
from fedha.registry import reference_of
from fedha.table import FEATURE_SIZE

RIDING = "statistics/"  # before the name of a statistic that rides along


def riders(recipe: Recipe) -> tuple[str, ...]:
    """The statistics that the next round's references are made of."""
    return tuple(dict.fromkeys(name for group in recipe.measurements() for name in group))


def answer_train(client: Client, request: Request) -> Reply:
    """Train, and answer what rides along: statistics to `measure`, parts of the domain to `evaluate`."""
    measured, evaluated, trained = _apart(request)
    trained = replace(trained, references=_carried(client, trained))
    replies = [answers.answer_measure(client, measured)] if measured.measure else []
    for reply in replies:
        _keep(client, measured.round, reply.tensors)
    replies += [answers.answer_evaluate(client, evaluated)] if evaluated.evaluate else []
    return _joined(answers.answer_train(client, trained), replies)


def answer_train_together(
    clients: Sequence[Client], requests: Sequence[Request], *, later: bool = False
) -> list[Reply]:
    """As `answer_train`, for many clients; at once where all have the same references.

    Args:
        clients: In any order.
        requests: One each.
        later: As in `fedha.batching.answer_train`.
    """
    if requests[0].measure or any(client.state.rode_for for client in clients):
        return [answer_train(client, request) for client, request in zip(clients, requests, strict=True)]
    if not requests[0].evaluate:
        return batching.answer_train(clients, requests, later=later)
    _, evaluated, trained = zip(*(_apart(request) for request in requests), strict=True)
    evaluations = batching.answer_evaluate(clients, evaluated)
    updates = batching.answer_train(clients, trained, later=later)
    return [_joined(own, [other]) for own, other in zip(updates, evaluations, strict=True)]


def _apart(request: Request) -> tuple[Request, Request, Request]:
    """What a client is asked to measure, to evaluate and to train."""
    plain = replace(request, measure=(), evaluate=(), asked=NOTHING)
    next_round = replace(plain, kind="measure", measure=request.measure, round=request.round + 1)
    return next_round, replace(plain, kind="evaluate", evaluate=request.evaluate, asked=request.asked), plain


def _carried(client: Client, request: Request) -> Mapping[str, Tensor]:
    """References as this client takes them: carried forward where it knows what it sent for them."""
    sent = client.state.rode
    if client.state.rode_for != request.round:
        return request.references
    measured = answers.answer_measure(client, replace(request, kind="measure", measure=tuple(sent))).tensors
    entered = {reference_of(term.statistic): 1 - term.reference_average for term in request.task.recipe.terms}
    entered[FEATURE_SIZE.name] = 0.0  # a unit is all clients' own, and stays positive
    carried = {
        name: request.references[name] + entered.get(name, 1.0) * (measured[name] - value)
        for name, value in sent.items()
        if name in request.references
    }
    return {**request.references, **carried}


def _keep(client: Client, round: int, tensors: Mapping[str, Tensor]) -> None:
    client.state = replace(client.state, rode={**client.state.rode, **tensors}, rode_for=round)


def _joined(trained: Reply, others: Sequence[Reply]) -> Reply:
    tensors, metrics, sums = dict(trained.tensors), dict(trained.metrics), dict(trained.sums)
    for other in others:
        tensors |= {f"{RIDING}{name}": value for name, value in other.tensors.items()}
        metrics |= other.metrics
        sums |= other.sums
    return replace(trained, tensors=tensors, metrics=metrics, sums=sums)
