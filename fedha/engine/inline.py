"""The inline engine: Flower's Grid inside this process, one client after the other."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedha.config import Config
from fedha.data.domain import Domain, DomainSet
from fedha.data.partition import client_domains
from fedha.engine.nodes import (
    FIRST_NODE,
    copy_records,
    identify_server,
    make_context,
    received_message,
)
from fedha.engine.parcels import TOGETHER, Records, even, to_record_dict
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request
from fedha.exhausted import out_of_memory
from fedha.features import Keeping
from fedha.flower.apps import device, server_device
from fedha.flower.client import Clients, app_for, restore_state, seeded_site, state_record
from fedha.flower.delivery import never, stop_if_asked
from fedha.flower.failure import failure_of, pack_failure
from fedha.flower.secure_client import simulated_party
from fedha.flower.serve import Job, serve
from fedha.models import build
from fedha.privacy.contract import simulated
from fedha.runs.listener import Listener

_numbers = itertools.count(1)  # of the messages that nodes of this process get


class InlineGrid(Grid):
    """Runs a ClientApp for each node in this process, in node order.

    Args:
        app: The ClientApp.
        clients: How many nodes; node k has partition-id k.
        run_config: What the clients' contexts carry.
        together: The clients behind the app, where they may be trained together.
        stop: Asked between two clients, whether to stop.
    """

    def __init__(
        self,
        app: ClientApp,
        clients: int,
        run_config: dict[str, Any] | None = None,
        *,
        together: Clients | None = None,
        stop: Callable[[], bool] = never,
    ) -> None:
        identify_server()
        self._app, self._together, self._stop = app, together, stop
        self._run = Run.create_empty(1)
        self._replies: dict[str, Message] = {}
        self._contexts = {
            client_id + FIRST_NODE: make_context(client_id, clients, run_config or {}) for client_id in range(clients)
        }

    def set_run(self, run: Run) -> None:
        """Take over a run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes, in client order."""
        return list(self._contexts)

    def client_id_of(self, node: int) -> int:
        """The client at a node."""
        return node - FIRST_NODE

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run each message's client at once and keep its reply."""
        listed = list(messages)
        kinds = {message.metadata.message_type for message in listed}
        if self._together is None or len(kinds) != 1:
            return [self._deliver(message) for message in listed]
        size, kind = even(len(listed), TOGETHER), kinds.pop()
        pieces = (listed[start : start + size] for start in range(0, len(listed), size))
        return [name for piece in pieces for name in self._deliver_together(self._together, kind, piece)]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out the replies, each once."""
        return [self._replies.pop(one) for one in message_ids if one in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run the clients and return their replies in the order of the messages."""
        return self.pull_messages(self.push_messages(messages))

    def call(self, kind: str, requests: Mapping[int, Request]) -> dict[int, Reply] | None:
        """The nodes' answers without messages, where they are answered together; None where they are not.

        Args:
            kind: What a message would have for its type.
            requests: By node.
        """
        if self._together is None or len(requests) > TOGETHER:
            return None
        stop_if_asked(self._stop)
        contexts = [self._contexts[node] for node in requests]
        replies = self._together.call(kind, list(requests.values()), contexts)
        return None if replies is None else dict(zip(requests, replies, strict=True))

    def save_states(self) -> list[ArrayRecord | None]:
        """What the clients must remember for a run to resume, in client order."""
        return [state_record(context.state) for context in self._contexts.values()]

    def restore_states(self, states: Sequence[ArrayRecord | None]) -> None:
        """Give the clients back what `save_states` saw."""
        for context, state in zip(self._contexts.values(), states, strict=True):
            context.state = restore_state(state)

    def _deliver_together(self, clients: Clients, kind: str, messages: Sequence[Message]) -> list[str]:
        stop_if_asked(self._stop)
        contexts = [self._contexts[message.metadata.dst_node_id] for message in messages]
        replies = clients.answer_together(kind, [message.content for message in messages], contexts)
        if replies is None:
            return [self._deliver(message) for message in messages]
        names = [f"{next(_numbers):x}" for _ in messages]
        for name, message, reply in zip(names, messages, replies, strict=True):
            message.metadata.__dict__["_message_id"] = name  # as Flower's grids give what was sent its id
            content = to_record_dict(Records(reply.arrays, reply.metrics, reply.configs))
            self._replies[name] = Message(content, reply_to=message)
        return names

    def _deliver(self, message: Message) -> str:
        stop_if_asked(self._stop)
        received = _received(message, copy_records(message.content))
        sent = received.metadata
        name, node = sent.message_id, sent.dst_node_id
        try:
            self._replies[name] = self._app(received, self._contexts[node])
        except Exception as error:  # of a stranger's app: ours answers what goes wrong
            failed = failure_of(error, node - FIRST_NODE)
            self._replies[name] = Message(pack_failure(failed), reply_to=received)
        return name


def _received(message: Message, content: RecordDict) -> Message:
    """A message as its node gets it, under an id of its own."""
    sent = message.metadata
    return received_message(
        sent.message_type,
        f"{next(_numbers):x}",
        sent.dst_node_id,
        content,
        group_id=sent.group_id,
        created_at=sent.created_at,
        ttl=sent.ttl,
    )


def inline_grid(
    config: Config,
    domains: DomainSet,
    clients: Sequence[Domain] | None = None,
    *,
    together: bool = False,
    stop: Callable[[], bool] = never,
) -> InlineGrid:
    """The grid of a run in this process, with its clients behind it.

    Args:
        config: Of one run.
        domains: The run's domains.
        clients: What each client holds, in client order; default: its part of the domains.
        together: Whether they may be trained together; the default has the bits that others are held against.
        stop: Asked between two clients, whether to stop.
    """
    held = client_domains(domains, config.data, config.seed[0]) if clients is None else clients
    made = Clients(
        lambda context: build(config.network, domains.input_shape, domains.classes, config.seed[0]),
        lambda context: held[int(context.node_config["partition-id"])],
        threads=config.engine.threads,
        device=device(config),
        party=simulated_party(config),
        site=seeded_site,
        in_place=server_device(config) != "cpu",
        skips=config.engine.on_client_error == "skip",
        stays=True,
        keeping=Keeping.of(config.model.features),
        contract=simulated(config),
    )
    return InlineGrid(app_for(made), len(held), together=made if together else None, stop=stop)


def run_inline(
    job: Job, domains: DomainSet, listener: Listener, *, resume: bool = False, stop: Callable[[], bool] = never
) -> dict[str, Any]:
    """Train one job in this process; see `fedha.engine.run`."""
    grid = inline_grid(job.config, domains, together=job.config.engine.batching is True, stop=stop)
    there = server_device(job.config)
    try:
        return serve(job, grid, listener, domains=domains, resume=resume, stop=stop, device=there)
    except (MemoryError, RuntimeError) as error:  # the server's own: what fails at a client is a sentence already
        if (exhausted := out_of_memory(error)) is None:
            raise
        raise FedhaError(exhausted) from error
