"""The server's side of a round's secure sums: it carries the protocol's messages over the grid, and learns the sums.

Keys and shares of all sums of a round travel together, in two messages. Then each sum takes three: the question, which
is answered with the masked vector; the confirmation of whose vectors are in the sum; the shares that take masks off.
"""

import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedha.cohort import Member
from fedha.config import POOLED, PrivacyConfig
from fedha.errors import FedhaError
from fedha.exchange import Reply
from fedha.flower.correspondence import Correspondence
from fedha.flower.secure_wire import ADVERTISE, CONFIRM, MASKED, RECORD, REVEAL, SHARE, Parts, listed, single
from fedha.privacy.secure.encoding import decode
from fedha.privacy.secure.identity import Roster
from fedha.privacy.secure.layout import make_layout
from fedha.privacy.secure.messages import Advert, Confirmation, Dealing, MaskedInput, Revealed
from fedha.privacy.secure.numbers import BOUND, EXAMPLES, NUMBERS, counts_of, from_vector
from fedha.privacy.secure.packing import pack, unpack
from fedha.privacy.secure.server import Aggregation
from fedha.privacy.secure.session import Session, make_session, usual_threshold

_T = TypeVar("_T")
_M = TypeVar("_M", Advert, Dealing)


@dataclass(frozen=True)
class Wanted:
    """One sum of a round.

    Attributes:
        exchange: What it is called: `secure_wire.exchange_name`.
        members: Whose sum, in client order.
        numbers: What is summed along: `secure_wire.number_names`.
        shapes: Of the tensors, by name.
        weights: Of the clients, by client id; None: each brings its own, which nobody else knows.
    """

    exchange: str
    members: Sequence[Member]
    numbers: tuple[str, ...]
    shapes: Mapping[str, torch.Size] = field(default_factory=dict)
    weights: Mapping[int, float] | None = None


