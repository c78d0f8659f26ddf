"""Rounds with secure sums over a grid that writes down every message, and changes or loses those that it is told to."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import recorddict_to_proto

from fedha.config import FederationConfig, PrivacyConfig, TrainingConfig, parse
from fedha.engine.inline import InlineGrid
from fedha.exchange import Reply
from fedha.flower import HessianAlignment, client_app
from fedha.flower.failure import find_failure
from fedha.flower.secure_client import simulated_party
from fedha.flower.wire import pack_reply, pack_tensors, unpack_reply, unpack_tensors
from fedha.measurement import shapes
from fedha.recipes import RECIPES
from tests.problems import SEED, Problem, make_domain, make_problem

Key = tuple[str, int, int]  # message type, round, place
Change = Callable[[Any], Any]
SILENT, FAILED = "silent", "failed"

SGD = TrainingConfig(rounds=3, optimizer="sgd", learning_rate=0.1)


@dataclass(frozen=True)
class Said:
    """One message and its answer, as they were.

    Attributes:
        key: Message type, round and place.
        sent: What the client got.
        answer: What the server got; None where nothing or an error came.
    """

    key: Key
    sent: RecordDict
    answer: RecordDict | None

    @property
    def bytes_up(self) -> bytes:
        """The answer as it lies on the network."""
        return b"" if self.answer is None else recorddict_to_proto(self.answer).SerializeToString()


class WatchedGrid(InlineGrid):
    """Each fault happens once, at the first message of its key, or at the n-th where the key names it.

    Args:
        app: As for the inline grid.
        clients: As for the inline grid.
        faults: By key and which of the messages of that key (from 0): lost before the client hears (SILENT), an error
            in the client's place (FAILED), or a change of the answer.
        asks: The same, as changes of what is sent: of (all that was said before, the content).
    """

    def __init__(
        self,
        app: Any,
        clients: int,
        faults: Mapping[tuple[Key, int], str | Change] | None = None,
        asks: Mapping[tuple[Key, int], Callable[[list[Said], RecordDict], RecordDict]] | None = None,
    ) -> None:
        super().__init__(app, clients)
        self.faults, self.asks = dict(faults or {}), dict(asks or {})
        self.said: list[Said] = []
        self._counts: Counter[Key] = Counter()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            sent = message.metadata
            sent.__dict__["_message_id"] = str(sum(self._counts.values()))  # an error tells by it whom it stands for
            key = (sent.message_type, int(sent.group_id), sent.dst_node_id - 2)
            which, self._counts[key] = (key, self._counts[key]), self._counts[key] + 1
            fault = self.faults.get(which)
            if fault == SILENT:
                continue
            if fault == FAILED:
                replies.append(Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "it fell"), reply_to=message))
                continue
            if which in self.asks:
                message.content = self.asks[which](self.said, message.content)
            for reply in super().send_and_receive([message]):
                if find_failure(reply) is None and callable(fault):
                    reply = Message(pack_reply(fault(unpack_reply(reply.content))), reply_to=message)
                    reply.metadata.__dict__["_src_node_id"] = sent.dst_node_id
                content = reply.content if find_failure(reply) is None else None
                self.said.append(Said(key, message.content, content))
                replies.append(reply)
        return replies


def make_five(precision: str = "float64") -> Problem:
    problem = make_problem(precision=precision)
    kind = getattr(torch, precision)
    sizes = (12, 17, 14, 19, 11)
    return replace(problem, domains=tuple(make_domain(f"d{k}", k, n, 3, kind) for k, n in enumerate(sizes)))


def grid_of(problem: Problem, *, secure: bool = True, faults: Any = None, asks: Any = None) -> WatchedGrid:
    settings = parse({"privacy": {"secure_aggregation": secure}, "seed": SEED})
    app = client_app(
        lambda _: problem.model,
        lambda context: problem.domains[int(context.node_config["partition-id"])],
        party=simulated_party(settings),
    )
    return WatchedGrid(app, len(problem.domains), faults, asks)


def strategy_of(
    problem: Problem,
    recipe: str = "hgp",
    training: TrainingConfig = SGD,
    *,
    secure: bool = True,
    skip: bool = True,
    federation: FederationConfig | None = None,
    **privacy: Any,
) -> HessianAlignment:
    strategy = HessianAlignment(
        recipe,
        training,
        seed=SEED,
        clients=len(problem.domains),
        federation=federation,
        on_client_error="skip" if skip else "stop",
        privacy=PrivacyConfig(secure_aggregation=secure, **privacy),
    )
    names = [name for group in RECIPES[recipe].measurements() for name in group]
    strategy.expected = shapes(
        problem.model, problem.domains[0].train.inputs.shape[1:], names, strategy.task.recipe.probes
    )
    return strategy


def train(
    grid: WatchedGrid, strategy: HessianAlignment, problem: Problem, rounds: int = 3, *, evaluate: bool = False
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Parameters, and each round's numbers with its events."""
    arrays: ArrayRecord = pack_tensors(dict(problem.model.named_parameters()))
    records = []
    for number in range(1, rounds + 1):
        messages = list(strategy.configure_train(number, arrays, ConfigRecord(), grid))
        found, _ = strategy.aggregate_train(number, grid.send_and_receive(messages))
        assert found is not None
        arrays = found
        record = dict(strategy.last_round)
        if evaluate:
            asked = list(strategy.configure_evaluate(number, arrays, ConfigRecord({"parts": "held_out,train"}), grid))
            strategy.aggregate_evaluate(number, grid.send_and_receive(asked))
            record["evaluated"] = strategy.last_evaluation
        records.append({**record, "events": list(strategy.talk.events)})
    return unpack_tensors(arrays), records


def at(kind: str, round: int, place: int, which: int = 0) -> tuple[Key, int]:
    return (kind, round, place), which


def with_secure(change: Callable[[str, bytes], bytes]) -> Callable[[Reply], Reply]:
    """A reply whose protocol parts are changed."""

    def changed(reply: Reply) -> Reply:
        parts: dict[str, bytes | list[bytes]] = {}
        for name, value in reply.secure.items():
            parts[name] = [change(name, one) for one in value] if isinstance(value, list) else change(name, value)
        return replace(reply, secure=parts)

    return changed
