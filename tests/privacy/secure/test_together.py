"""Clients of one process may be computed together; each still takes its own steps and masks its own vector."""

from collections.abc import Iterable

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch.testing import assert_close

from fedha.config import parse
from fedha.engine.inline import InlineGrid
from fedha.engine.nodes import make_context
from fedha.errors import FedhaError
from fedha.flower.client import Clients
from fedha.flower.failure import failure_of, pack_failure
from fedha.flower.secure_client import simulated_party
from fedha.flower.tensor_array import array_record
from fedha.flower.wire import PlainReply
from tests.privacy.secure.grids import grid_of, make_five, strategy_of, train
from tests.privacy.secure.test_round_refusals import huge
from tests.problems import SEED, Problem


class TogetherGrid(InlineGrid):
    """Asks all clients at once, as a worker does, and one by one where that is refused."""

    def __init__(self, problem: Problem) -> None:
        party = simulated_party(parse({"privacy": {"secure_aggregation": True}, "seed": SEED}))
        place = "partition-id"
        self.clients = Clients(
            lambda _: problem.model, lambda context: problem.domains[int(str(context.node_config[place]))], party=party
        )
        count = len(problem.domains)
        super().__init__(grid_of(problem)._app, count)
        self.contexts = {node + 2: make_context(node, count, {}) for node in range(count)}
        self.together: list[str] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        listed = list(messages)
        kind = listed[0].metadata.message_type
        for place, message in enumerate(listed):
            message.metadata.__dict__["_message_id"] = str(place)  # an error tells by it whom it stands for
        contexts = [self.contexts[message.metadata.dst_node_id] for message in listed]
        try:
            plain = self.clients.answer_together(kind, [message.content for message in listed], contexts)
        except Exception:
            plain = None
        if plain is not None:
            self.together.append(kind)
            return [Message(records(one), reply_to=message) for one, message in zip(plain, listed, strict=True)]
        replies = []
        for message, context in zip(listed, contexts, strict=True):
            try:
                replies.append(Message(self.clients.answer(kind, message.content, context), reply_to=message))
            except Exception as error:
                replies.append(Message(pack_failure(failure_of(error)), reply_to=message))
        for reply, message in zip(replies, listed, strict=True):
            reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
        return replies


def records(reply: PlainReply) -> RecordDict:
    content: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {}
    content |= {name: array_record(values) for name, values in reply.arrays.items()}
    content |= {name: MetricRecord(values) for name, values in reply.metrics.items()}  # type: ignore[arg-type]
    content |= {name: ConfigRecord(values) for name, values in reply.configs.items()}  # type: ignore[arg-type]
    return RecordDict(content)


pytestmark = pytest.mark.usefixtures("same_numerics")


@pytest.mark.parametrize("name", ["hgp", "fishr"])
def test_computed_together_the_sums_are_the_same(name: str) -> None:
    problem = make_five()
    grid = TogetherGrid(problem)
    secure, records = train(grid, strategy_of(problem, name), problem, evaluate=True)  # type: ignore[arg-type]
    one_by_one, _ = train(grid_of(problem), strategy_of(problem, name), problem, evaluate=True)
    assert_close(secure, one_by_one, rtol=0, atol=1e-11)
    assert set(grid.together) == {"query.measure", "train", "evaluate"}
    assert all(record["events"] == [] for record in records)


def test_computed_together_one_that_has_nothing_to_send_is_not_told_from_the_others() -> None:
    problem = huge(make_five())
    grid = TogetherGrid(problem)
    with pytest.raises(FedhaError, match="the sum of 5 clients means nothing"):
        train(grid, strategy_of(problem, "erm", threshold=3), problem, 1)  # type: ignore[arg-type]
    assert "train" in grid.together