@dataclass
class SecureSums:
    """The secure sums of one run.

    Attributes:
        talk: Reaches the clients, and knows the rules for those who fail.
        settings: The thresholds and the range.
        run: What tells this run's messages from another's, and what the run is.
    """

    talk: Correspondence
    settings: PrivacyConfig
    run: str = field(default_factory=lambda: secrets.token_hex(8))
    _keys: dict[int, bytes] = field(default_factory=dict)  # identities by client id, as each was told first
    _wanted: dict[str, Wanted] = field(default_factory=dict)
    _sums: dict[str, Aggregation] = field(default_factory=dict)

    def begin(self, grid: Grid, round: int, wanted: Sequence[Wanted]) -> None:
        """Take in everybody's keys and shares for these sums, in two messages a client.

        Args:
            grid: Reaches the clients.
            round: From 1.
            wanted: The sums.

        Raises:
            FedhaError: Too few clients take part, the numbers do not fit them, or as `Correspondence.replies`.
        """
        self._wanted = {one.exchange: one for one in wanted}
        self._sums = {one.exchange: Aggregation(self._session(round, one), Roster(dict(self._keys))) for one in wanted}
        sessions = {name: pack(one.session) for name, one in self._sums.items()}
        cohorts = {name: one.session.cohort for name, one in self._sums.items()}
        contents = {client_id: {"sessions": mine} for client_id, mine in _by_client_id(cohorts, sessions).items()}
        self._ask(grid, ADVERTISE, round, contents, self._take_adverts)
        lists = {name: self._enough(one.close_adverts) for name, one in self._sums.items()}
        dealers = {name: [advert.client_id for advert in keys.adverts] for name, keys in lists.items()}
        packed = {name: pack(keys) for name, keys in lists.items()}
        contents = {client_id: {"keys": mine} for client_id, mine in _by_client_id(dealers, packed).items()}
        self._ask(grid, SHARE, round, contents, self._take_dealings)

    def inboxes(self, exchange: str, question: bytes) -> dict[int, ConfigRecord]:
        """What a sum's question carries for each client that may be asked, by client id.

        Args:
            exchange: The sum.
            question: Digest of what all are asked.

        Raises:
            FedhaError: Too few have dealt shares.
        """
        inboxes = self._enough(lambda: self._sums[exchange].close_dealings(question))
        return {client_id: ConfigRecord({"inbox": pack(inbox)}) for client_id, inbox in inboxes.items()}

    def weight_of(self, exchange: str, client_ids: Sequence[int]) -> float:
        """The weight that these clients have together in a sum, at most 1.

        Args:
            exchange: The sum.
            client_ids: Of its clients.
        """
        session = self._sums[exchange].session
        return min(1.0, math.fsum(session.weight(client_id) for client_id in client_ids))

    def finish(self, grid: Grid, messages: Iterable[Message], exchange: str, kind: str, round: int) -> "Sum":
        """The sum, from the answers to its question.

        Args:
            grid: Reaches the clients.
            messages: The answers, as they come.
            exchange: The sum.
            kind: The message type of the question.
            round: From 1.

        Raises:
            FedhaError: Too few clients are left, or their masks do not cancel.
        """
        wanted, sums = self._wanted.pop(exchange), self._sums.pop(exchange)
        layout = sums.session.layout

        def take(reply: Reply) -> None:
            vector = reply.tensors[MASKED]
            if vector.dtype != torch.int64:
                raise FedhaError(
                    f"client {reply.client_id} sends a vector of {vector.dtype}, not of 64-bit integers; it is left out"
                )
            words = vector.cpu().numpy().view(layout.dtype)
            sums.add_masked(MaskedInput(single(reply.secure, "session"), reply.client_id, words))

        for _ in self.talk.replies(messages, kind, round, {MASKED: torch.Size([layout.words])}, take):
            pass  # nothing of a reply is kept but its part of the sum
        survivors = self._enough(sums.close_masked)
        content: Parts = {"survivors": pack(survivors)}
        confirmed = self._ask(
            grid,
            CONFIRM,
            round,
            dict.fromkeys(survivors.client_ids, content),
            lambda reply: sums.add_confirmation(unpack(Confirmation, single(reply.secure, "confirmation"))),
        )
        content = {"confirmations": pack(self._enough(sums.close_confirmations))}
        self._ask(
            grid,
            REVEAL,
            round,
            dict.fromkeys(confirmed, content),
            lambda reply: sums.add_revealed(unpack(Revealed, single(reply.secure, "revealed"))),
        )
        words, client_ids = self._enough(sums.close_revealed)
        return _sum_of(wanted, sums.session, decode(layout, words, len(client_ids)), client_ids)

    def _session(self, round: int, wanted: Wanted) -> Session:
        client_ids = [member.client_id for member in wanted.members]
        if (wrong := refusal(self.settings, len(client_ids))) is not None:
            raise FedhaError(f"round {round}'s {wanted.exchange} cannot be summed: {wrong}")
        shapes = {name: tuple(shape) for name, shape in wanted.shapes.items()} | {NUMBERS: (len(wanted.numbers), 2)}
        bounds = {**dict.fromkeys(wanted.shapes, self.settings.bound), NUMBERS: BOUND}
        return make_session(
            self.run,
            round,
            wanted.exchange,
            client_ids,
            make_layout(shapes, len(client_ids), bounds),
            weights=wanted.weights,
            threshold=self.settings.threshold,
            minimum=self.settings.minimum,
        )

    def _take_adverts(self, reply: Reply) -> None:
        self._know(reply.client_id, single(reply.secure, "identity"))
        sums = [one for one in self._sums.values() if reply.client_id in one.session.cohort]
        for one, data in zip(sums, _all_of(reply, "adverts", len(sums)), strict=True):
            one.add_advert(_own(unpack(Advert, data), reply))

    def _take_dealings(self, reply: Reply) -> None:
        sums = [one for one in self._sums.values() if reply.client_id in one.asked]
        for one, data in zip(sums, _all_of(reply, "dealings", len(sums)), strict=True):
            one.add_dealing(_own(unpack(Dealing, data), reply))

    def _know(self, client_id: int, identity: bytes) -> None:
        """Remember who a client is; clients believe their own rosters, this only finds early who will be refused."""
        if self._keys.get(client_id) == identity:
            return
        if client_id in self._keys:
            raise FedhaError(
                f"client {client_id} comes with another identity key than it had before; if its site has a new one, "
                "start the run again (`fedha resume`)"
            )
        roster = Roster(self._keys | {client_id: identity})
        self._keys[client_id] = identity
        for one in self._sums.values():
            one.roster = roster

    def _ask(
        self,
        grid: Grid,
        kind: str,
        round: int,
        contents: Mapping[int, Parts],
        take: Callable[[Reply], None],
    ) -> list[int]:
        """One step with every client; returns the places of those whose answers were taken."""
        head = ConfigRecord({"task": self.talk.task, "round": round})
        known = {id(one): RecordDict({"request": head, RECORD: ConfigRecord(dict(one))}) for one in contents.values()}
        client_ids = sorted(contents)
        nodes = self.talk.nodes_of(client_ids)
        messages = self.talk.ask(
            kind,
            round,
            {node: known[id(contents[client_id])] for node, client_id in zip(nodes, client_ids, strict=True)},
        )
        replies = self.talk.replies(self.talk.deliver(grid, messages), kind, round, None, take)
        return sorted(reply.client_id for reply in replies)

    def _enough(self, close: Callable[[], _T]) -> _T:
        """Close a step; where too few are left, say why they are not there."""
        try:
            return close()
        except FedhaError as error:
            reasons = self.talk.reasons()
            raise FedhaError(f"{error}{f' ({reasons})' if reasons else ''}") from None


