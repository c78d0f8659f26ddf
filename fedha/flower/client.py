"""fedha's ClientApp: the client's work behind four message types."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from logging import ERROR, WARNING
from pathlib import Path
from typing import TypeVar

import numpy
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore import log

from fedha import answers, batching, numerics, permitted, piggyback
from fedha.arguments import check_argument, check_number
from fedha.client import Client
from fedha.client_state import ClientState, from_tensors, lasting, to_tensors
from fedha.data.checked import check_domain, checked_domain, without_unusable
from fedha.data.domain import Domain
from fedha.data.fingerprint import split_fingerprint
from fedha.devices import check_device, to_host
from fedha.errors import FedhaError
from fedha.exchange import DIAGNOSING, Reply, Request
from fedha.features import Keeping, divided, featured, forget, row_keys, unready
from fedha.flower import contracted, handshake, questioned, secure_client
from fedha.flower.failure import telling
from fedha.flower.guarded import admit, errors_by_kind_if_protected, introduced, is_protected, protects_examples
from fedha.flower.held import lacking
from fedha.flower.outside import outside
from fedha.flower.questioned import Looked
from fedha.flower.secure_client import Opened, Party
from fedha.flower.secure_wire import STEPS
from fedha.flower.tensor_array import array_record
from fedha.flower.wire import (
    CONSTANTS,
    LENDS,
    PlainReply,
    announced_digests,
    announced_lent,
    announced_shapes,
    pack_reply,
    pack_tensors,
    plain_reply,
    sent_constants,
    unpack_request,
    unpack_tensors,
)
from fedha.minibatches import step_sizes
from fedha.models.check import check_inputs, check_network, check_parameters, check_request
from fedha.models.split import SplitModel
from fedha.models.state import constants_name, digests, kinds_of, state_of, take_constants
from fedha.models.state import introduced as introduced_state
from fedha.numerics import aligned
from fedha.placement import placed_domain
from fedha.privacy import agreed, gate
from fedha.privacy.contract import NUMBERS, Contract, network_digest
from fedha.privacy.requests import refuse_constants, refuse_numbers
from fedha.privacy.site import Site
from fedha.rules.table import allow
from fedha.training import PARTS

_STATE = "fedha-state"
_INTRODUCE = "query.introduce"
QUERIES = ("introduce", "measure", *DIAGNOSING, *(kind.removeprefix("query.") for kind in STEPS))  # what an app answers

_ANSWERS: Mapping[str, Callable[[Client, Request], Reply]] = {
    "query.measure": answers.answer_measure,
    "train": piggyback.answer_train,
    "evaluate": answers.answer_evaluate,
}

_TOGETHER: Mapping[str, Callable[..., list[Reply]]] = {
    "query.measure": batching.answer_measure,
    "train": piggyback.answer_train_together,
    "evaluate": batching.answer_evaluate,
}


# Why clients are answered one by one after all: a client's data or settings, memory, a network that vmap cannot take.
_FORESEEN = (FedhaError, ValueError, MemoryError, torch.OutOfMemoryError)
_Given = TypeVar("_Given")
_SLOW = "fedha answers {} one by one, which is slower: together it failed with {}; please report this"


def cryptographic_site() -> Site:
    """A client that keeps its noise to itself: nobody knows it, and no run repeats it."""
    return Site("cryptographic")


def seeded_site() -> Site:
    """A client of a simulation: its noise comes from the run's seed, so that every engine gives one answer."""
    return Site("seeded")


