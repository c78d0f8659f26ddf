"""A strategy's rounds with secure sums: which are wanted, how they are asked for, and how they enter the averages."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedha.cohort import Member, cohort_size
from fedha.config import Config, PrivacyConfig
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request, Task
from fedha.federation import Server
from fedha.flower.correspondence import Correspondence
from fedha.flower.secure_sums import SecureSums, Wanted, refusal
from fedha.flower.secure_wire import RECORD, asked, exchange_name, number_names
from fedha.flower.wire import pack_request, unpack_request
from fedha.metrics.asked import NOTHING, Asked
from fedha.models.state import RUNNING
from fedha.piggyback import RIDING

Shapes = Mapping[str, torch.Size]


class SecureRounds:
    """What `HessianAlignment` does in the place of reading clients' replies.

    Args:
        talk: Reaches the clients.
        settings: The thresholds and the range.
        task: The run's.
    """

    def __init__(self, talk: Correspondence, settings: PrivacyConfig, task: Task) -> None:
        self._talk, self._task = talk, task
        self._sums = SecureSums(talk, settings)
        self._grid: Grid | None = None
        self._under_way = ""  # the sum whose question was asked last

    def name_run(self, mark: str) -> None:
        """Name the run after its settings, before the first sum, for clients that hold it to theirs.

        Args:
            mark: `secure_wire.settings_mark` of the config.
        """
        self._sums.run = f"{self._sums.run} {mark}"

    def begin(
        self,
        grid: Grid,
        round: int,
        server: Server,
        statistics: Shapes,
        parts: tuple[str, ...],
        asked: Asked = NOTHING,
    ) -> None:
        """Prepare a round's sums: of each exchange's statistics, and of the updates with what rides along.

        Args:
            grid: Reaches the clients.
            round: From 1.
            server: Has drawn the cohort.
            statistics: Shapes, by name.
            parts: Of the domains, that are evaluated along with the updates.
            asked: What is counted of them.

        Raises:
            FedhaError: A shape is not known, or as `SecureSums.begin`.
        """
        self._grid = grid
        riding = server.riders(round)
        update = {name: value.shape for name, value in server.parameters.items()}
        update |= {f"{RUNNING}{name}": value.shape for name, value in server.running.items()}
        update |= {f"{RIDING}{name}": shape for name, shape in _known(riding, statistics).items()}
        update |= server.extra_shapes
        training = Request(self._task, round, {}, {}, riding, evaluate=parts, asked=asked if parts else NOTHING)
        sums = [
            _wanted("query.measure", self._measuring(round, measure), server, _known(measure, statistics))
            for measure in server.measurements()
        ]
        self._sums.begin(grid, round, [*sums, _wanted("train", training, server, update)])

    def begin_evaluation(
        self, grid: Grid, round: int, members: Sequence[Member], parts: tuple[str, ...], asked: Asked = NOTHING
    ) -> None:
        """Prepare the sum of the clients' evaluations of these parts of the domains, and of what is counted of them."""
        self._grid = grid
        names = number_names("evaluate", Request(self._task, round, {}, evaluate=parts, asked=asked, kind="evaluate"))
        alike = {member.client_id: 1 / len(members) for member in members}
        self._sums.begin(grid, round, [Wanted(exchange_name("evaluate", ()), members, names, {}, alike)])

    def _measuring(self, round: int, measure: tuple[str, ...]) -> Request:
        return Request(self._task, round, {}, {}, measure, kind="measure")

    def ask(
        self,
        kind: str,
        request: Request,
        arrays: ArrayRecord,
        references: ArrayRecord,
        sent: ArrayRecord,
        members: Sequence[Member],
    ) -> list[Message]:
        """The messages of an exchange, to those who can answer it masked: all of them are asked the same.

        Args:
            kind: The message type.
            request: But for the share and what is packed.
            arrays: The global model, packed.
            references: Packed.
            sent: What the rules send along, packed.
            members: Whom it is for: those who are left of the round's clients.
        """
        self._under_way = exchange_name(kind, request.measure)
        left = self._sums.weight_of(self._under_way, [member.client_id for member in members])
        packed = pack_request(replace(request, averaging_weight=left), arrays, references, self._talk.task, sent)
        inboxes = self._sums.inboxes(self._under_way, asked(kind, packed, unpack_request(packed, kind)))
        client_ids = [member.client_id for member in members if member.client_id in inboxes]
        contents = {
            node: RecordDict({**packed, RECORD: inboxes[client_id]})
            for node, client_id in zip(self._talk.nodes_of(client_ids), client_ids, strict=True)
        }
        return self._talk.ask(kind, request.round, contents)

    def answers(self, messages: Iterable[Message], kind: str, round: int, server: Server) -> list[Reply]:
        """The clients' sum, in the form of replies of which the first one carries it.

        Raises:
            FedhaError: As `SecureSums.finish`.
        """
        if self._grid is None:
            raise FedhaError("the strategy has begun no secure sum yet; call configure_train first")
        total = self._sums.finish(self._grid, messages, self._under_way, kind, round)
        weights = (
            server.averaging_weights
            if kind != "evaluate"
            else dict.fromkeys(total.client_ids, 1 / len(total.client_ids))
        )
        return total.replies(weights, next(iter(server.parameters.values())).dtype)


def check_clients(config: Config, clients: int) -> None:
    """Refuse a config whose rounds have too few clients for secure sums, before anything begins.

    Args:
        config: Of one run.
        clients: How many there are.

    Raises:
        FedhaError: They are too few.
    """
    settings = config.privacy
    if not settings.secure_aggregation:
        return
    if (wrong := refusal(settings, cohort_size(config.training, clients))) is not None:
        raise FedhaError(f"privacy.secure_aggregation: {wrong}")


def _wanted(kind: str, request: Request, server: Server, shapes: Shapes) -> Wanted:
    weights = None if request.task.training.averaging == "examples" else dict(server.averaging_weights)
    name = exchange_name(kind, request.measure)
    return Wanted(name, list(server.cohort), number_names(kind, request), shapes, weights)


def _known(names: Iterable[str], statistics: Shapes) -> dict[str, torch.Size]:
    wanted = list(names)
    if missing := [name for name in wanted if name not in statistics]:
        raise FedhaError(
            f"the shape of {missing[0]} is not known before it is summed; set the strategy's `expected` to "
            "fedha.measurement.shapes(model, input_shape, statistics, probes)"
        )
    return {name: statistics[name] for name in wanted}
