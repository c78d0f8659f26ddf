"""The server's side of talking to clients over a grid: who they are, who answers, who is gone, what is refused."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from logging import WARNING
from typing import Any, Literal

import torch
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore import log

from fedha.cohort import Member
from fedha.errors import ClientError, FedhaError, listed
from fedha.exchange import Reply
from fedha.flower import handshake
from fedha.flower.attendance import Attendance
from fedha.flower.delivery import deliver, is_gone, never, stop_if_asked
from fedha.flower.failure import find_failure
from fedha.flower.held import HeldModels, lacks
from fedha.flower.outside import is_outside
from fedha.flower.wire import (
    HELD_OUT,
    LENDS,
    SEEDED,
    UNREACHED,
    count_array_bytes,
    count_bytes,
    count_other_bytes,
    pack_introduction,
    unpack_reply,
)
from fedha.verdict import problem, refused

_VERBS = {
    "query.introduce": "introduce itself",
    "query.measure": "measure",
    "query.heads": "answer heads",
    "query.directions": "answer directions",
    "query.advertise": "send its keys",
    "query.share": "share its secrets",
    "query.confirm": "confirm whose sum it is",
    "query.reveal": "give its shares",
    "train": "train",
    "evaluate": "evaluate",
}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0  # seconds between looks for a client that is gone


@dataclass(frozen=True)
class Rules:
    """What happens when clients are late, gone, or wrong.

    Attributes:
        clients: How many must be connected before the first round.
        timeout: Seconds for an exchange; who is silent for longer is missing.
        patience: Seconds to wait for those who are missing.
        on_missing: stop: the run ends; wait: they are asked again when they are back; skip: the round goes on without.
        min_clients: With skip, a round needs so many; None: half of those asked.
        least: A round needs so many in any case, for its sums to be secure.
        on_client_error: Whether a client that fails ends the run, or is left out of the round.
    """

    clients: int = 1
    timeout: float = 3600.0
    patience: float = 86400.0
    on_missing: Literal["stop", "wait", "skip"] = "stop"
    min_clients: int | None = None
    least: int = 1
    on_client_error: Literal["stop", "skip"] = "stop"

    def enough(self, asked: int) -> int:
        """How many of those asked must answer before the others are passed over."""
        return min(asked, max(self.least, -(-asked // 2) if self.min_clients is None else self.min_clients))


@dataclass
class Correspondence:
    """The conversation of one run.

    Attributes:
        rules: For what goes wrong.
        task: The packed task, which every message carries.
        contract: Digest of what was agreed on, which every message carries too.
        tell: Told, in a sentence, what takes long or goes wrong, as soon as it is known.
        stop: Asked now and then, whether the run should stop.
        again: Told the message type and the id of a client that is about to be asked once more.
        state: The global model's, as soon as there is one: a client whose network has another says so at once.
        kinds: What becomes of its parts; learned from the first client where nobody else has said so.
        held: Which clients hold which global model; in a deployment it is sent to each once.
        attendance: Who is connected, and what people call them.
        events: What went wrong in this round and how it went on, ready for metrics.jsonl.
        bytes_down: Sent so far.
        bytes_up: Received so far.
        device: Where the server computes, and wants what it is sent.
        lent: Unseen domains that a diagnosis asks for, whose volunteers have a part in it; in a run none has.
        lenders: Ids of the clients that volunteer.
    """

    rules: Rules
    task: str
    contract: str = ""
    tell: Callable[[str], None] = lambda text: log(WARNING, text)
    stop: Callable[[], bool] = never
    again: Callable[[str, int], None] = lambda kind, client_id: None
    held: HeldModels = field(default_factory=HeldModels)
    state: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    attendance: Attendance = field(default_factory=Attendance)
    events: list[dict[str, Any]] = field(default_factory=list)
    bytes_down: int = 0
    bytes_up: int = 0
    device: str = "cpu"
    lent: tuple[str, ...] = ()
    lenders: set[int] = field(default_factory=set)
    _members: dict[int, Member] = field(default_factory=dict)  # by node
    _met: tuple[list[int], list[Member]] = ([], [])  # nodes, and who they are
    _asked: dict[int, Message] = field(default_factory=dict)  # of the exchange that is under way, by node
    _contents: dict[int, RecordDict] = field(default_factory=dict)  # of the same, with the whole model
    _grid: Grid | None = None
    _other: set[int] = field(default_factory=set)  # nodes that were told of for their constants
    _idle: set[tuple[str, ...]] = field(default_factory=set)  # parameters that were told of

    def meet(self, grid: Grid, round: int, before: str = "query.introduce") -> list[Member]:
        """Wait for the clients and learn who they are: nodes that are new introduce themselves.

        Args:
            grid: Reaches the nodes.
            round: From 1.
            before: What is about to be asked, which those who are missing are not.

        Returns:
            All clients that are known and connected, in client order.

        Raises:
            FedhaError: Too few nodes connect in time.
            FedhaError, ClientError: One fails to introduce itself, and that is not to be passed over.
        """
        self._grid = grid
        nodes = self._wait_for_nodes(grid, before)
        if nodes == self._met[0]:
            return self._met[1]
        while new := [node for node in nodes if node not in self._members]:
            content = handshake.greeted(pack_introduction(self.task, self.state, self.kinds, self.contract, self.lent))
            messages = self.ask("query.introduce", round, dict.fromkeys(new, content))
            for _ in self.replies(self.deliver(grid, messages), "query.introduce", round):
                pass  # each reply makes its node known
            if not self.attendance.outside.intersection(new):
                break
            nodes = self._wait_for_nodes(grid, before)  # those that have no part do not count
        known = [self._members[node] for node in nodes if node in self._members]
        known = [one for one in known if self.lent or one.client_id not in self.lenders]  # whatever they say
        members = sorted(known, key=lambda one: one.client_id)
        self._met = (nodes, members) if len(known) == len(nodes) else ([], [])
        return members

    def deliver(self, grid: Grid, messages: Sequence[Message]) -> Iterator[Message]:
        """Send the messages of an exchange, and yield what comes back.

        Raises:
            StoppedError: The run should stop.
        """
        return deliver(grid, messages, self.rules.timeout, self.stop)

    @property
    def asked(self) -> bool:
        """Whether anybody was asked anything in the exchange that is under way."""
        return bool(self._asked)

    def nodes(self, members: Sequence[Member]) -> list[int]:
        """The nodes of these clients, in the same order."""
        return self.nodes_of([member.client_id for member in members])

    def nodes_of(self, client_ids: Sequence[int]) -> list[int]:
        """The nodes of the clients with these ids, in the same order."""
        known = {member.client_id: node for node, member in self._members.items()}
        return [known[client_id] for client_id in client_ids]

    def ask(self, kind: str, round: int, contents: Mapping[int, RecordDict]) -> list[Message]:
        """The messages of an exchange, which is then under way.

        Args:
            kind: The message type.
            round: From 1.
            contents: By node; the same object where they are alike.
        """
        self._contents = dict(contents)
        self._asked = self._messages(kind, round, contents)
        return list(self._asked.values())

    def _messages(self, kind: str, round: int, contents: Mapping[int, RecordDict]) -> dict[int, Message]:
        sent = self.held.shorten(contents)
        sizes = {id(content): count_bytes(content) for content in {id(one): one for one in sent.values()}.values()}
        self.bytes_down += sum(sizes[id(content)] for content in sent.values())
        return {node: Message(content, node, kind, group_id=str(round)) for node, content in sent.items()}

    def replies(
        self,
        messages: Iterable[Message],
        kind: str,
        round: int,
        expected: Mapping[str, torch.Size] | None = None,
        accept: Callable[[Reply], None] | None = None,
    ) -> Iterator[Reply]:
        """Read replies as they come. What failed, is missing or is refused goes by the rules.

        Args:
            messages: As they come.
            kind: What was asked.
            round: From 1.
            expected: Shapes of a reply's tensors, by name.
            accept: Takes each reply, or refuses it with a FedhaError.
        """
        begun, answered, summed = time.monotonic(), 0, 0
        waiting, missed = dict(self._asked), set[int]()
        reasons: dict[int, FedhaError | ClientError] = {}
        while waiting:
            lacking: dict[int, Message] = {}
            for message in messages:
                node = self._node_of(message)
                if lacks(message) and self.held.believed(node, message):
                    lacking[node] = message
                    continue
                if (failed := find_failure(message)) is not None:
                    if failed.client_id is not None:
                        self.attendance.learn_client_id(node, failed.client_id)
                    error = failed.error(f"{self._who(node)} failed to {_VERBS[kind]} in round {round}")
                    if message.has_error() and is_gone(message):
                        reasons[node] = error
                        continue
                    waiting.pop(node, None)
                    self._failed(node, kind, error)
                    continue
                waiting.pop(node, None)
                if kind == "query.introduce" and (reason := is_outside(message)) is not None:
                    self.attendance.outside.add(node)
                    self.tell(f"{self._who(node)} has no part in this run: {reason}")
                    continue
                if lacks(message):
                    self._failed(node, kind, FedhaError(f"{self._who(node)} asks for a model that it was sent"))
                    continue
                if kind == "query.introduce" and not self._understood(node, message):
                    continue
                try:
                    reply = unpack_reply(message.content, self.device)
                except FedhaError as error:
                    self._failed(node, kind, refused(self._who(node), _VERBS[kind], round, str(error)), "refused")
                    continue
                if kind == "query.introduce" and not self._alike(node, reply):
                    continue
                arrays = count_array_bytes(message.content) if reply.tensors or not reply.weighed else summed
                self.bytes_up += arrays + count_other_bytes(message.content)
                summed = arrays  # where the clients of one process sent a sum, each would send as much over a network
                later = reply.weighed and self.device != "cpu"  # of clients of this process: one looks at their mean
                if not self._counts(node, reply, kind, round, expected or {}, later=later):
                    continue
                if accept is not None and not self._accepted(accept, reply, node, kind):
                    continue
                if node in missed:
                    self._note("returned", node, kind, f"it answered after {time.monotonic() - begun:.0f} s")
                self._know(node, reply)
                self.held.answered(node, self._asked.get(node))
                answered += 1
                yield reply
            if lacking:
                messages = self._ask_whole(lacking, kind, round)
                waiting |= {node: self._asked[node] for node in lacking}
                continue
            late = self._late(len(self._asked) - len(waiting.keys() - reasons.keys()), kind, round)
            reasons = {node: reasons.get(node, late) for node in waiting}
            if not waiting or self._goes_on_without(reasons, kind, answered):
                break
            for node in waiting.keys() - missed:
                self._note("missing", node, kind, str(reasons[node]))
            missed |= waiting.keys()
            messages, reasons = self._ask_again(waiting, begun), {}
        self._check_enough(answered, len(self._asked), kind, round)

    def heard(
        self,
        replies: Mapping[int, Reply],
        kind: str,
        round: int,
        expected: Mapping[str, torch.Size],
        sizes: Callable[[Reply], tuple[int, int]],
    ) -> Iterator[Reply]:
        """As `replies`, of clients of this process that have answered a call.

        Args:
            replies: By node.
            kind, round, expected: As there.
            sizes: Bytes of the arrays of a message with such a reply, and of the rest of it.
        """
        answered, summed = 0, 0
        for node, reply in replies.items():
            arrays, other = sizes(reply)
            summed = arrays if reply.tensors or not reply.weighed else summed
            self.bytes_up += summed + other
            if self._counts(node, reply, kind, round, expected, later=reply.weighed):  # who added them up has looked
                answered += 1
                yield reply
        self._check_enough(answered, len(replies), kind, round)

    def _counts(
        self, node: int, reply: Reply, kind: str, round: int, expected: Mapping[str, torch.Size], *, later: bool
    ) -> bool:
        """Whether a reply may enter an average; `later` as in `problem`."""
        if (wrong := problem(reply, expected, later=later and kind == "train")) is None:
            return True
        self._failed(node, kind, refused(self._who(node), _VERBS[kind], round, wrong), "refused")
        return False

    def _late(self, heard: int, kind: str, round: int) -> FedhaError:
        return FedhaError(
            f"{heard} of {len(self._asked)} clients replied to {kind.rpartition('.')[2]} in round {round} within "
            f"{self.rules.timeout:g} s; raise the timeout or look at the clients' logs"
        )

    def _goes_on_without(self, gone: Mapping[int, FedhaError | ClientError], kind: str, answered: int) -> bool:
        """Whether those who are gone are passed over, not waited for; ends the run where the rules say so."""
        rules = self.rules
        if rules.on_missing == "stop":
            for node, error in gone.items():
                self._failed(node, kind, error)
            return True
        alone = kind == "evaluate" and rules.least == 1  # a secure sum of too few would be refused
        skip = alone or (rules.on_missing == "skip" and answered >= rules.enough(len(self._asked)))
        for node, error in gone.items() if skip else ():
            self._note("skipped", node, kind, str(error))
        return skip

    def _ask_whole(self, lacking: Mapping[int, Message], kind: str, round: int) -> Iterator[Message]:
        """Ask those who do not hold the model once more, with what they asked for."""
        if (grid := self._grid) is None:
            raise FedhaError("the strategy has met no client yet; call configure_train first")
        for node, message in lacking.items():
            if self.held.forget(node, message) and node not in self._other:
                self._other.add(node)
                self.tell(
                    f"{self._who(node)} comes with other frozen parameters or buffers than the server's, or has lost "
                    "them; it is sent the server's"
                )
        fresh = self._messages(kind, round, {node: self._contents[node] for node in lacking})
        self._asked |= fresh
        return self.deliver(grid, list(fresh.values()))

    def _ask_again(self, missing: Mapping[int, Message], since: float) -> Iterator[Message]:
        """Ask those who are gone once more, as soon as one of them is connected; the others stay missing."""
        grid, pause = self._grid, _FIRST_PAUSE
        if grid is None:
            raise FedhaError("the strategy has met no client yet; call configure_train first")
        while not (back := [node for node in self.attendance.look(grid) if node in missing]):
            if time.monotonic() > since + self.rules.patience:
                names = listed(self._who(node) for node in missing)
                raise FedhaError(
                    f"{names} did not come back within {self.rules.patience:g} s; look at the site, then resume the run"
                )
            stop_if_asked(self.stop)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        time.sleep(pause)  # one that fails at once must not be asked at once again and again
        for node in back:
            if node in self._members:
                self.again(missing[node].metadata.message_type, self._members[node].client_id)
        fresh = {node: _once_more(missing[node]) for node in back}
        self._asked |= fresh
        self.bytes_down += sum(count_bytes(one.content) for one in fresh.values())
        return self.deliver(grid, list(fresh.values()))

    def _wait_for_nodes(self, grid: Grid, before: str) -> list[int]:
        """The connected nodes, once there are enough."""
        rules = self.rules
        wanted = rules.clients
        if rules.on_missing == "skip" and self._members:
            wanted = rules.enough(rules.clients)
        seconds = rules.timeout if rules.on_missing == "stop" else rules.patience
        deadline, pause, told = time.monotonic() + seconds, 0.05, [-1]
        while (
            len(nodes := [node for node in self.attendance.look(grid) if node not in self.attendance.outside]) < wanted
        ):
            if nodes != told and pause >= 1.0:
                self.tell(self.attendance.describe(nodes, wanted))
                told = nodes
            if time.monotonic() > deadline:
                raise FedhaError(
                    f"{len(nodes)} of {wanted} clients connected within {seconds:g} s; "
                    f"start {', '.join(self.attendance.absent(nodes)) or 'the others'}, or lower the number of clients"
                )
            stop_if_asked(self.stop)
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
        begun = "the evaluation" if before == "evaluate" else "the round"
        for node in set(self._members) - set(nodes):
            self._note("missing", node, before, f"it was not connected when {begun} began")
        return nodes

    def _check_enough(self, answered: int, asked: int, kind: str, round: int) -> None:
        needed = 1 if self.rules.on_missing == "stop" else self.rules.enough(asked)
        if kind in ("query.measure", "train") and answered < needed:
            raise FedhaError(f"{answered} of {asked} clients are left in round {round}: {self.reasons()}")

    def reasons(self) -> str:
        """Who is not there in this round, and why: the first ones' words."""
        told = (
            one["reason"] if one["client"] in one["reason"] else f"{one['client']}: {one['reason']}"
            for one in self.events
        )
        return listed(told, most=4, between="; ")

    def _know(self, node: int, reply: Reply) -> None:
        self.lenders |= {reply.client_id} if LENDS in reply.metrics else set()
        known = self._members.get(node)
        shape = reply.input_shape or (known.input_shape if known else ())
        noise, held_out = (known.noise, known.held_out) if known else ("", 0)
        told = tuple(name.removeprefix(UNREACHED) for name in reply.metrics if name.startswith(UNREACHED))
        unreached = told or (known.unreached if known else ())
        if SEEDED in reply.metrics:
            noise = "seeded" if reply.metrics[SEEDED] else "cryptographic"
            held_out = int(reply.metrics[HELD_OUT])
        examples = reply.examples or (known.examples if known else 0)  # masked answers do not say
        if known != (member := Member(reply.client_id, reply.domain, examples, shape, noise, held_out, unreached)):
            self._members[node], self._met = member, ([], [])
        if told and told not in self._idle:
            self._idle.add(told)
            self.tell(f"the network's output is not made of {listed(told)}: no loss moves them, weight decay alone can")

    def _node_of(self, message: Message) -> int:
        """Where a node is gone the error comes from the server in its stead; what it answers tells whose it is."""
        if not message.has_error():
            return message.metadata.src_node_id
        answered = message.metadata.reply_to_message_id
        sent = ((node, one.metadata) for node, one in self._asked.items())
        return next((node for node, m in sent if m.message_id == answered), message.metadata.src_node_id)

    def _who(self, node: int) -> str:
        return self.attendance.call(node, self._members.get(node))

    def _accepted(self, accept: Callable[[Reply], None], reply: Reply, node: int, kind: str) -> bool:
        known = self._members.get(node)
        try:
            if known is not None and known.client_id != reply.client_id:
                raise FedhaError(f"{self._who(node)} answers as client {reply.client_id}; its answer is left out")
            accept(reply)
        except FedhaError as error:
            self._failed(node, kind, error, "refused")
            return False
        return True

    def _understood(self, node: int, message: Message) -> bool:
        """Whether a node that introduces itself speaks our protocol."""
        who = self._who(node)
        if (why := handshake.refusal(message.content, who, "this server")) is not None:
            self._failed(node, "query.introduce", FedhaError(why))
            return False
        if (told := handshake.difference(message.content, who)) is not None:
            self.tell(told)
        return True

    def _alike(self, node: int, reply: Reply) -> bool:
        """Whether the network of a node that introduces itself is trained as all others are."""
        if not reply.kinds:  # of somebody else's client
            return True
        who = f"client {reply.client_id} (domain {reply.domain!r})"
        try:
            self.check_kinds(who, reply.kinds)
        except FedhaError as error:
            self._failed(node, "query.introduce", error)
            return False
        self.kinds = self.kinds or reply.kinds
        if reply.other:
            self._other.add(node)
            self.tell(
                f"{who} comes with other values than the server in {listed(map(repr, reply.other))}, which are never "
                "trained; it takes the server's"
            )
        return True

    def check_kinds(self, who: str, kinds: Mapping[str, str]) -> None:
        """Refuse a network of which other parts are trained than is known of the others.

        Args:
            who: Whose it is.
            kinds: What becomes of its parts; empty where it does not say.

        Raises:
            FedhaError: Names the first part.
        """
        known = self.kinds if kinds else {}
        for name in {**known, **kinds} if known else ():
            one, other = known.get(name, "nothing"), kinds.get(name, "nothing")
            if one != other:
                raise FedhaError(
                    f"{who} has {name!r} as {other} where the others have it as {one}; all must make one network "
                    "(requires_grad, batch_norm, .eval())"
                )

    def restart(self, state: Mapping[str, torch.Tensor]) -> None:
        """Begin a run of its own from this state: all clients introduce themselves anew."""
        self.state, self.kinds, self._members, self._met, self._other = state, {}, {}, ([], []), set()

    def _failed(self, node: int, kind: str, error: FedhaError | ClientError, event: str = "skipped") -> None:
        """A client that fails, or whose answer is refused, ends the run or is left out: the rules say which."""
        if self.rules.on_client_error == "stop":
            raise error
        self._note(event, node, kind, str(error))

    def _note(self, event: str, node: int, kind: str, reason: str) -> None:
        exchange = kind.rpartition(".")[2]
        self.events.append({"event": event, "client": self._who(node), "exchange": exchange, "reason": reason})
        who = self._who(node)
        self.tell(f"{event}: {reason}" if reason.startswith(who) else f"{event}: {who}: {reason}")


def _once_more(message: Message) -> Message:
    sent = message.metadata
    return Message(message.content, sent.dst_node_id, sent.message_type, group_id=sent.group_id)
