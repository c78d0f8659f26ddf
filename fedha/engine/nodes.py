"""What the grids of our own engines share: nodes, their contexts, and messages as a node receives them."""

from typing import Any

from flwr.app import ConfigRecord, Context, Message, Metadata, MetricRecord, RecordDict
from flwr.app.message.message import make_message
from flwr.supercore.task_identity import TaskIdentity

from fedha.flower.tensor_array import array_record

SERVER, FIRST_NODE = 1, 2  # node ids: the server's, and that of client 0


def identify_server() -> None:
    """Let this process make messages; Flower does so where it starts a ServerApp itself."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, SERVER


def make_context(client_id: int, clients: int, run_config: dict[str, Any]) -> Context:
    """The context of a node: its client id is its partition-id."""
    return Context(
        run_id=1,
        node_id=client_id + FIRST_NODE,
        node_config={"partition-id": client_id, "num-partitions": clients},
        state=RecordDict(),
        run_config=dict(run_config),
    )


def received_message(
    kind: str, name: str, node: int, content: RecordDict, *, group_id: str, created_at: float, ttl: float
) -> Message:
    """A message as its node gets it.

    Args:
        kind: The message type.
        name: The message's id.
        node: Whose it is.
        content: Its records.
        group_id, created_at, ttl: As it was sent.
    """
    metadata = Metadata(
        run_id=1,
        message_id=name,
        src_node_id=SERVER,
        dst_node_id=node,
        reply_to_message_id="",
        group_id=group_id,
        created_at=created_at,
        ttl=ttl,
        message_type=kind,
    )
    return make_message(metadata, content)


def copy_records(content: RecordDict) -> RecordDict:
    """New containers around the same arrays: mods may change a message's records, and others share the bytes."""
    copies = RecordDict()
    copies.array_records.update({name: array_record(record) for name, record in content.array_records.items()})
    copies.metric_records.update({name: MetricRecord(dict(record)) for name, record in content.metric_records.items()})
    copies.config_records.update({name: ConfigRecord(dict(record)) for name, record in content.config_records.items()})
    return copies