def client_app(
    model: Callable[[Context], SplitModel],
    domain: Callable[[Context], Domain],
    *,
    threads: int = 1,
    device: str = "cpu",
    party: Party | None = None,
    site: Callable[[], Site] = cryptographic_site,
    rule: str | None = None,
    keeping: Keeping = Keeping(),  # noqa: B008  # a frozen value
    contract: Contract | None = None,
    books: Path | None = None,
) -> ClientApp:
    """A ClientApp that answers `HessianAlignment`; see `Clients` for the arguments.

    Args:
        model, domain, threads, device, party, site, keeping, contract: As there.
        rule: The server's rule, as ``package.module:function``, where it is none of fedha's: what a message alone names
            is never imported.
        books: The folder in which what was answered under the contract is counted over all runs, one task at a time.
            None: in the node's context, which Flower forgets with its run.

    Returns:
        An app with ``query.introduce``, ``query.measure``, ``train`` and ``evaluate``, and the queries of secure sums.
        The node config must give ``partition-id``, the client's id: a number from 0. Handlers of your own are
        registered on it under names of their own, such as ``@app.evaluate("mine")``; one that takes the place of a
        handler of fedha's belongs into an app of yours that hands on to this one (docs/flower.md).

    Raises:
        FedhaError: A network or a domain was given where the function that makes it belongs.
    """
    for name, given in (("model", model), ("domain", domain)):
        if isinstance(given, torch.nn.Module) or not callable(given):
            raise FedhaError(
                f"client_app was given a {type(given).__name__} as {name}; give the function that makes it, of the "
                "context: lambda context: …"
            )
    allow(rule)
    if rule is not None:
        permitted.permit(rule)
    check_number("client_app", "threads", threads, 1)
    check_device("client_app", device)
    check_argument("client_app", "party", party, (Party, type(None)), "a fedha.flower.secure_client.Party, or None")
    whose = "a fedha.privacy.contract.Contract, as fedha.privacy.contract.contract makes it, or None"
    check_argument("client_app", "contract", contract, (Contract, type(None)), whose)
    check_argument("client_app", "books", books, (Path, type(None)), "the pathlib.Path of a folder, or None")
    if books is not None and contract is None:
        raise FedhaError("client_app was given books and no contract, under which alone answers are counted; give both")
    if not callable(site):
        check_argument("client_app", "site", site, (), "a function that makes a Site, such as cryptographic_site")
    clients = Clients(
        model, domain, threads=threads, device=device, party=party, site=site, keeping=keeping, contract=contract
    )
    return app_for(clients, logs=True, books=books)


