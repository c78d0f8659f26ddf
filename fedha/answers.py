"""A client's answer to each kind of request, in the way that the run's task asks for: plain or private.

Several clients of one process may be answered together (`fedha.batching`), in the plain way alone.
"""

from collections.abc import Sequence

from fedha import batching, training
from fedha.client import Client
from fedha.exchange import Reply, Request
from fedha.privacy import answers as private


def answer_measure(client: Client, request: Request) -> Reply:
    """The statistics that a request asks for, at the global model."""
    if not private.is_private(request.task.privacy):
        return training.answer_measure(client, request)
    with training.named(client, request):
        return client.reply(private.release_statistics(client, client.site, request))


def answer_train(client: Client, request: Request) -> Reply:
    """The update, and the round's numbers."""
    if not private.is_private(request.task.privacy):
        return training.answer_train(client, request)
    with training.as_before(client), training.named(client, request):
        return client.reply(*private.train_privately(client, client.site, request))


def answer_evaluate(client: Client, request: Request) -> Reply:
    """How good the global model is on the parts of the domain that a request names."""
    if not private.is_private(request.task.privacy):
        return training.answer_evaluate(client, request)
    return client.reply({}, private.evaluate_privately(client, client.site, request))


def refusal(clients: Sequence[Client], request: Request) -> str | None:
    """Why these clients are answered one by one, as in `fedha.batching.refusal`, which knows nothing of their sites."""
    if any(client.site.limits is not None for client in clients):
        return "a site has limits, and each client looks at what it is asked"
    return batching.refusal(clients, request)
