"""Flower's Grid over Ray actors: event driven, every worker called once an exchange, nothing sent twice."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from ray.exceptions import RayError, RayTaskError

from fedha.engine.broadcast import Broadcast
from fedha.engine.cluster import LOOK_SECONDS, Head, fetch, node_with_room, nodes
from fedha.engine.host import Host, Resources
from fedha.engine.nodes import FIRST_NODE, identify_server
from fedha.engine.parcels import Answer, Records, to_record_dict, to_records
from fedha.engine.worker import MakeClients
from fedha.errors import ClusterError, FedhaError
from fedha.exhausted import REMEDY
from fedha.flower.client import restore_state, state_record
from fedha.flower.delivery import never, stop_if_asked
from fedha.flower.failure import Failure, pack_failure

_DEATHS = 3  # of one worker's processes in one exchange, before the run is given up
_LOOK_SECONDS = 0.2  # between looks whether the run should stop
_ANSWER_SECONDS = 5.0  # a process that does not say within so long what it is doing is stuck outside Python


@dataclass
class _Pending:
    """A worker's part of an exchange.

    Attributes:
        host: Whose.
        actor: The process that was called.
        answers: Ray's generator of its answers.
        messages: Those not answered yet, by node, in the order in which the worker takes them.
        since: When it was called, or last answered.
        together: Whether its clients may be trained together.
        piece: Clients that answer at once; the same after a death, so that sums have the same bits.
        deaths: How many processes it has cost.
    """

    host: Host
    actor: Any
    answers: Any
    messages: dict[int, Message]
    since: float
    together: bool
    piece: int
    deaths: int = 0


class RayGrid(Grid):
    """Runs clients in Ray's worker processes; each client stays with one process, its data and its memory with it.

    Ray must be started. Replies are yielded as they come. A process that dies is started again, with what its clients
    remembered before the exchange, and asked again for the answers that are missing: the run has the same bits.

    Args:
        make: Makes the clients of a process from the data of each client: `fedha.flower.client.Clients`, which can be
            trained together, or any ClientApp.
        clients: How many nodes; node k + 2 has partition-id k.
        workers: How many processes.
        resources: What each may use.
        data: Something for each client that `make` gets, picklable; arrays in it are shared, not copied.
        loads: Work of each client, to spread them evenly; default: all alike.
        together: Whether clients may be trained together.
        client_timeout: Seconds that a client may take for one answer; None: for ever.
        run_config: What the clients' contexts carry.
        note: Told, in a sentence, when a process had to be started again.
        stop: Asked while answers are waited for, whether to stop.
    """

    def __init__(
        self,
        make: MakeClients,
        clients: int,
        *,
        workers: int = 1,
        resources: Resources | None = None,
        data: Sequence[Any] | None = None,
        loads: Sequence[int] | None = None,
        together: bool = True,
        client_timeout: float | None = None,
        run_config: Mapping[str, Any] | None = None,
        note: Callable[[str], None] = lambda text: None,
        stop: Callable[[], bool] = never,
    ) -> None:
        identify_server()
        self._run, self._stop = Run.create_empty(1), stop
        self._together, self._client_timeout, self._note = together, client_timeout, note
        self.broadcast, self._head = Broadcast(), Head(note)
        self._lost: set[str] = set()  # nodes that were told of
        self._states: dict[int, Records] = {}
        self._replies: dict[str, Message] = {}
        self._sent = 0
        self._nodes = [client_id + FIRST_NODE for client_id in range(clients)]
        self.hosts = [
            Host(
                make,
                client_ids,
                clients,
                run_config or {},
                resources or Resources(),
                [None if data is None else data[client_id] for client_id in client_ids],
            )
            for client_ids in spread(loads or [1] * clients, workers)
        ]
        self._host_of = {client_id + FIRST_NODE: host for host in self.hosts for client_id in host.client_ids}
        for host in self.hosts:
            host.start({})

    def set_run(self, run: Run) -> None:
        """Take over a run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes, in client order."""
        return list(self._nodes)

    def client_id_of(self, node: int) -> int:
        """The client at a node."""
        return node - FIRST_NODE

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the messages' clients and keep their replies."""
        listed = list(messages)
        for reply in self.send_and_receive(listed):
            self._replies[reply.metadata.reply_to_message_id] = reply
        return [message.metadata.message_id for message in listed]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out the replies, each once."""
        return [self._replies.pop(one) for one in message_ids if one in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Call the workers at once, and yield replies as they come.

        Args:
            messages: To any nodes; those with the same content object share what is sent.
            timeout: Seconds until the replies that are missing are given up. The start of processes does not count.

        Raises:
            FedhaError: A worker's process died again and again.
            ClusterError: The cluster's head is gone, or a node for whose clients there is no other.
            StoppedError: The run is asked to stop.
        """
        pending = [self._call(host, batch) for host, batch in self._batches(messages)]
        self.broadcast.keep(number for host in self.hosts for number in host.known)
        return self._collect(pending, math.inf if timeout is None else time.monotonic() + timeout)

    def save_states(self) -> list[ArrayRecord | None]:
        """What the clients must remember for a run to resume, in client order."""
        known = (self._states.get(node) for node in self._nodes)
        return [None if state is None else state_record(to_record_dict(state)) for state in known]

    def restore_states(self, states: Sequence[ArrayRecord | None]) -> None:
        """Give the clients back what `save_states` saw: their processes start anew."""
        given = {node: state for node, state in zip(self._nodes, states, strict=True) if state is not None}
        self._states = {node: to_records(restore_state(state)) for node, state in given.items()}
        for host in self.hosts if given else []:
            self._restart(host)

    def close(self) -> None:
        """End the worker processes."""
        for host in self.hosts:
            host.stop()

    def _batches(self, messages: Iterable[Message]) -> list[tuple[Host, list[Message]]]:
        """Messages by worker; those of another kind or group make another call."""
        batches: dict[tuple[int, str, str], tuple[Host, list[Message]]] = {}
        for message in messages:
            sent = message.metadata
            self._sent += 1
            sent.__dict__["_message_id"] = str(self._sent)
            host = self._host_of[sent.dst_node_id]
            key = (id(host), sent.message_type, sent.group_id)
            batches.setdefault(key, (host, []))[1].append(message)
        return list(batches.values())

    def _call(self, host: Host, messages: Sequence[Message]) -> _Pending:
        if host.actor is None:
            self._restart(host)
        host.wait(self._look)
        answers, piece = host.call(messages, self.broadcast, together=self._together, piece=None)
        by_node = {message.metadata.dst_node_id: message for message in messages}
        return _Pending(host, host.actor, answers, by_node, time.monotonic(), self._together, piece)

    def _collect(self, pending: list[_Pending], deadline: float) -> Iterator[Message]:
        try:
            due = time.monotonic() + self._patience(pending, deadline)
            while pending:
                waiting = {one.answers: one for one in pending}
                self._head.look()
                patience = min(max(0.0, due - time.monotonic()), _LOOK_SECONDS)
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=patience)
                stop_if_asked(self._stop)
                if ready:
                    yield from self._receive(waiting[ready[0]])
                elif time.monotonic() >= deadline:
                    return
                elif time.monotonic() >= due:
                    for one in pending:
                        yield from self._look_after(one)
                if ready or time.monotonic() >= due:
                    due = time.monotonic() + self._patience(pending, deadline)
                pending = [one for one in pending if one.messages]
        finally:
            for one in pending:  # given up: what still computes must not be in the way of the next exchange
                one.host.stop()

    def _receive(self, one: _Pending) -> Iterator[Message]:
        try:
            answers: list[Answer] = fetch([next(one.answers)], math.inf, self._look)[0]
        except RayTaskError as error:
            raise error.cause from error
        except (RayError, StopIteration) as error:
            self._again(one, f"died: {_first_line(error)}")
            return
        one.since = time.monotonic()
        for answer in answers:
            message = one.messages.pop(answer.node)
            if answer.state is not None:
                self._states[answer.node] = answer.state
            if answer.note:
                warnings.warn(answer.note, RuntimeWarning, stacklevel=2)
            yield Message(to_record_dict(answer.records), reply_to=message)

    def _again(self, one: _Pending, why: str) -> None:
        """Start a worker anew and ask it for the answers that are missing."""
        self._head.look(now=True)
        lost = self._move_if_lost(one.host)
        one.deaths += not lost
        if not one.messages:
            return one.host.stop()
        if one.deaths >= _DEATHS:
            raise FedhaError(
                f"the worker of clients {one.host.name} {why}, {one.deaths} times in one exchange; "
                f"if the machine ran out of memory, {REMEDY}"
            )
        if not lost:
            self._note(f"a worker process {why}; it starts again for {len(one.messages)} clients")
        if one.host.actor is one.actor:
            self._restart(one.host)
        one.host.wait(self._look)
        one.actor, one.since = one.host.actor, time.monotonic()
        messages = list(one.messages.values())
        one.answers, _ = one.host.call(messages, self.broadcast, together=one.together, piece=one.piece)

    def _move_if_lost(self, host: Host) -> bool:
        """Whether a worker's node is lost, which then is said; the worker's next process starts on one that is left.

        Raises:
            ClusterError: None is.
        """
        known = nodes()
        if host.node not in known or known[host.node].alive:
            return False
        there = known[host.node].name
        if host.node not in self._lost:
            self._lost.add(host.node)
            self._note(f"the Ray cluster has lost its node {there}")
        cpus, gpus = host.resources.cpus, host.resources.gpus
        spare = node_with_room(known, (one.node for one in self.hosts if one is not host), cpus)
        free = float(ray.available_resources().get("GPU", 0)) if gpus else 0.0  # type: ignore[no-untyped-call]
        if spare is None or free < gpus:
            raise ClusterError(
                f"the Ray cluster has lost its node {there}, and no other has "
                f"{f'{gpus:g} of a GPU free' if spare is not None else f'{cpus:g} CPUs'} for its clients"
            )
        if not gpus:
            host.move(spare.id)
        self._note(f"clients {host.name} go on at {'a node with a free GPU' if gpus else spare.name}")
        return True

    def _look(self) -> None:
        """While something is waited for: whether to go on waiting."""
        self._head.look()
        stop_if_asked(self._stop)

    def _restart(self, host: Host) -> None:
        self._head.look(now=True)  # without it Ray would wait for it, and let nobody look
        host.stop()
        nodes = (client_id + FIRST_NODE for client_id in host.client_ids)
        host.start({node: self._states[node] for node in nodes if node in self._states})

    def _patience(self, pending: Sequence[_Pending], deadline: float) -> float:
        """Seconds until somebody must be looked after, or the head looked at."""
        limits = [deadline, time.monotonic() + LOOK_SECONDS]
        if self._client_timeout is not None:
            limits += [one.since + self._client_timeout for one in pending]
        return max(0.0, min(limits) - time.monotonic())

    def _look_after(self, one: _Pending) -> Iterator[Message]:
        """Ask a worker that has been silent for long what it does; end it if a client has hung."""
        limit = self._client_timeout
        if limit is None or time.monotonic() < one.since + limit:
            return
        busy = one.host.busy_with(_ANSWER_SECONDS)
        nodes, seconds, where = busy or ([], math.inf, "outside Python")
        if seconds < limit * max(1, len(nodes)):
            one.since = time.monotonic() - seconds / max(1, len(nodes))
            return
        if len(nodes) == 1 or one.piece == 1:  # one at a time, the first that has not answered is at work
            node = nodes[0] if len(nodes) == 1 else next(iter(one.messages))
            sentence = f"took longer than engine.client_timeout, {limit:g} s"
            late = Failure("TimeoutError", sentence, where.strip(), node - FIRST_NODE)
            yield Message(pack_failure(late), reply_to=one.messages.pop(node))
        one.together, one.piece = False, 1
        one.deaths -= 1  # it was ended, it did not die
        self._again(one, f"was ended because a client took longer than {limit:g} s")


def spread(loads: Sequence[int], workers: int) -> list[list[int]]:
    """Places for each worker: the largest first, each to the worker that has least; those without are left out.

    Args:
        loads: Work of each client.
        workers: How many share it.

    Returns:
        Ascending client ids, one list a worker.
    """
    held: list[list[int]] = [[] for _ in range(workers)]
    work = [0] * workers
    for client_id in sorted(range(len(loads)), key=lambda one: -loads[one]):
        least = work.index(min(work))
        held[least].append(client_id)
        work[least] += max(1, loads[client_id])
    return [sorted(client_ids) for client_ids in held if client_ids]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
