"""fedha's rounds without evaluation and a run's folder: over Flower's messages, and without Flower at all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from fedha import answers, batching
from fedha.client import Client
from fedha.config import TrainingConfig
from fedha.data.domain import Domain
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request, Task
from fedha.federation import Server
from fedha.models import SplitModel
from fedha.models.state import state_of
from fedha.placement import placed_domain
from fedha.recipes import RECIPES

ENDLESS = 10**9


def synchronous(rows: int | None, rate: float, chunk: int | None = None) -> TrainingConfig:
    """A step a round, Adam at the server."""
    return TrainingConfig(rounds=ENDLESS, optimizer="adam", learning_rate=rate, batch_size=rows, chunk=chunk)


def through_engine(
    network: Callable[[], SplitModel],
    sources: Sequence[Domain],
    recipe: str,
    training: TrainingConfig,
    *,
    together: bool,
    device: str = "cpu",
    threads: int = 1,
) -> Iterator[None]:
    """One round each time, through the strategy and the inline engine's messages.

    Args:
        network: Makes it, the same each time.
        sources: One client each.
        recipe: A row's name.
        training: How.
        together: As `engine.batching`.
        device: Where clients compute.
        threads: Theirs.
    """
    from fedha.engine.inline import InlineGrid
    from fedha.flower import HessianAlignment
    from fedha.flower.client import Clients, app_for, seeded_site

    clients = Clients(
        lambda context: network(),
        lambda context: sources[int(context.node_config["partition-id"])],
        site=seeded_site,
        device=device,
        threads=threads,
        in_place=device != "cpu",
    )
    grid = InlineGrid(app_for(clients), len(sources), together=clients if together else None)
    strategy = HessianAlignment(RECIPES[recipe], training, clients=len(sources))
    strategy.talk.device = device
    started = state_of(network())
    strategy.begin(started.whole(), started.kinds)
    number = 0
    while True:
        number += 1
        strategy.train_round(number, grid)
        yield


def plain(
    model: SplitModel, sources: Sequence[Domain], recipe: str, training: TrainingConfig, *, together: bool
) -> Iterator[Server]:
    """One round each time, of the same server and clients, where the model is; the server, which goes on.

    Args:
        model: On its device.
        sources: One client each; moved to the device.
        recipe: A row's name.
        training: How.
        together: Whether the clients are answered together, as with `engine.batching`.

    Raises:
        FedhaError: They cannot be.
    """
    clients = [Client(place, placed_domain(one, model), model) for place, one in enumerate(sources)]
    server = Server.holding(Task(RECIPES[recipe], training, 0), state_of(model))
    number = 0
    while True:
        number += 1
        server.gather(number, [one.member for one in clients])
        references = dict(server.references)
        for measure in server.measurements():
            asked = Request(server.task, number, server.parameters, references, measure, kind="measure")
            references |= server.refer(_answers(clients, server, asked, together=together))
        asked = Request(server.task, number, server.parameters, references, sent=server.sent_along())
        server.step(number, _answers(clients, server, asked, together=together))
        yield server


def _answers(clients: Sequence[Client], server: Server, asked: Request, *, together: bool) -> list[Reply]:
    """Those of the round's cohort."""
    drawn = [one for one in clients if one.client_id in server.averaging_weights]
    requests = [
        replace(
            asked, averaging_weight=server.averaging_weights[one.client_id], additive=together, running=server.running
        )
        for one in drawn
    ]
    measured = asked.kind == "measure"
    if together:
        first = asked.round == 1  # an engine, too, looks through the network once
        if first and (why := answers.refusal(drawn, requests[0])) is not None:
            raise FedhaError(f"the clients cannot be answered together: {why}")
        return (batching.answer_measure if measured else batching.answer_train)(drawn, requests)
    answer = answers.answer_measure if measured else answers.answer_train
    return [answer(*one) for one in zip(drawn, requests, strict=True)]
