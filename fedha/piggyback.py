"""One exchange a round: the next round's statistics and this model's evaluation ride along with the update.

In a deployment an exchange costs seconds, whatever it carries. A client that has the model can measure it, train from
it and evaluate it at once. What it measures serves the next round, so references are one round old: round r's clients
hold their statistics, at the model of round r, against the mean of those at the model of round r - 1. Signs are drawn
for the round that will use them. HGP's product is taken with the mean gradient that is known, one round older still.
"""

from collections.abc import Sequence
from dataclasses import replace

from fedha import batching, training
from fedha.exchange import Reply, Request
from fedha.recipes import Recipe
from fedha.training import Client

RIDING = "statistics/"  # before the name of a statistic that rides along


def riders(recipe: Recipe) -> tuple[str, ...]:
    """The statistics that the next round's references are made of."""
    return tuple(dict.fromkeys(name for group in recipe.measurements() for name in group))


def answer_train(client: Client, request: Request) -> Reply:
    """Train, and answer what rides along: statistics to `measure`, parts of the domain to `evaluate`."""
    measured, evaluated, trained = _apart(request)
    replies = [training.answer_measure(client, measured)] if measured.measure else []
    replies += [training.answer_evaluate(client, evaluated)] if evaluated.measure else []
    return _joined(training.answer_train(client, trained), replies)


def answer_train_together(clients: Sequence[Client], requests: Sequence[Request]) -> list[Reply]:
    """As `answer_train`, for many clients at once."""
    measured, evaluated, trained = zip(*(_apart(request) for request in requests), strict=True)
    replies = [batching.answer_measure(clients, measured)] if measured[0].measure else []
    replies += [batching.answer_evaluate(clients, evaluated)] if evaluated[0].measure else []
    updates = batching.answer_train(clients, trained)
    return [_joined(own, [one[place] for one in replies]) for place, own in enumerate(updates)]


def _apart(request: Request) -> tuple[Request, Request, Request]:
    """What a client is asked to measure, to evaluate and to train."""
    plain = replace(request, measure=(), evaluate=())
    next_round = replace(plain, measure=request.measure, round=request.round + 1)
    return next_round, replace(plain, measure=request.evaluate), plain


def _joined(trained: Reply, others: Sequence[Reply]) -> Reply:
    tensors, metrics = dict(trained.tensors), dict(trained.metrics)
    for other in others:
        tensors |= {f"{RIDING}{name}": value for name, value in other.tensors.items()}
        metrics |= other.metrics
    return replace(trained, tensors=tensors, metrics=metrics)
