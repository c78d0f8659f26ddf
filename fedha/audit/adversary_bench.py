"""Real clients of a config in this process, and what a server with a mind of its own asks of them.

Messages are packed as a server packs them and answered by `fedha.flower.client.Clients`; noise is the clients' own.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from torch import Tensor

from fedha.config import Config
from fedha.data.domain import Domain, DomainSet
from fedha.data.partition import client_domains
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.exchange import Request
from fedha.flower.apps import device
from fedha.flower.client import Clients, app_for, cryptographic_site
from fedha.flower.failure import find_failure
from fedha.flower.secure_client import simulated_party
from fedha.flower.secure_wire import settings_mark
from fedha.flower.serve import load_domains
from fedha.flower.strategy import HessianAlignment
from fedha.flower.wire import pack_request, pack_task, pack_tensors, unpack_reply
from fedha.measurement import shapes
from fedha.models import build
from fedha.models.check import likely_form
from fedha.models.split import SplitModel
from fedha.models.state import kinds_of, named_state, state_of
from fedha.piggyback import riders
from fedha.privacy.contract import Contract, contract_of
from fedha.privacy.releasable import private_exchanges
from fedha.targets import class_count

_KIND = re.compile(r"refuses to answer \((\w+)\)")
_SECURE = "secure sums"

Path = tuple[str | int, ...]


class NotPlayedError(Exception):
    """A family does not go with a config; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What became of a family.

    Attributes:
        asked: What was asked for, in words.
        refused: What refused it: contract, request, network, head, statistic, message, secure sums; "" where it was
            answered.
        sentence: The client's own, where it was refused.
        gain: What it gained, as the family measures it.
        most: What would have been everything, or a guess beside it, as the family says; None where there is none.
    """

    asked: str
    refused: str = ""
    sentence: str = ""
    gain: float = 0.0
    most: float | None = None


@dataclass(frozen=True)
class Family:
    """One way to cheat: a row of the table.

    Attributes:
        name: A short one, for files.
        title: For people.
        source: Who described it.
        measure: What its gain counts.
        play: Plays it.
    """

    name: str
    title: str
    source: str
    measure: str
    play: Callable[["Bench"], Outcome]


@dataclass(frozen=True)
class Answer:
    """What a client said.

    Attributes:
        sentence: Why it does not answer; "" where it does.
        tensors: What came.
        numbers: How many numbers came, along with the tensors or in them, that are finite.
    """

    sentence: str = ""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: int = 0

    @property
    def refused(self) -> str:
        """What refused it."""
        return refused_by(self.sentence)


def refused_by(sentence: str) -> str:
    """What refused a request, from its sentence."""
    if not sentence:
        return ""
    if found := _KIND.search(sentence):
        return found[1]
    return _SECURE if "secure sum" in sentence or "the server is broken or cheats" in sentence else "message"


@dataclass(frozen=True)
class Bench:
    """The clients of a config, and what a server knows.

    Attributes:
        config: One recipe, one seed.
        domains: Its domains.
        clients: What each client holds.
        model: Their network.
        contract: What they hold; None: nothing.
    """

    config: Config
    domains: DomainSet
    clients: Sequence[Domain]
    model: SplitModel
    contract: Contract | None

    @classmethod
    def of(cls, config: Config) -> "Bench":
        """The clients of a config, who hold the contract of the run.

        Raises:
            FedhaError: Their network tells more classes apart than the data have, which the trials do not know.
        """
        domains = load_domains(config)
        clients = client_domains(domains, config.data, config.seed[0])
        model = build(config.network, domains.input_shape, domains.classes, config.seed[0])
        told_apart = class_count(model, likely_form(model, domains.input_shape))
        if told_apart > domains.classes:
            raise FedhaError(
                f"the network tells {told_apart:,} classes apart and the data have {domains.classes}; a server that "
                "cheats is played for runs in which they are as many: audit one whose head has that many outputs"
            )
        return cls(config, domains, clients, model, contract_of(config))

    def without_contract(self) -> "Bench":
        """The same clients, who believe what comes."""
        return replace(self, contract=None)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Those that a run begins with."""
        return {name: value.detach().clone() for name, value in state_of(self.model).trained.items()}

    def grid(self, *, model: SplitModel | None = None) -> InlineGrid:
        """Clients that were asked nothing so far."""
        network = self.model if model is None else model
        made = Clients(
            lambda context: network,
            lambda context: self.clients[int(context.node_config["partition-id"])],
            threads=self.config.engine.threads,
            device=device(self.config),
            party=simulated_party(self.config),
            site=cryptographic_site,
            stays=True,
            contract=self.contract,
        )
        return InlineGrid(app_for(made), len(self.clients))

    def honest(self, kind: str = "train", **changes: Any) -> Request:
        """What a server that follows the protocol asks first, but for some fields."""
        held = contract_of(self.config)
        first: dict[str, Any] = {"kind": kind, "round": 1, "averaging_weight": 1 / len(self.clients)}
        first |= {"contract": held.digest, "parameters": self.parameters, "running": state_of(self.model).running}
        if kind == "measure" and held.exchanges:
            first["measure"] = held.exchanges[0]
        return Request(held.task, **{**first, **changes})

    def ask(self, request: Request, *, grid: InlineGrid | None = None, task: str = "") -> Answer:
        """One message to the first client.

        Args:
            request: What is asked.
            grid: Of clients that were asked before; default: of new ones.
            task: The task's text, where it is not the request's.
        """
        there = grid or self.grid()
        kind = "query.measure" if request.kind == "measure" else request.kind
        text = task or pack_task(request.task)
        content = pack_request(
            request,
            pack_tensors(request.parameters),
            pack_tensors(request.references),
            text,
            pack_tensors(request.sent),
        )
        node = next(iter(there.get_node_ids()))
        (reply,) = there.send_and_receive([Message(content, node, kind, group_id=str(request.round))])
        if (failed := find_failure(reply)) is not None:
            return Answer(failed.sentence)
        told = unpack_reply(reply.content)
        numbers = sum(int(value.isfinite().sum()) for value in told.tensors.values()) + len(told.metrics)
        return Answer("", told.tensors, numbers + sum(map(len, told.sums.values())))

    def round(self, change: Callable[[Any], Any] = lambda task: task) -> Answer:
        """A whole round with the first client, whose own statistics the server calls the average of all.

        Where there are secure sums, with all clients.

        Args:
            change: Of the task as its message has it.
        """
        grid, text = self.grid(), json.dumps(change(json.loads(self.task_text)))
        if self.config.privacy.secure_aggregation:
            return self._summed(text)
        references: dict[str, Tensor] = {}
        numbers = 0
        for group in contract_of(self.config).exchanges:
            asked = self.honest("measure", measure=group, references=dict(references))
            answer = self.ask(asked, grid=grid, task=text)
            if answer.sentence:
                return answer
            references |= answer.tensors
            numbers += answer.numbers
        last = self.ask(self.honest("train", references=references), grid=grid, task=text)
        return last if last.sentence else Answer("", {**references, **last.tensors}, numbers + last.numbers)

    def _summed(self, task: str) -> Answer:
        try:
            told = self.sum(self.parameters, task=task)
        except FedhaError as error:
            return Answer(str(error))
        return Answer("", told, sum(int(value.isfinite().sum()) for value in told.values()))

    @property
    def task_text(self) -> str:
        """The run's task, as a message has it, with all its settings of privacy."""
        task = contract_of(self.config).task
        whole = {**json.loads(pack_task(task)), "privacy": task.privacy.model_dump(mode="json")}
        return json.dumps(whole)

    def strategy(self) -> HessianAlignment:
        """A server that follows the protocol, in what it does not have from elsewhere."""
        config = self.config
        federation = config.federation.model_copy(update={"on_missing": "stop"})
        made = HessianAlignment(
            config.recipe[0],
            config.training,
            seed=config.seed[0],
            clients=len(self.clients),
            federation=federation,
            privacy=config.privacy,
        )
        made.talk.contract, made.talk.tell = contract_of(config).digest, lambda text: None
        if made.secure is not None:
            made.secure.name_run(settings_mark(config))
        recipe, covered = made.task.recipe, config.privacy.protect == "examples"
        names = [name for group in private_exchanges(recipe) for name in group] if covered else riders(recipe)
        made.expected = shapes(self.model, self.clients[0].train.form, names, recipe.probes)
        return made

    def sum(
        self, parameters: Mapping[str, Tensor], *, round: int = 1, grid: InlineGrid | None = None, task: str = ""
    ) -> dict[str, Tensor]:
        """What a round at these parameters tells a server of all clients together.

        Args:
            parameters: The model that is sent.
            round: From 1.
            grid: Of clients that were asked before; default: of new ones.
            task: The task's text, where it is not the run's.

        Raises:
            FedhaError: Somebody refuses, or no sum is learnt.
        """
        strategy, there = self.strategy(), grid or self.grid()
        if task:
            strategy._packed_task = strategy.talk.task = task
        state = {**named_state(self.model), **parameters}
        strategy.begin(state, kinds_of(self.model))
        strategy.talk.state = strategy.begun().state
        messages = list(strategy.configure_train(round, pack_tensors(state), ConfigRecord(), there))
        strategy.aggregate_train(round, there.send_and_receive(messages))
        return dict(strategy.begun().learned)


