"""Hessian alignment as a Flower strategy."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from logging import INFO
from typing import Any, Literal

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore import log
from torch import Tensor

from fedha.cohort import Member
from fedha.config import RecipeConfig, TrainingConfig
from fedha.errors import ClientError, FedhaError
from fedha.exchange import Reply, Request, Task
from fedha.federation import Server, pool_evaluations
from fedha.flower.reasons import failure
from fedha.flower.wire import (
    count_array_bytes,
    count_bytes,
    pack_request,
    pack_task,
    pack_tensors,
    unpack_reply,
    unpack_tensors,
)
from fedha.recipes import Recipe

_VERBS = {"query.introduce": "introduce itself", "query.measure": "measure", "train": "train", "evaluate": "evaluate"}


class HessianAlignment(Strategy):
    """Trains with any recipe of `fedha.recipes`, in anybody's ServerApp.

    ``HessianAlignment("hgp").start(grid, initial_arrays, num_rounds=100)`` runs it with Flower's own loop, against the
    ClientApp of `fedha.flower.client_app`. Clients introduce themselves once, before their first round. Statistics are
    measured inside `configure_train`, over the same grid.

    Args:
        recipe: A row's name, a recipe's settings, or a recipe.
        training: How clients and server train; default: synchronous Adam.
        seed: Of the signs, the minibatches and the cohorts.
        clients: Wait for this many nodes before the first round (nodes register late in a simulation).
        timeout: Seconds to wait for nodes, and for the replies of a measuring exchange.
        on_client_error: Whether a client that fails ends the run, or is left out of the round and put into `skipped`.
    """

    def __init__(
        self,
        recipe: str | RecipeConfig | Recipe = "hgp",
        training: TrainingConfig | None = None,
        *,
        seed: int = 0,
        clients: int = 1,
        timeout: float = 3600.0,
        on_client_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        row = RecipeConfig(name=recipe) if isinstance(recipe, str) else recipe
        resolved = row if isinstance(row, Recipe) else row.resolve()
        self.task = Task(resolved, training or TrainingConfig(), seed)
        self.clients = clients
        self.timeout = timeout
        self.on_client_error = on_client_error
        self.server: Server | None = None
        self.last_round: dict[str, Any] = {}
        self.last_evaluation: dict[str, dict[str, Any]] = {}
        self.bytes_down = 0
        self.bytes_up = 0
        self._packed_task = pack_task(self.task)
        self._members: dict[int, Member] = {}  # by node
        self._met: tuple[list[int], list[Member]] = ([], [])  # nodes, and who they are
        self._arrays: ArrayRecord | None = None
        self._asked: list[Message] = []  # of the exchange that is under way
        self.skipped: dict[str, str] = {}

    def begin(self, parameters: Mapping[str, Tensor]) -> Server:
        """Start from these parameters; Flower's own loop does it with the first round's arrays."""
        self.server, self._arrays, self.last_round = Server(self.task, dict(parameters)), None, {}
        return self.server

    @property
    def arrays(self) -> ArrayRecord:
        """The global model as it is sent, packed once a round."""
        if self._arrays is None:
            self._arrays = pack_tensors({name: value.clone() for name, value in self.begun().parameters.items()})
        return self._arrays

    def meet(self, grid: Grid, server_round: int) -> list[Member]:
        """Wait for the clients and learn who they are: nodes that are new introduce themselves.

        `configure_train` and `configure_evaluate` do it; called before, it keeps its bytes out of the first round's.

        Args:
            grid: Reaches the nodes.
            server_round: From 1.

        Returns:
            All clients that are known, in client order.

        Raises:
            FedhaError: Too few nodes connect in time, or one fails to introduce itself and on_client_error is stop.
        """
        nodes = self._wait_for_nodes(grid)
        if nodes == self._met[0]:
            return self._met[1]
        if new := [node for node in nodes if node not in self._members]:
            content = RecordDict({"request": ConfigRecord({"task": self._packed_task})})
            self._asked = [Message(content, node, "query.introduce", group_id=str(server_round)) for node in new]
            self.bytes_down += len(new) * count_bytes(content)
            replies = grid.send_and_receive(self._asked, timeout=self.timeout)
            for _ in self._replies(replies, "query.introduce", server_round):
                pass  # each reply makes its node known
        known = [self._members[node] for node in nodes if node in self._members]
        members = sorted(known, key=lambda one: one.index)
        self._met = (nodes, members) if len(known) == len(nodes) else ([], [])
        return members

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Draw the round's clients, measure its references over the grid, then ask them to train."""
        server = self.server
        if server is None or (server_round == 1 and self.last_round):  # a second start() is a run of its own
            server = self.begin(unpack_tensors(arrays))
        self.skipped = {}
        if not server.gather(server_round, self.meet(grid, server_round)):
            raise FedhaError(f"no client is left for round {server_round}: {'; '.join(self.skipped.values())}")
        references: dict[str, Tensor] = {}
        for measure in self.task.recipe.measurements():
            messages = self._messages("query.measure", server_round, arrays, references, server.cohort, measure)
            replies = grid.send_and_receive(messages, timeout=self.timeout)
            references |= server.refer(self._replies(replies, "query.measure", server_round))
        return self._messages("train", server_round, arrays, references, server.cohort)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the updates in client order, as they come, and take the server's step."""
        server = self.begun()
        self.last_round = server.step(server_round, self._replies(replies, "train", server_round))
        numbers: dict[str, int | float | list[int] | list[float]] = {
            key: self.last_round[key] for key in ("loss", "weight", "clients")
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
        return self._messages("evaluate", server_round, arrays, {}, self.meet(grid, server_round), parts)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Collect each domain's numbers; domains are not averaged, that is the point of them."""
        self.last_evaluation = pool_evaluations(list(self._replies(replies, "evaluate", server_round)))
        return MetricRecord(
            {
                f"{domain}/{part}/{name}": value
                for part, domains in self.last_evaluation.items()
                for domain, numbers in domains.items()
                for name, value in numbers.items()
            }
        )

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
        members: Sequence[Member],
        measure: tuple[str, ...] = (),
    ) -> list[Message]:
        """One message a client; those with the same share carry the same content."""
        packed, shares = pack_tensors(references), self.begun().shares
        nodes = {member.index: node for node, member in self._members.items()}
        additive = kind != "evaluate" and self.task.recipe.weighting != "risk"  # else shares come after the updates
        contents: dict[float, tuple[RecordDict, int]] = {}
        messages = []
        for member in members:
            share = shares.get(member.index, 1.0)
            if share not in contents:
                request = Request(self.task, round, {}, {}, measure, share, additive)
                content = pack_request(request, arrays, packed, self._packed_task)
                contents[share] = content, count_bytes(content)
            content, size = contents[share]
            self.bytes_down += size
            messages.append(Message(content, nodes[member.index], kind, group_id=str(round)))
        self._asked = messages
        return messages

    def _replies(self, messages: Iterable[Message], kind: str, round: int) -> Iterator[Reply]:
        """Read replies as they come; a failed or missing one ends the run, or is noted and passed over."""
        silent, summed = {sent.metadata.dst_node_id for sent in self._asked}, 0
        for message in messages:
            node = self._node_of(message)
            silent.discard(node)
            if message.has_error():
                self._failed(
                    node, failure(f"{self._who(node)} failed to {_VERBS[kind]} in round {round}", message.error.reason)
                )
                continue
            self.bytes_up += count_bytes(message.content)
            reply = unpack_reply(message.content)
            if reply.weighed:  # the clients of one process sent a sum; count what each sends over a network
                summed = count_array_bytes(message.content) if reply.tensors else summed
                self.bytes_up += 0 if reply.tensors else summed
            if self._members.get(node) != (member := Member(reply.index, reply.domain, reply.examples)):
                self._members[node], self._met = member, ([], [])
            yield reply
        if silent:
            count = len(self._asked)
            late = FedhaError(
                f"{count - len(silent)} of {count} clients replied to {kind.rpartition('.')[2]} in round {round} "
                f"within {self.timeout:g} s; raise the timeout or look at the clients' logs"
            )
            for node in silent:
                self._failed(node, late)

    def _node_of(self, message: Message) -> int:
        """Where a node is gone the error comes from the server in its stead; what it answers tells whose it is."""
        if not message.has_error():
            return message.metadata.src_node_id
        answered = message.metadata.reply_to_message_id
        sent = (one.metadata for one in self._asked)
        return next((m.dst_node_id for m in sent if m.message_id == answered), message.metadata.src_node_id)

    def _who(self, node: int) -> str:
        member = self._members.get(node)
        return f"client {member.index} (domain {member.domain!r})" if member else f"node {node}"

    def _failed(self, node: int, error: FedhaError | ClientError) -> None:
        if self.on_client_error == "stop":
            raise error
        self.skipped[self._who(node)] = str(error)

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