@dataclass(frozen=True)
class Sum:
    """What the server learns of one exchange.

    Attributes:
        client_ids: Whose vectors are in it, ascending.
        mean: Their weighted mean, by tensor, float64.
        numbers: Their common numbers.
        examples: How many training examples they have together.
        members: The cohort, by client id.
    """

    client_ids: tuple[int, ...]
    mean: Mapping[str, Tensor]
    numbers: Mapping[str, float]
    examples: int
    members: Mapping[int, Member]

    def replies(self, weights: Mapping[int, float], like: torch.dtype) -> list[Reply]:
        """The sum as the server's averages take it: a reply for each client in it, of which the first carries all.

        Args:
            weights: The clients' weights in the server's averages.
            like: Of what precision the tensors are there.
        """
        together = sum(weights[client_id] for client_id in self.client_ids)
        tensors = {name: (value * together).to(like) for name, value in self.mean.items()}
        # each says what all have together, so that means over them are that; evaluations are added, so one says them
        usual = {name: value for name, value in self.numbers.items() if "/" not in name or name.startswith("penalty/")}
        replies, sums = list[Reply](), counts_of(self.numbers)
        whole = {name: value for name, value in self.numbers.items() if name.rpartition("/")[0] not in sums}
        for client_id in self.client_ids:
            first = client_id == self.client_ids[0]
            numbers, counts = (whole, sums) if first else (usual, {})
            carried = tensors if first else {}
            replies.append(Reply(POOLED, POOLED, client_id, 1, carried, numbers, weighed=True, sums=counts))
        return replies


def refusal(settings: PrivacyConfig, clients: int) -> str | None:
    """Why so many clients cannot be summed securely, in a phrase; None if they can.

    Args:
        settings: With the thresholds.
        clients: Of one round.
    """
    if clients < settings.minimum:
        return (
            f"a round has {clients} clients and privacy.minimum is {settings.minimum}; have more clients a round "
            "(in a sum of two each client knows the other's part)"
        )
    if settings.threshold is not None and not clients // 2 < settings.threshold <= clients:
        return (
            f"privacy.threshold is {settings.threshold} and a round has {clients} clients; take {clients // 2 + 1} to "
            f"{clients} (more than half, or a malicious server could have two sets of survivors confirmed)"
        )
    return None


def least_clients(settings: PrivacyConfig, clients: int) -> int:
    """How many clients a round must have at least: 1 where it has no secure sums.

    Args:
        settings: With the thresholds.
        clients: How many there are.
    """
    if not settings.secure_aggregation:
        return 1
    return max(settings.minimum, settings.threshold or usual_threshold(clients))


def _sum_of(wanted: Wanted, session: Session, total: Mapping[str, Tensor], client_ids: tuple[int, ...]) -> Sum:
    numbers = from_vector(total[NUMBERS], wanted.numbers)
    examples = int(numbers.pop(EXAMPLES, 0))
    divisor = session.total_weight(client_ids) if wanted.weights is not None else examples
    if not divisor:
        raise FedhaError(f"the clients of {session.name} have no examples, so they have no mean; give them some")
    mean = {name: value / divisor for name, value in total.items() if name != NUMBERS}
    return Sum(client_ids, mean, numbers, examples, {one.client_id: one for one in wanted.members})


def _by_client_id(client_ids: Mapping[str, Sequence[int]], values: Mapping[str, bytes]) -> dict[int, list[bytes]]:
    """Each client's values, one for each sum that it takes part in, in the order of the sums."""
    found: dict[int, list[bytes]] = {}
    for name, among in client_ids.items():
        for client_id in among:
            found.setdefault(client_id, []).append(values[name])
    return found


def _all_of(reply: Reply, name: str, count: int) -> list[bytes]:
    found = listed(reply.secure, name)
    if len(found) != count:
        raise FedhaError(f"client {reply.client_id} sends {len(found)} {name} for {count} sums; they are left out")
    return found


def _own(message: _M, reply: Reply) -> _M:
    if message.client_id != reply.client_id:
        raise FedhaError(f"client {reply.client_id} sends what is client {message.client_id}'s; it is left out")
    return message
