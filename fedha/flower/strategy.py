"""Hessian alignment as a Flower strategy."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from logging import INFO
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore import log
from torch import Tensor

from fedha.config import RecipeConfig, TrainingConfig
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request, Task
from fedha.federation import Server
from fedha.flower.wire import count_bytes, pack_request, pack_task, pack_tensors, unpack_reply, unpack_tensors
from fedha.recipes import Recipe


class HessianAlignment(Strategy):
    """Trains with any recipe of `fedha.recipes`, in anybody's ServerApp.

    ``HessianAlignment("hgp").start(grid, initial_arrays, num_rounds=100)`` runs it with Flower's own loop, against the
    ClientApp of `fedha.flower.client_app`. Statistics are measured inside `configure_train`, over the same grid.

    Args:
        recipe: A row's name, a recipe's settings, or a recipe.
        training: How clients and server train; default: synchronous Adam.
        seed: Of the signs and the minibatches.
        clients: Wait for this many nodes before the first round (nodes register late in a simulation).
        timeout: Seconds to wait for nodes, and for the replies of a measuring exchange.
    """

    def __init__(
        self,
        recipe: str | RecipeConfig | Recipe = "hgp",
        training: TrainingConfig | None = None,
        *,
        seed: int = 0,
        clients: int = 1,
        timeout: float = 3600.0,
    ) -> None:
        row = RecipeConfig(name=recipe) if isinstance(recipe, str) else recipe
        resolved = row if isinstance(row, Recipe) else row.resolve()
        self.task = Task(resolved, training or TrainingConfig(), seed)
        self.clients = clients
        self.timeout = timeout
        self.server: Server | None = None
        self.last_round: dict[str, Any] = {}
        self.last_evaluation: dict[str, dict[str, Any]] = {}
        self.bytes_down = 0
        self.bytes_up = 0
        self._packed_task = pack_task(self.task)
        self._places: dict[int, int] = {}
        self._arrays: ArrayRecord | None = None
        self._asked: list[Message] = []

    def begin(self, parameters: Mapping[str, Tensor]) -> Server:
        """Start from these parameters; Flower's own loop does it with the first round's arrays."""
        self.server, self._arrays, self.last_round = Server(self.task, dict(parameters)), None, {}
        return self.server

    @property
    def arrays(self) -> ArrayRecord:
        """The global model as it is sent, packed once a round."""
        if self._arrays is None:
            self._arrays = pack_tensors(self.begun().parameters)
        return self._arrays

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Measure the round's references over the grid, then ask every client to train."""
        server = self.server
        if server is None or (server_round == 1 and self.last_round):  # a second start() is a run of its own
            server = self.begin(unpack_tensors(arrays))
        nodes = self._wait_for_nodes(grid)
        references: dict[str, Tensor] = {}
        for measure in self.task.recipe.measurements():
            messages = self._messages("query.measure", server_round, arrays, references, nodes, measure)
            replies = grid.send_and_receive(messages, timeout=self.timeout)
            references |= server.refer(self._replies(replies, "measure", server_round))
        return self._messages("train", server_round, arrays, references, nodes)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the updates in client order and take the server's step."""
        server = self.begun()
        self.last_round = server.step(server_round, self._replies(replies, "train", server_round))
        numbers: dict[str, int | float | list[int] | list[float]] = {
            "loss": self.last_round["loss"],
            "weight": self.last_round["weight"],
        }
        for group in ("risk", "accuracy", "penalty"):
            numbers |= {f"{group}/{name}": value for name, value in self.last_round[group].items()}
        self._arrays = None
        return self.arrays, MetricRecord(numbers)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every client for accuracy and risk on parts of its domain (``parts`` in the config: held_out, train)."""
        parts = tuple(str(config.get("parts", "held_out")).split(","))
        return self._messages("evaluate", server_round, arrays, {}, self._wait_for_nodes(grid), parts)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Collect each domain's numbers; domains are not averaged, that is the point of them."""
        answers = self._replies(replies, "evaluate", server_round)
        self.last_evaluation = {}
        for reply in sorted(answers, key=lambda one: one.index):
            for key, value in reply.metrics.items():
                part, _, name = key.partition("/")
                self.last_evaluation.setdefault(part, {}).setdefault(reply.client, {})[name] = value
        return MetricRecord({f"{reply.client}/{key}": v for reply in answers for key, v in reply.metrics.items()})

    def summary(self) -> None:
        """Log what is trained."""
        recipe = self.task.recipe
        log(INFO, "\t├──> recipe: %s (%s)", recipe.name, ", ".join(t.statistic for t in recipe.terms) or "no penalty")
        log(INFO, "\t├──> exchanges a round: %d", recipe.exchanges)
        log(INFO, "\t└──> mode: %s", self.task.training.mode)

    def _messages(
        self,
        kind: str,
        round: int,
        arrays: ArrayRecord,
        references: Mapping[str, Tensor],
        nodes: Sequence[int],
        measure: tuple[str, ...] = (),
    ) -> list[Message]:
        packed = pack_tensors(references)
        shares = self.begun().shares() if len(self.begun().examples) == len(nodes) else None
        messages = []
        for node in nodes:
            share = shares[self._places[node]] if shares and node in self._places else 1 / len(nodes)
            request = Request(self.task, round, {}, {}, measure, share)
            content = pack_request(request, arrays, packed, self._packed_task)
            self.bytes_down += count_bytes(content)
            messages.append(Message(content, node, kind, group_id=str(round)))
        self._asked = messages
        return messages

    def _replies(self, messages: Iterable[Message], exchange: str, round: int) -> list[Reply]:
        # where a node is gone the error comes from the server in its stead; what it answers tells whose it is
        asked = {sent.metadata.message_id: sent.metadata.dst_node_id for sent in self._asked}
        replies = []
        for message in messages:
            node = asked.get(message.metadata.reply_to_message_id, message.metadata.src_node_id)
            if message.has_error():
                who = f"client {self._places[node]}" if node in self._places else f"node {node}"
                raise FedhaError(f"{who} failed to {exchange} in round {round}: {_plain(message.error.reason)}")
            self.bytes_up += count_bytes(message.content)
            reply = unpack_reply(message.content)
            self._places[node] = reply.index
            replies.append(reply)
        if len(replies) < len(self._asked):
            raise FedhaError(
                f"{len(replies)} of {len(self._asked)} clients replied to {exchange} in round {round} within "
                f"{self.timeout:g} s; raise the timeout or look at the clients' logs"
            )
        return replies

    def _wait_for_nodes(self, grid: Grid) -> list[int]:
        deadline = time.monotonic() + self.timeout
        while len(nodes := sorted(grid.get_node_ids())) < self.clients:
            if time.monotonic() > deadline:
                raise FedhaError(
                    f"{len(nodes)} of {self.clients} clients connected within {self.timeout:g} s; "
                    "start the others, or lower the number of clients"
                )
            time.sleep(0.05)
        return nodes

    def begun(self) -> Server:
        """The server's state, once there is one.

        Raises:
            FedhaError: No model yet.
        """
        if self.server is None:
            raise FedhaError("the strategy has no model yet; call begin(parameters) or let start() run the rounds")
        return self.server


def _plain(reason: str | None) -> str:
    """The client's own error in an error reply, without what Flower and Ray wrap around it.

    Flower writes ``<class 'KIND'>:<'MESSAGE'>``. In a simulation the message is Ray's coloured trace, whose first
    cause ends with the client's error; a FedhaError needs no more than its sentence.
    """
    text = re.sub(r"\x1b\[[\d;]*m", "", reason or "").strip() or "no reason given"
    if wrapped := re.fullmatch(r"<class '([^']*)'>:<'(.*)'>", text, re.DOTALL):
        kind, message = wrapped.groups()
        cause, chained, _ = message.strip().partition("\n\nThe above exception was the direct cause")
        text = cause.splitlines()[-1] if chained else f"{kind}: {(message.strip().splitlines() or [''])[0]}"
    return re.sub(r"^(\w+\.)+(?=\w+: )", "", text.splitlines()[-1].strip()).removeprefix("FedhaError: ")