def app_for(clients: "Clients", *, logs: bool = False, books: Path | None = None) -> ClientApp:
    """The ClientApp in front of a process' clients; whether errors are in Flower's log too, the client's own."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        kind, content = message.metadata.message_type, message.content
        if books is None:
            return Message(clients.answer(kind, content, context), reply_to=message)
        with contracted.kept_book(books, clients.contract, client_id_of(context), context.state):
            return Message(clients.answer(kind, content, context), reply_to=message)

    register(app, telling(answer, lambda message: is_protected(message.content), logs=logs))
    return app


def register(app: ClientApp, answer: Callable[[Message, Context], Message]) -> None:
    """Have an app answer all that `HessianAlignment` asks."""
    for name in QUERIES:
        app.query(name)(answer)
    app.train()(answer)
    app.evaluate()(answer)


class Clients:
    """The clients of one process, made when they are first asked; they share one model.

    Args:
        model: Makes the network, once a process; its initial weights are not used, the server sends the parameters.
        domain: Makes a client's data; called once a process and node.
        threads: torch threads; a sum's bits depend on it.
        device: Where to compute, such as ``cpu`` or ``cuda``.
        party: Who they are in secure sums, in which alone they then answer; None: they answer in the clear.
        site: Makes a client's own rules. By default its noise is cryptographic: that it may be drawn from the run's
            seed is for whoever simulates to say, never for the server.
        stays: Whether the process answers a run's next rounds, too.
        in_place: Whether what they answer stays on the device, for a server in this process that computes there.
        skips: Whether the run goes on without a client that fails, so that each is looked at before they are added up.
        keeping: Where the features of a frozen network are kept, which are computed once.
        contract: What they may be asked; None: whatever the server's settings say.
    """

    def __init__(
        self,
        model: Callable[[Context], SplitModel],
        domain: Callable[[Context], Domain],
        *,
        threads: int = 1,
        device: str = "cpu",
        party: Party | None = None,
        site: Callable[[], Site] = cryptographic_site,
        stays: bool = False,
        in_place: bool = False,
        skips: bool = True,
        keeping: Keeping = Keeping(),  # noqa: B008  # a frozen value
        contract: Contract | None = None,
    ) -> None:
        self.contract = contract
        later = in_place and not skips  # whether the server alone looks at what clients of this process add up to
        own: dict[str, Callable[..., list[Reply]]] = {"train": partial(_TOGETHER["train"], later=True)} if later else {}
        self._together = {**_TOGETHER, **own}
        self._stays, self._in_place, self._keeping = stays, in_place, keeping
        self._make_model, self._make_domain, self._make_site = model, domain, site
        self._threads, self._device, self._party = threads, device, party
        self._model: SplitModel | None = None
        self._clients: dict[tuple[int, int], Client] = {}
        # those with features for inputs, where the network is frozen, and the parts of their data that are ready
        self._behind: dict[tuple[int, int, bool], tuple[Client, set[str]]] = {}
        self._looked: dict[tuple[int, int], Looked] = {}  # features that a diagnosis is about
        self._checked: Mapping[str, torch.Tensor] | None = None  # the parameters that were last looked at,
        self._fitting: Mapping[str, torch.Size] = {}  # and their shapes, which fit the model
        self._refusals: dict[tuple[str, bool, bool], tuple[list[object], str | None]] = {}  # of whom, and why
        self._constants: dict[str, str] = {}  # digests of the model's, and what a request may call them
        self._names: set[str] = set()
        self.fault = ""  # why clients could once not be answered together, though nothing foreseen was in the way

    def answer(self, kind: str, content: RecordDict, context: Context) -> RecordDict:
        """One client's answer.

        Args:
            kind: The message type.
            content: What `fedha.flower.wire` packed.
            context: Whose it is; its state is changed where the client must remember something.
        """
        before = dict(context.state.items())
        try:
            return self._answer(kind, content, context)
        except BaseException:  # what was not answered has not happened, but that it was asked for
            asked = {name: value for name, value in context.state.items() if name == contracted.RECORD}
            context.state.clear()
            context.state.update(before | asked)
            raise

    def _answer(self, kind: str, content: RecordDict, context: Context) -> RecordDict:
        numerics.configure(self._threads)
        if kind == _INTRODUCE:
            check_server(content)
            lent = self.contract.volunteer if self.contract is not None else ""
            if lent and lent not in announced_lent(content):
                return outside(f"it lends {lent!r} to diagnoses of that domain, and to nothing else")
        request = self._held(kind, content, context)
        client = self._client(context, content)
        if kind == _INTRODUCE:
            if shapes := announced_shapes(content):
                check_parameters(client.model, shapes)
            told = client.reply({}, introduced(client, content))
            told = told if self._party is None else self._party.introduction(told)
            told = replace(told, metrics={**told.metrics, LENDS: 1.0}) if lent else told
            kinds, other = introduced_state(kinds_of(client.model), self._constants, announced_digests(content))
            told = replace(told, input_shape=client.domain.train.shape, kinds=kinds, other=other)
            return handshake.greeted(pack_reply(told))
        if kind in STEPS:
            before = client.state
            reply = secure_client.answer_step(self._party_or_refuse(), kind, client, content, context)
            if client.state is not before:
                _remember(client, context)
            return pack_reply(reply)
        if request is None:
            with errors_by_kind_if_protected(client.domain.client_name, client.site, content):
                request = unpack_request(content, kind, self._device)
        if not self._holds_constants(request, sent_constants(content)):
            return lacking(CONSTANTS)
        if request.kind in DIAGNOSING:
            questioned.check_allowed(self.contract, request)
        if self.contract is not None:
            contracted.note(self.contract, request, context)
        if request.kind in DIAGNOSING:
            return pack_reply(self._questioned(client, kind, request, context, content))
        if self._party is None:
            admit(client, kind, request)
            self._check_parameters(client, request)
            with errors_by_kind_if_protected(client.domain.client_name, client.site, content):
                client = self._working(client, context, request)
                reply = self._agreed(_ANSWERS[kind](client, request))
            _remember(client, context)
        else:
            few = admit(client, kind, request, tells_examples=self._party.tells_examples)
            self._check_parameters(client, request)
            opened = secure_client.open_question(kind, client, content, request, context)

            def work() -> Reply:
                if few is not None:
                    raise FedhaError(few.sentence)
                working = self._working(client, context, request)  # not before: what fails here is of the data
                reply = self._agreed(_ANSWERS[kind](working, opened.request))
                client.state = working.state
                return reply

            secrets, reply = secure_client.answer(self._party, opened, client, work)
            secure_client.store(self._party, context, opened, secrets, client)
        return pack_reply(reply, in_place=self._in_place)

    def _questioned(self, client: Client, kind: str, request: Request, context: Context, content: RecordDict) -> Reply:
        admit(client, kind, request)
        self._check_parameters(client, request)
        with errors_by_kind_if_protected(client.domain.client_name, client.site, content):
            key = (context.run_id, context.node_id)
            self._looked[key] = questioned.look(client, request, self._keeping, self._looked.get(key))
            return questioned.answer(client, request, self._looked[key].sample)

    def _held(self, kind: str, content: RecordDict, context: Context) -> Request | None:
        """A message's request, held to the contract before the client's data are read; None where there is none.

        The steps of secure sums ask nothing: their sums' questions do.
        """
        if self.contract is None or kind in STEPS:
            return None
        if kind == _INTRODUCE:
            contracted.hold_introduction(self.contract, content, context)
            return None
        return contracted.held(self.contract, kind, content, context, self._device)

    def _agreed(self, reply: Reply) -> Reply:
        """A reply with the numbers that may leave."""
        if self.contract is None or self.contract.numbers == NUMBERS:
            return reply
        kept = {name for name in (*reply.metrics, *reply.sums) if name.partition("/")[0] in self.contract.numbers}
        return replace(
            reply,
            metrics={name: value for name, value in reply.metrics.items() if name in kept},
            sums={name: value for name, value in reply.sums.items() if name in kept},
        )

    def answer_together(
        self, kind: str, contents: Sequence[RecordDict], contexts: Sequence[Context]
    ) -> list[PlainReply] | None:
        """The answers of several clients at once, to the bits of `answer` up to rounding.

        None where that is no gain, or where it fails: one by one, the client to blame is found and named. What fails
        for another reason than a client's data, memory, or a network that cannot be stacked is a fault of fedha's: the
        first one is warned of.

        Args:
            kind: The message type.
            contents: What each was sent; alike but for the share.
            contexts: Whose they are, in the same order.
        """
        if kind not in self._together or len(contexts) < 2:
            return None
        return self._tried(kind, lambda: self._answered_together(kind, contents, contexts))

    def call(self, kind: str, requests: Sequence[Request], contexts: Sequence[Context]) -> list[Reply] | None:
        """As `answer_together`, for a server in this process that has met these clients: without any message.

        Args:
            kind: The message type.
            requests: What each is asked; alike but for the share, the same object where that is the same.
            contexts: Whose they are, in the same order.
        """
        known = [self._clients.get((context.run_id, context.node_id)) for context in contexts]
        clients = [self._recalled(*one) for one in zip(filter(None, known), contexts, strict=False)]
        there = self._in_place or self._device == "cpu"
        if kind not in self._together or not 2 <= len(clients) == len(known) or self._party is not None or not there:
            return None
        nothing = [None] * len(requests)
        replies = self._tried(kind, lambda: self._computed(kind, clients, requests, nothing, contexts))
        return None if replies is None else [self._handed_over(reply) for reply in replies]

    def _handed_over(self, reply: Reply) -> Reply:
        """A reply as it would come out of a message."""
        if not reply.tensors and not reply.sums:
            return reply
        kept = dict(reply.tensors) if self._in_place else to_host(reply.tensors)
        tensors = {name: aligned(value.detach()) for name, value in kept.items()}
        return replace(reply, tensors=tensors, sums={name: list(values) for name, values in reply.sums.items()})

    def _tried(self, kind: str, answers: Callable[[], list[_Given] | None]) -> list[_Given] | None:
        try:
            return answers()
        except _FORESEEN:
            return None
        except Exception as error:
            if not self.fault and "DefaultCPUAllocator" not in str(error):  # torch's word for no memory, of no kind
                self.fault = _SLOW.format(kind, f"{type(error).__name__}: {' '.join(str(error).split())}")
                warnings.warn(self.fault, RuntimeWarning, stacklevel=2)
            return None

    def _answered_together(
        self, kind: str, contents: Sequence[RecordDict], contexts: Sequence[Context]
    ) -> list[PlainReply] | None:
        clients = [self._client(*one) for one in zip(contexts, contents, strict=True)]
        distinct = {id(content): content for content in contents}
        unpacked = {key: unpack_request(content, kind, self._device) for key, content in distinct.items()}
        requests = [unpacked[id(content)] for content in contents]
        sent = [sent_constants(content) for content in contents]
        if self._party is not None:
            if (working := self._ready(clients, requests, sent, contexts)) is None:
                return None
            asked = zip(working, contents, requests, contexts, strict=True)
            opened = [secure_client.open_question(kind, *one) for one in asked]
            return self._masked_together(self._party, kind, working, opened, contexts)
        replies = self._computed(kind, clients, requests, sent, contexts)
        return None if replies is None else [plain_reply(reply, in_place=self._in_place) for reply in replies]

    def _computed(
        self,
        kind: str,
        clients: Sequence[Client],
        requests: Sequence[Request],
        sent: Sequence[Mapping[str, torch.Tensor] | None],
        contexts: Sequence[Context],
    ) -> list[Reply] | None:
        """Answers in the clear, with what the server sent for each one's constants."""
        working = self._ready(clients, requests, sent, contexts)
        if working is None or self._refusal(working, requests[0]) is not None:
            return None
        replies = self._together[kind](working, requests)
        for client, context in zip(working, contexts, strict=True):
            _remember(client, context)
        return [self._agreed(reply) for reply in replies]

    def _ready(
        self,
        clients: Sequence[Client],
        requests: Sequence[Request],
        sent: Sequence[Mapping[str, torch.Tensor] | None],
        contexts: Sequence[Context],
    ) -> list[Client] | None:
        """The clients as they answer together; None where each counts, refuses or asks for itself."""
        numerics.configure(self._threads)
        distinct = {id(one): one for one in requests}.values()
        if self.contract is not None and (
            self.contract.counts or any(agreed.deviation(self.contract, one) for one in distinct)
        ):
            return None
        if any(refuse_numbers(one) is not None for one in distinct):
            return None
        for client, request, own in zip(clients, requests, sent, strict=True):
            if not self._holds_constants(request, own):
                return None
            self._check_parameters(client, request)
        return [self._working(*one) for one in zip(clients, contexts, requests, strict=True)]

    def _refusal(self, clients: Sequence[Client], request: Request) -> str | None:
        """As `answers.refusal`, which looks through the network, once for the same clients, data and task."""
        kind = (request.kind, request.additive, request.averaging_weight >= 1)
        about = [request.task, *clients, *(client.domain for client in clients)]
        known, why = self._refusals.get(kind, ([], None))
        if len(known) != len(about) or any(one is not other for one, other in zip(known, about, strict=True)):
            why = answers.refusal(clients, request)
            self._refusals[kind] = (about, why)
        return why

    def _masked_together(
        self,
        party: Party,
        kind: str,
        clients: Sequence[Client],
        opened: Sequence[Opened],
        contexts: Sequence[Context],
    ) -> list[PlainReply] | None:
        """Computed together, masked by each for itself; if one refuses, nobody's secrets have moved on."""
        if self._refusal(clients, opened[0].request) is not None:
            return None
        plain = self._together[kind](clients, [one.request for one in opened])
        masked = [
            secure_client.answer(party, question, client, partial(self._agreed, reply))
            for question, client, reply in zip(opened, clients, plain, strict=True)
        ]
        for client, context, question, (secrets, _) in zip(clients, contexts, opened, masked, strict=True):
            secure_client.store(party, context, question, secrets, client)
        return [plain_reply(reply) for _, reply in masked]

    def _party_or_refuse(self) -> Party:
        if self._party is None:
            raise FedhaError(
                "this client was asked for keys of secure sums and has no identity for them; set "
                "privacy.secure_aggregation where it is started"
            )
        return self._party

    def _client(self, context: Context, content: RecordDict) -> Client:
        """The client of a node, with what it remembers; what its data say when they are broken goes by the message."""
        key = (context.run_id, context.node_id)
        if key not in self._clients:
            client_id = client_id_of(context)
            if self._model is None:
                self._model = check_network(self._make_model(context)).to(torch.device(self._device))
                self._check_agreed(self._model)
                self._know(self._model, digests(state_of(self._model).constants))
            site = self._make_site()
            with errors_by_kind_if_protected(f"client {client_id}", site, content):
                domain = self._domain(self._model, context, client_id, content, site)
            if self._keeping.private and self._keeping.cache is not None:
                forget(self._keeping.cache, numpy.concatenate([row_keys(getattr(domain, part)) for part in PARTS]))
            self._clients[key] = Client(client_id, domain, self._model, site=site, stays=self._stays)
        return self._recalled(self._clients[key], context)

    def _recalled(self, client: Client, context: Context) -> Client:
        """A client with what it remembers."""
        known = context.state.get(_STATE)
        named = unpack_tensors(known, self._device) if isinstance(known, ArrayRecord) else {}
        client.state = from_tensors(named) if named else ClientState()
        return client

    def _check_agreed(self, model: SplitModel) -> None:
        found = network_digest(model)
        if self.contract is not None and self.contract.network not in ("", found):
            self._model = None
            raise FedhaError(
                f"this client's network has the digest {found}, and agreed was {self.contract.network}: its parts have "
                "other names, shapes or types; make it as it was agreed on"
            )

    def _domain(self, model: SplitModel, context: Context, client_id: int, content: RecordDict, site: Site) -> Domain:
        """A client's data, looked at before anything is trained."""
        given = checked_domain(self._make_domain(context), client_id)
        if site.limits is not None:
            site.account.split = split_fingerprint(given)
        domain = placed_domain(given, model)
        classes = check_inputs(model, given.name, domain.train.form)
        if not protects_examples(content):
            check_domain(domain, classes, given)
            return domain
        try:
            check_domain(domain, classes, given)
        except FedhaError as error:  # a refusal would tell of an example, so it is the site's log that says so
            log(WARNING, "fedha leaves examples of client %d out: %s", client_id, error)
        usable = without_unusable(domain, classes)
        for path in site.account.carry_on({"train": len(usable.train), "held_out": len(usable.held_out)}):
            log(WARNING, "fedha carries the account %s on in %s", path, site.account.path)
        return usable

    def _working(self, client: Client, context: Context, request: Request) -> Client:
        """The client as it answers: with features for inputs where the network in front of them is frozen.

        It is made when the network's constants are the server's, and each part of its data when it is asked for.
        """
        parts = divided(client.model, client.domain.train.form)
        if parts is None:
            if self._keeping.views:
                raise FedhaError(
                    f"model.features.views is {self._keeping.views}, but no part of the network that gives features is "
                    "frozen; set model.frozen: true, or leave it out"
                )
            return client
        quiet = client.site.protects(request.task.privacy)
        key, keeping = (context.run_id, context.node_id, quiet), replace(self._keeping, quiet=quiet)
        if key not in self._behind:
            domain = replace(
                client.domain,
                train=unready(client.domain.train, parts),
                held_out=unready(client.domain.held_out, parts),
            )
            self._behind[key] = replace(client, model=parts.rest, domain=domain), set()
        found, done = self._behind[key]
        rows, asked = len(client.domain.train), {*request.evaluate, *(("train",) if request.kind != "evaluate" else ())}
        for part in sorted(asked.intersection(PARTS) - done):
            title, whole = f"{client.domain.client_name}, {part}", sum(step_sizes(request.task, rows)) >= rows
            trained = part == "train"
            made = featured(getattr(client.domain, part), parts, keeping, title, whole=whole, trained=trained)
            own = found.domain
            found.domain = replace(own, train=made) if part == "train" else replace(own, held_out=made)
            done.add(part)
        found.state = client.state
        return found

    def _check_parameters(self, client: Client, request: Request) -> None:
        """Look at what a request holds, once for all clients of this process that share it."""
        if self._checked is request.parameters:
            return
        given = {**request.parameters, **request.running}
        shapes = {name: value.shape for name, value in given.items()}
        if shapes != self._fitting:
            check_request(client.model, request.parameters, request.running)
        self._checked, self._fitting = request.parameters, shapes

    def _holds_constants(self, request: Request, sent: Mapping[str, torch.Tensor] | None) -> bool:
        """Whether the clients' network has the constants that a request is about; it takes those that come along.

        Raises:
            FedhaError: What came is not what the request names, or of another network.
        """
        if not request.constants or self._model is None or request.constants in self._names:
            return True
        if sent is None:
            return False
        found = digests(sent)
        if constants_name(found) != request.constants:
            raise FedhaError("the constants that the server sent are not those that it names; look at the server")
        if (refusal := refuse_constants(self._model, sent)) is not None:
            raise FedhaError(refusal.sentence)
        take_constants(self._model, sent)
        gate.forget(self._model)
        self._know(self._model, self._constants | found)
        self._behind.clear()
        for client in self._clients.values():
            client.last_pass = None  # it was computed with others
        return True

    def _know(self, model: SplitModel, constants: dict[str, str]) -> None:
        """Note the digests of the network's constants; a server without buffers names what is frozen alone."""
        parameters = {name for name, _ in model.named_parameters()}
        frozen = {name: value for name, value in constants.items() if name in parameters}
        self._constants, self._names = constants, {constants_name(constants), constants_name(frozen)}