def changed(content: Any, path: Path, value: Any) -> Any:
    """Nested mappings and lists with another value in one place."""
    whole = json.loads(json.dumps(content))
    inner = whole
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return whole


class TamperingGrid(Grid):
    """Hands messages on to another grid, some of them changed; writes down who did not answer, and why.

    Args:
        grid: Reaches the clients.
        change: Of a message's content; given its type, its client and the content.

    Attributes:
        answered: How many answers came, by message type.
        sentences: Of those who did not answer, by message type.
    """

    def __init__(self, grid: InlineGrid, change: Callable[[str, int, RecordDict], RecordDict]) -> None:
        self._grid, self._change = grid, change
        self.answered: dict[str, int] = {}
        self.sentences: dict[str, list[str]] = {}

    def set_run(self, run: Run) -> None:
        """Take over a run's description."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._grid.run

    def create_message(self, *arguments: Any, **options: Any) -> Message:
        """A message to a node."""
        return self._grid.create_message(*arguments, **options)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes, in client order."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not changed: fedha's own grids are asked with `send_and_receive`."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As `push_messages`."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Pass questions on, changed, and answers back."""
        replies = []
        for message in messages:
            kind = message.metadata.message_type
            message.content = self._change(kind, self._grid.client_id_of(message.metadata.dst_node_id), message.content)
            for reply in self._grid.send_and_receive([message], timeout=timeout):
                failed = find_failure(reply)
                if failed is None:
                    self.answered[kind] = self.answered.get(kind, 0) + 1
                else:
                    self.sentences.setdefault(kind, []).append(failed.sentence)
                replies.append(reply)
        return replies
