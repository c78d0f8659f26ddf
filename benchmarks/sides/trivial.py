"""The exchange that only costs what an engine costs: a client that sends the model back."""

import time
from collections.abc import Sequence

import numpy
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from sides.gate import Gate

PARAMETERS = 1000


def client() -> ClientApp:
    """Answers a training message with the arrays it came with."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"]
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def exchange(grid: Grid, gate: Gate) -> None:
    """Exchanges with every node of a grid as they are asked for: one content, a message a node."""
    content = RecordDict({"arrays": ArrayRecord({"model": Array(numpy.zeros(PARAMETERS, numpy.float32))})})
    nodes = list(grid.get_node_ids())
    while gate.wants_round():
        begun = time.perf_counter()
        replies = list(grid.send_and_receive([Message(content, node, "train") for node in nodes]))
        gate.passed(time.perf_counter() - begun)
        check(replies, len(nodes))


def check(replies: Sequence[Message], expected: int) -> None:
    """A round that lost clients is not a fast round."""
    failed = [reply.error.reason for reply in replies if reply.has_error()]
    if failed or len(replies) != expected:
        raise SystemExit(f"{len(replies)} of {expected} replies, {len(failed)} of them errors: {failed[:1]}")