def check_server(content: RecordDict) -> None:
    """Look whether the server that asks for an introduction speaks our protocol.

    Raises:
        FedhaError: It does not; the client's own log says so too.
    """
    if (why := handshake.refusal(content, "the server", "this client")) is not None:
        log(ERROR, "fedha: %s", why)
        raise FedhaError(why)


def state_record(state: RecordDict) -> ArrayRecord | None:
    """What a node must remember for a run to resume, out of its context's state; None if that is nothing.

    What it released in a round serves that round alone, so it is no part of a checkpoint.
    """
    known = lasting(state.array_records.get(_STATE, ArrayRecord()))
    return array_record(known) if known else None


def kept(state: RecordDict) -> ArrayRecord | None:
    """What a node remembers, as its context holds it; another one as soon as that is another."""
    return state.array_records.get(_STATE)


def restore_state(state: ArrayRecord | None) -> RecordDict:
    """The context state of a node that `state_record` saw."""
    return RecordDict() if state is None else RecordDict({_STATE: state})


def recall_lasting(state: RecordDict, before: Mapping[str, torch.Tensor]) -> None:
    """Give a node's context what it remembered before a round, beside what it released in the round."""
    known = unpack_tensors(state.array_records.get(_STATE, ArrayRecord()))
    kept = {name: value for name, value in known.items() if name not in lasting(known)} | dict(before)
    state.pop(_STATE, None)
    if kept:
        state[_STATE] = pack_tensors(kept)


def _remember(client: Client, context: Context) -> None:
    if client.state:
        context.state[_STATE] = pack_tensors(to_tensors(client.state))


def client_id_of(context: Context) -> int:
    """A client's id, its number in client order.

    Raises:
        FedhaError: Its node config has none, or one that is no whole number from 0.
    """
    given = context.node_config.get("partition-id")
    if given is None:
        raise FedhaError(
            "the node config has no partition-id; start the SuperNode with "
            "--node-config 'partition-id=0' (its client id, a number from 0)"
        )
    if isinstance(given, bool) or not str(given).isdecimal():
        raise FedhaError(f"partition-id is {given!r}; give each client an id of its own, a whole number from 0")
    return int(given)
