"""Hessian alignment as a Flower strategy."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from logging import INFO, WARNING
from os import urandom
from types import MappingProxyType
from typing import Any, Literal

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from flwr.supercore import log
from torch import Tensor

from fedha.arguments import check_argument, check_number
from fedha.cohort import Member
from fedha.config import FederationConfig, PrivacyConfig, RecipeConfig, TrainingConfig
from fedha.devices import to_device
from fedha.errors import FedhaError, listed
from fedha.exchange import Reply, Request, Task
from fedha.federation import Server, pool_evaluations
from fedha.flower import budget, called
from fedha.flower.correspondence import Correspondence, Rules
from fedha.flower.held import digest
from fedha.flower.secure_rounds import SecureRounds
from fedha.flower.secure_sums import least_clients
from fedha.flower.tensor_array import array_record, filled
from fedha.flower.wire import pack_arrays, pack_request, pack_task, pack_tensors, unpack_tensors
from fedha.metrics.asked import NOTHING
from fedha.models.state import RUNNING, constants_name, digests, divided, new_statistics, whole
from fedha.numerics import aligned
from fedha.piggyback import RIDING
from fedha.privacy.contract import Contract
from fedha.privacy.site import Site
from fedha.recipes import Recipe
from fedha.rules.table import allow
from fedha.runs.absences import absence_texts, left_out
from fedha.training import PARTS


class HessianAlignment(Strategy):
    """Trains with any recipe of `fedha.recipes`, in anybody's ServerApp.

    ``HessianAlignment("hgp").start(grid, initial_arrays, num_rounds=100)`` runs it with Flower's own loop, against the
    ClientApp of `fedha.flower.client_app`. Clients introduce themselves once, before their first round. Statistics are
    measured inside `configure_train`, over the same grid; with ``federation.schedule`` piggyback, only in the first
    round, and ride along with the updates from then on.

    Args:
        recipe: A row's name, a recipe's settings, or a recipe.
        training: How clients and server train; default: synchronous Adam.
        seed: Of the signs, the minibatches and the cohorts.
        clients: Wait for this many nodes before the first round (nodes register late in a simulation).
        federation: Schedule, timeouts, and what happens when clients are missing; default: a missing one ends the run.
        on_client_error: Whether a client that fails ends the run, or is left out of the round.
        privacy: How clients' answers are covered, and whether the server learns sums over them alone (then `expected`
            must be set); default: not at all.

    Attributes:
        expected: Shapes of the statistics, by name; if given, replies with others are refused.
        parts: What rides along with the next updates: parts of the domains to evaluate at the round's global model.
        asked: What clients count where they evaluate, beside accuracy and risk.
        clients_keep_models: Whether the ClientApp is one that keeps the global model on its disk (`fedha.deploy`), so
            that each client is sent it once a round.
        last_round: The last round's numbers.
        last_evaluation: What clients last evaluated: ``{part: {domain: {accuracy, risk, examples}}}``.
    """

    def __init__(
        self,
        recipe: str | RecipeConfig | Recipe = "hgp",
        training: TrainingConfig | None = None,
        *,
        seed: int = 0,
        clients: int = 1,
        federation: FederationConfig | None = None,
        on_client_error: Literal["stop", "skip"] = "stop",
        privacy: PrivacyConfig | None = None,
    ) -> None:
        _check_arguments(recipe, training, seed, clients, federation, on_client_error, privacy)
        row = RecipeConfig(name=recipe) if isinstance(recipe, str) else recipe
        resolved = row if isinstance(row, Recipe) else row.resolve()
        self.task = Task(resolved, training or TrainingConfig(), seed, privacy or PrivacyConfig())
        allow(self.task.training.optimizer)
        allow(self.task.training.weight_averaging)
        given = federation or FederationConfig(on_missing="stop")
        rules = Rules(
            clients=clients,
            timeout=given.timeout,
            patience=given.patience,
            on_missing=given.on_missing,
            min_clients=given.min_clients,
            least=1 if privacy is None else least_clients(privacy, clients),
            on_client_error=on_client_error,
        )
        self.piggyback = given.schedule == "piggyback"
        self.expected: Mapping[str, torch.Size] = {}
        self.parts: tuple[str, ...] = ()
        self.asked = NOTHING
        self.clients_keep_models = False
        self.server: Server | None = None
        self.last_round: dict[str, Any] = {}
        self.last_evaluation: dict[str, dict[str, Any]] = {}
        self._packed_task = pack_task(self.task)
        self.talk = Correspondence(
            rules, self._packed_task, Contract(self.task, given.schedule).digest, tell=lambda text: log(WARNING, text)
        )
        self._absent: dict[int, list[dict[str, Any]]] = {}  # events, by round
        self._own_loop = False  # whether Flower's is the loop
        self._told = False  # why clients are not asked to evaluate
        self._arrays: ArrayRecord | None = None
        self._taken: Mapping[str, Tensor] | None = None
        self._sizes = called.Sizes()
        self._sent: tuple[ArrayRecord, ArrayRecord] | None = None  # the whole, and what of it each message carries
        self._still: Mapping[str, Array] = {}  # what of the whole never moves
        self._constants = ""  # its digest, since it is never sent again
        self._named: ArrayRecord | None = None  # whose digest the clients are told
        secure = privacy is not None and privacy.secure_aggregation
        self.secure = SecureRounds(self.talk, privacy, self.task) if privacy is not None and secure else None

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run Flower's own loop, after a look at what it is given.

        Args:
            grid: Reaches the clients.
            initial_arrays: The network's state by name: ``ArrayRecord(network().state_dict())``.
            num_rounds: How many.
            timeout: Seconds that Flower's loop waits for an exchange.
            train_config: Not read; how clients train is the strategy's `training`.
            evaluate_config: Read for ``parts`` alone, the parts of a domain to evaluate: ``held_out,train``.
            evaluate_fn: Given the round and a copy of the model.

        Raises:
            FedhaError: A setting that nobody would read, or as the rounds do.
        """
        whose = "HessianAlignment.start"
        check_argument(whose, "initial_arrays", initial_arrays, ArrayRecord, "ArrayRecord(network.state_dict())")
        check_argument(whose, "grid", grid, Grid, "the grid of your ServerApp's main function")
        check_number(whose, "num_rounds", num_rounds, 1)
        refuse_settings("train_config", train_config or {}, ())
        refuse_settings("evaluate_config", evaluate_config or {}, ("parts",))
        parts_of(evaluate_config or {})
        self._absent, self._own_loop = {}, True
        result = super().start(grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn)
        self._own_loop = False
        if self.begun().shows_another:
            result.arrays = self.shown(over=True)
        for text in absence_texts(self.left_out, num_rounds):
            log(WARNING, text)
        return result

    @property
    def left_out(self) -> dict[str, dict[str, Any]]:
        """Which clients were left out, of how many rounds and evaluations, and why: `fedha.runs.absences.left_out`."""
        return left_out({"round": number, "events": events} for number, events in self._absent.items())

    def begin(self, state: Mapping[str, Tensor], kinds: Mapping[str, str] | None = None) -> Server:
        """Start from this state of a network; Flower's own loop does it with the first round's arrays.

        Args:
            state: By name, as in ``state_dict()``.
            kinds: What becomes of each part (`fedha.models.state.kinds_of`); None: all of it is trained.

        Raises:
            FedhaError: A part that is trained holds whole numbers, or the clients said that others are trained.
        """
        self.talk.check_kinds("the server", kinds or {})
        device = torch.device(self.talk.device)
        parts = divided(state if device.type == "cpu" else to_device(state, device), kinds or {})
        for name, value in parts.trained.items():
            if not value.is_floating_point():
                raise FedhaError(
                    f"the array {name!r} to start from holds {value.dtype}, which is no parameter that can be trained; "
                    "start from network().state_dict(), of the function that the clients have"
                )
        self.server, self.last_round, self.talk.kinds = (
            Server.holding(self.task, parts, piggyback=self.piggyback),
            {},
            kinds or {},
        )
        self.server.site, self.server.secret = Site("cryptographic"), urandom(32)
        self.restored()
        if new := new_statistics(self.server.constants):
            self.talk.tell(
                f"the running statistics of {listed(map(repr, new))} are a new layer's, mean 0 and variance 1, and "
                "never change: it normalises nothing; take model.batch_norm averaged or local, nn.GroupNorm, or start "
                "from a trained network"
            )
        return self.server

    def restored(self) -> None:
        """The server has another state, of a checkpoint: what clients are sent and told is made anew."""
        server, device = self.begun(), torch.device(self.talk.device)
        if device.type != "cpu":  # a checkpoint is read on the CPU; numbers alone, such as counts of steps, stay there
            server.running, server.references = to_device(server.running, device), to_device(server.references, device)
            server.states = {
                rule: {name: value if value.dim() == 0 else value.to(device) for name, value in kept.items()}
                for rule, kept in server.states.items()
            }
        self._arrays, self._taken, self._sent, self.talk.state = None, None, None, server.state
        self._sizes = called.Sizes()
        self.talk.held.constants = pack_tensors(server.constants)
        self._still = pack_arrays(server.constants, in_place=self._in_place)
        self._constants = constants_name(digests(server.constants))

    @property
    def arrays(self) -> ArrayRecord:
        """The whole global model, packed once a round."""
        if self._arrays is None:
            server = self.begun()  # a round makes new tensors, and leaves these as they are
            moved = pack_arrays({**server.parameters, **server.running}, in_place=self._in_place)
            self._arrays = array_record(whole({**moved, **self._still}, server.kinds))
        return self._arrays

    def shown(self, *, over: bool) -> ArrayRecord:
        """As `arrays`, of the model that is evaluated and kept, which is another one where a rule averages several.

        Args:
            over: Whether training is.
        """
        server = self.begun()
        return self._pack(server.shown(over=over)) if server.shows_another else self.arrays

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Draw the round's clients, measure its references over the grid, then ask them to train."""
        refuse_settings("train_config", config, ())
        fresh = self.server is None or (server_round == 1 and bool(self.last_round))  # a second start() is its own run
        if fresh:
            self.talk.restart(unpack_tensors(arrays))
        request = self._opened(server_round, arrays, grid, fresh=fresh)
        return self._ask("train", request, arrays, self.begun().cohort)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the updates in client order, as they come, and take the server's step."""
        self._closed(server_round, self._answers(replies, "train", server_round, self._expected_update(server_round)))
        numbers: dict[str, int | float | list[int] | list[float]] = {
            key: self.last_round[key] for key in ("loss", "weight", "clients") if key in self.last_round
        }
        for group in ("risk", "accuracy", "penalty"):
            numbers |= {f"{group}/{name}": value for name, value in self.last_round[group].items()}
        return self.arrays, filled(MetricRecord(), numbers)

    def train_round(self, server_round: int, grid: Grid) -> None:
        """A whole round over a grid, once there is a model: `configure_train` and `aggregate_train` in one.

        Clients of this process that are answered together are called, without messages (`fedha.flower.called`).
        """
        request = self._opened(server_round, None, grid)
        expected = self._expected_update(server_round)
        self._closed(server_round, self._exchange("train", request, None, grid, expected))

    def _opened(self, round: int, arrays: ArrayRecord | None, grid: Grid, *, fresh: bool = False) -> Request:
        """A round's request to train, after its clients are drawn and its references are measured.

        Args:
            round: From 1.
            arrays: The global model; None: the server's own.
            grid: Reaches the clients.
            fresh: Whether this is a run's first round, whose model the server does not have yet.
        """
        self.talk.events = []
        members = self.talk.meet(grid, round)  # who say what of the state is trained
        server = self.begin(self.talk.state, self.talk.kinds) if fresh else self.begun()
        if not server.gather(round, members):
            raise FedhaError(f"no client is left for round {round}: {self.talk.reasons()}")
        if self.secure is not None:
            self.secure.begin(grid, round, server, self.expected, self.parts, self.asked)
        references = dict(server.references)
        for measure in server.measurements():
            wanted = Request(self.task, round, {}, references, measure, kind="measure")
            expected = {name: self.expected[name] for name in measure if name in self.expected}
            references |= server.refer(self._exchange("query.measure", wanted, arrays, grid, expected))
        return Request(
            *(self.task, round, {}, references, server.riders(round)),
            evaluate=self.parts,
            asked=self.asked if self.parts else NOTHING,
            sent=server.sent_along(),
        )

    def _expected_update(self, round: int) -> dict[str, torch.Size]:
        """Shapes of what a client answers in a round, by name; empty where they are not known."""
        server = self.begun()
        riding = server.riders(round)
        if riding and not self.expected:
            return {}
        expected = {name: value.shape for name, value in server.parameters.items()} | dict(server.extra_shapes)
        expected |= {f"{RUNNING}{name}": value.shape for name, value in server.running.items()}
        return expected | {f"{RIDING}{name}": self.expected[name] for name in riding}

    def _closed(self, round: int, replies: Iterable[Reply]) -> None:
        """The server's step from a round's answers."""
        server = self.begun()
        self.last_round = server.step(round, replies)
        self._absent |= {round: list(self.talk.events)} if self.talk.events else {}
        if self.parts:
            self.last_evaluation, self.parts = server.evaluated, ()
        self._arrays, self._taken = None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every client for accuracy and risk on parts of its domain (``parts`` in the config: held_out, train).

        Where single examples are protected, an evaluation is one more release: nobody is asked without
        `privacy.evaluation_noise`, nor beyond the budget.
        """
        refuse_settings("evaluate_config", config, ("parts",))
        parts, server = parts_of(config), self.begun()
        if not budget.may_evaluate(server):
            if self.task.privacy.evaluation_noise is None and not self._told:
                self.talk.tell("clients are not asked to evaluate: privacy.evaluation_noise is not set")
            self._told = True
            return self.talk.ask("evaluate", server_round, {})
        if self.task.privacy.protect == "examples":
            parts = ("held_out",)  # an evaluation of the training examples would be one more release of them
        members = self.talk.meet(grid, server_round, "evaluate")
        server.spending = server.spending.evaluation(server.task, server.members)
        if self.secure is not None:
            self.secure.begin_evaluation(grid, server_round, members, parts, self.asked)
        request = Request(self.task, server_round, {}, evaluate=parts, asked=self.asked, kind="evaluate")
        arrays = self.shown(over=False) if self._own_loop else arrays
        return self._ask("evaluate", request, arrays, members)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Collect each domain's numbers; domains are not averaged, that is the point of them."""
        if not self.talk.asked:
            self.last_evaluation = {}
            return None
        self.last_evaluation = pool_evaluations(list(self._answers(replies, "evaluate", server_round, {})))
        if self._own_loop:
            self.begun().hear(self.last_evaluation.get("held_out", {}))
        self._absent |= {server_round: list(self.talk.events)} if self.talk.events else {}
        return MetricRecord(
            {
                f"{domain}/{part}/{name}": value
                for part, domains in self.last_evaluation.items()
                for domain, numbers in domains.items()
                for name, value in numbers.items()
                if isinstance(value, int | float)
            }
        )

    def summary(self) -> None:
        """Log what is trained."""
        recipe = self.task.recipe
        log(INFO, "\t├──> recipe: %s (%s)", recipe.name, ", ".join(t.statistic for t in recipe.terms) or "no penalty")
        log(INFO, "\t├──> exchanges a round: %d", 1 if self.piggyback else recipe.exchanges)
        log(INFO, "\t└──> mode: %s", self.task.training.mode)

    def _exchange(
        self, kind: str, request: Request, arrays: ArrayRecord | None, grid: Grid, expected: Mapping[str, torch.Size]
    ) -> Iterable[Reply]:
        """What the round's clients answer; those of this process without messages, where the grid calls them."""
        members = self.begun().cohort
        if arrays is None and self.secure is None and (call := called.calls(grid)) is not None:
            requests = self._requests(kind, replace(request, parameters=self._parameters), members)
            if (replies := call(kind, requests)) is not None:
                self.talk.bytes_down += len(requests) * self._sizes.down(
                    kind, next(iter(requests.values())), self._content
                )
                return self.talk.heard(replies, kind, request.round, expected, self._sizes.up)
        messages = self._ask(kind, request, self.arrays if arrays is None else arrays, members)
        return self._answers(self.talk.deliver(grid, messages), kind, request.round, expected)

    def _ask(self, kind: str, request: Request, arrays: ArrayRecord, members: Sequence[Member]) -> list[Message]:
        """One message a client; those with the same averaging weight carry the same content."""
        arrays = self._trained(arrays)
        if self.clients_keep_models and arrays is not self._named:
            self._named, self.talk.held.model = arrays, digest(unpack_tensors(arrays))
        packed, sent = self._pack(request.references), self._pack(request.sent)
        if self.secure is not None:
            return self.secure.ask(kind, self._addressed(request), arrays, packed, sent, members)
        requests = self._requests(kind, request, members)
        contents = {
            key: pack_request(one, arrays, packed, self._packed_task, sent, in_place=self._in_place)
            for key, one in {id(one): one for one in requests.values()}.items()
        }
        return self.talk.ask(kind, request.round, {node: contents[id(one)] for node, one in requests.items()})

    def _requests(self, kind: str, request: Request, members: Sequence[Member]) -> dict[int, Request]:
        """What each node is asked; those with the same averaging weight the same."""
        server = self.begun()
        additive = kind != "evaluate" and not server.weighs_updates
        additive = additive and self.task.privacy.protect != "clients"  # else each answer is clipped by itself
        weights = [server.averaging_weights.get(member.client_id, 1.0) for member in members]
        by_weight = {
            weight: self._addressed(request, averaging_weight=weight, additive=additive)
            for weight in dict.fromkeys(weights)
        }
        return {node: by_weight[weight] for node, weight in zip(self.talk.nodes(members), weights, strict=True)}

    def _addressed(self, request: Request, **own: Any) -> Request:
        """A request with what all of the run's have, and its own."""
        running, contract = self.begun().running, self.talk.contract
        return replace(request, running=running, constants=self._constants, contract=contract, **own)

    @property
    def _parameters(self) -> Mapping[str, Tensor]:
        """The global model's trained parameters as clients of this process take them, the same for a whole round."""
        if self._taken is None:
            self._taken = MappingProxyType({name: aligned(one) for name, one in self.begun().parameters.items()})
        return self._taken

    def _content(self, request: Request) -> RecordDict:
        """What a message would carry."""
        packed, sent = self._pack(request.references), self._pack(request.sent)
        arrays = self._trained(self.arrays)
        return pack_request(request, arrays, packed, self._packed_task, sent, in_place=self._in_place)

    @property
    def _in_place(self) -> bool:
        """Whether tensors stay where they are: the clients compute on this server's card, in this process."""
        return self.talk.device != "cpu"

    def _pack(self, tensors: Mapping[str, Tensor]) -> ArrayRecord:
        return pack_tensors(tensors, in_place=self._in_place)

    def _trained(self, arrays: ArrayRecord) -> ArrayRecord:
        """Those of the global model's arrays that each message carries; the same record for the same arrays."""
        if self._sent is None or self._sent[0] is not arrays:
            names = self.begun().parameters.keys()
            sent = arrays if arrays.keys() == names else array_record({name: arrays[name] for name in names})
            self._sent = arrays, sent
        return self._sent[1]

    def _answers(
        self, messages: Iterable[Message], kind: str, round: int, expected: Mapping[str, torch.Size]
    ) -> Iterable[Reply]:
        """The clients' replies; or, where only their sum may be known, that."""
        if self.secure is not None:
            return self.secure.answers(messages, kind, round, self.begun())
        return self.talk.replies(messages, kind, round, expected)

    def begun(self) -> Server:
        """The server's state, once there is one.

        Raises:
            FedhaError: No model yet.
        """
        if self.server is None:
            raise FedhaError("the strategy has no model yet; call begin(parameters) or let start() run the rounds")
        return self.server


