"""The inline engine: Flower's Grid inside this process, one client after the other."""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, Metadata, MetricRecord, RecordDict
from flwr.app.message.message import make_message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedha.flower.apps import device
from fedha.flower.client import client_app, restore_state, save_state
from fedha.flower.serve import Job, load_domains, serve
from fedha.models import build
from fedha.runs.listener import Listener

_SERVER = 1


class InlineGrid(Grid):
    """Runs a ClientApp for each node in this process, in node order; an exception of a client is the caller's.

    Args:
        app: The ClientApp.
        clients: How many nodes; node k has partition-id k.
        run_config: What the clients' contexts carry.
    """

    def __init__(self, app: ClientApp, clients: int, run_config: dict[str, Any] | None = None) -> None:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, _SERVER
        self._app = app
        self._run = Run.create_empty(1)
        self._replies: dict[str, Message] = {}
        self._contexts = {
            place + 2: Context(
                run_id=1,
                node_id=place + 2,
                node_config={"partition-id": place, "num-partitions": clients},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for place in range(clients)
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

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run each message's client at once and keep its reply."""
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out the replies, each once."""
        return [self._replies.pop(one) for one in message_ids if one in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run the clients and return their replies in the order of the messages."""
        return self.pull_messages(self.push_messages(messages))

    def save_states(self) -> list[ArrayRecord | None]:
        """What the clients must remember for a run to resume, in client order."""
        return [save_state(context) for context in self._contexts.values()]

    def restore_states(self, states: Sequence[ArrayRecord | None]) -> None:
        """Give the clients back what `save_states` saw."""
        for context, state in zip(self._contexts.values(), states, strict=True):
            context.state = restore_state(state)

    def _deliver(self, message: Message) -> str:
        sent = message.metadata
        metadata = Metadata(
            run_id=sent.run_id,
            message_id=uuid.uuid4().hex,
            src_node_id=_SERVER,
            dst_node_id=sent.dst_node_id,
            reply_to_message_id="",
            group_id=sent.group_id,
            created_at=sent.created_at,
            ttl=sent.ttl,
            message_type=sent.message_type,
        )
        received = make_message(metadata, copy_records(message.content))
        self._replies[metadata.message_id] = self._app(received, self._contexts[sent.dst_node_id])
        return metadata.message_id


def copy_records(content: RecordDict) -> RecordDict:
    """New containers around the same arrays: mods may change a message's records, and others share the bytes."""
    copies = RecordDict()
    copies.array_records.update({name: ArrayRecord(dict(record)) for name, record in content.array_records.items()})
    copies.metric_records.update({name: MetricRecord(dict(record)) for name, record in content.metric_records.items()})
    copies.config_records.update({name: ConfigRecord(dict(record)) for name, record in content.config_records.items()})
    return copies


def run_inline(job: Job, listener: Listener, *, resume: bool = False) -> dict[str, Any]:
    """Train one job in this process; see `fedha.engine.run`."""
    config = job.config
    domains = load_domains(config, job.left_out)
    app = client_app(
        lambda context: build(config.model, domains.input_shape, domains.classes, config.seed[0]),
        lambda context: domains.sources[int(context.node_config["partition-id"])],
        threads=config.engine.threads,
        device=device(config),
    )
    return serve(job, InlineGrid(app, len(domains.sources)), listener, domains=domains, resume=resume)