def refuse_settings(where: str, config: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse settings that no client of fedha would read.

    Raises:
        FedhaError: Names the first one.
    """
    for name, value in config.items():
        if name not in known:
            hint = f"{where} knows {', '.join(known)} alone" if known else "set it in HessianAlignment(training=…)"
            raise FedhaError(f"{where} has {name} = {value!r}, which no client reads; {hint}")


def parts_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts of a domain that an evaluation is asked for.

    Raises:
        FedhaError: There is no such part.
    """
    parts = tuple(part.strip() for part in str(config.get("parts", "held_out")).split(","))
    if unknown := [part for part in parts if part not in PARTS]:
        raise FedhaError(f"evaluate_config has parts = {unknown[0]!r}; a domain's parts are {' and '.join(PARTS)}")
    return parts


def _check_arguments(
    recipe: object,
    training: object,
    seed: object,
    clients: object,
    federation: object,
    on_client_error: object,
    privacy: object,
) -> None:
    whose, nothing = "HessianAlignment", type(None)
    kinds = (str, RecipeConfig, Recipe)
    check_argument(whose, "recipe", recipe, kinds, "a row's name (`fedha recipes`), a RecipeConfig or a Recipe")
    for name, value, kind in (
        ("training", training, TrainingConfig),
        ("federation", federation, FederationConfig),
        ("privacy", privacy, PrivacyConfig),
    ):
        check_argument(whose, name, value, (kind, nothing), f"a {kind.__name__}, such as {kind.__name__}(), or None")
    check_number(whose, "seed", seed, 0)
    check_number(whose, "clients", clients, 1)
    if on_client_error not in ("stop", "skip"):
        raise FedhaError(f"{whose} was given on_client_error={on_client_error!r}; give 'stop' or 'skip'")
