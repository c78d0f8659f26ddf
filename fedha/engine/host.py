"""One worker process as the driver sees it: started, called, asked what it is doing, ended, started again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedha.engine.broadcast import Broadcast
from fedha.engine.cluster import fetch
from fedha.engine.parcels import TOGETHER, Call, Content, Records, even, of_kind
from fedha.engine.worker import MakeClients, Worker
from fedha.errors import ClientError, FedhaError, listed
from fedha.flower.tensor_array import TensorArray

_PIECE_BYTES = 32 * 2**20  # a worker hands over its replies in parcels of about so much
_START_SECONDS = 120.0  # an overloaded machine needs a while to import torch
_AHEAD = 4  # pieces that may wait for the server before a worker pauses


@dataclass(frozen=True)
class Resources:
    """What one worker process may use.

    Attributes:
        cpus: Cores, in Ray's count.
        gpus: Its part of a GPU, in Ray's count.
        gpu_memory: Its part of the GPU's memory, or None for no cap.
    """

    cpus: float = 1
    gpus: float = 0
    gpu_memory: float | None = None


class Host:
    """A worker process and the clients that live in it.

    Args:
        make: Makes the clients from their data, in the process.
        client_ids: Whose, in client order.
        clients: How many there are on all workers.
        run_config: What the clients' contexts carry.
        resources: What the process may use.
        data: Each client's data; put into the object store once, for every process that this host will have.
    """

    def __init__(
        self,
        make: MakeClients,
        client_ids: Sequence[int],
        clients: int,
        run_config: Mapping[str, Any],
        resources: Resources,
        data: Sequence[Any],
    ) -> None:
        self.client_ids = list(client_ids)
        self._setup = (make, self.client_ids, clients, dict(run_config), resources.gpu_memory)
        self._data = ray.put(list(data))
        self.resources = resources
        self._options: dict[str, Any] = {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "max_restarts": 0,  # the driver starts it again, with what its clients remember
            "max_task_retries": 0,
        }
        self.actor: Any = None
        self._booting: Any = None
        self.known: set[int] = set()
        self.node = ""  # Ray's id of the one where the process is, once it is known

    @property
    def name(self) -> str:
        """Its first client ids, for messages."""
        return listed(self.client_ids, most=5)

    def move(self, node: str) -> None:
        """Live on another node from the next start on, beside whom it finds there: no CPU may be left for it alone."""
        self._options |= {
            "num_cpus": 0,
            "memory": 1,  # byte: an actor that asks for nothing is placed through any node, which may be the lost one
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True),
        }

    def start(self, states: Mapping[int, Records]) -> None:
        """Start a process whose clients remember `states`; does not wait for it."""
        self.known, self.node = set(), ""
        remote: Any = ray.remote(concurrency_groups={"watch": 1})  # type: ignore[call-overload]  # missing in Ray's types
        self.actor = remote(Worker).options(**self._options).remote(*self._setup, dict(states), self._data)
        self._booting = self.actor.ready.remote()

    def wait(self, look: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Wait until the process is there, and say what it is.

        Args:
            look: Called again and again meanwhile; may raise to end the wait.

        Raises:
            FedhaError, ClientError: What its start failed with.
        """
        what = f"the worker of clients {self.name} did not start"
        try:
            described: dict[str, Any] = fetch([self._booting], _START_SECONDS, look)[0]
        except GetTimeoutError:
            free, wanted = ray.available_resources(), self._options  # type: ignore[no-untyped-call]
            raise FedhaError(
                f"{what} within {_START_SECONDS:g} s: it needs "
                f"{wanted['num_cpus']:g} CPUs and {wanted['num_gpus']:g} GPUs, and Ray has {free.get('CPU', 0):g} and "
                f"{free.get('GPU', 0):g} free; take fewer engine.workers, or look at what else runs there"
            ) from None
        except RayError as error:
            raise ClientError(f"{what}: {str(error).strip().splitlines()[0]}", str(error)) from None
        if failed := described.get("failure"):
            raise failed.error(what)
        self.node = str(described["node"])
        return described

    def stop(self) -> None:
        """End the process at once."""
        if self.actor is not None:
            ray.kill(self.actor)
            self.actor = None

    def call(
        self, messages: Sequence[Message], broadcast: Broadcast, *, together: bool, piece: int | None
    ) -> tuple[Any, int]:
        """Send one exchange to the process, without waiting.

        Args:
            messages: Of one kind and group, to nodes that live here.
            broadcast: Where their arrays are.
            together: Whether the clients may be trained together.
            piece: Clients that answer at once; None: by the size of what is sent.

        Returns:
            Ray's generator of lists of `Answer`, and the piece that was chosen.
        """
        contents: dict[int, tuple[int, Content]] = {}
        for message in messages:
            key = id(message.content)
            if key not in contents:
                contents[key] = len(contents), _content(message, broadcast)
        used = {number for _, content in contents.values() for number in content.arrays.values()}
        fresh = sorted(used - self.known)
        self.known = used
        sent = messages[0].metadata
        parcel = piece or max(1, _PIECE_BYTES // max(1, _array_bytes(messages[0])))
        piece = piece or even(len(messages), max(parcel, TOGETHER) if together else parcel)
        call = Call(
            kind=sent.message_type,
            group_id=sent.group_id,
            created_at=sent.created_at,
            ttl=sent.ttl,
            contents=[content for _, content in contents.values()],
            nodes=[(m.metadata.dst_node_id, m.metadata.message_id, contents[id(m.content)][0]) for m in messages],
            fresh=fresh,
            together=together,
            piece=piece,
            parcel=parcel,
        )
        options = {"num_returns": "streaming", "_generator_backpressure_num_objects": _AHEAD}
        return self.actor.handle.options(**options).remote(call, *(broadcast.ref(one) for one in fresh)), piece

    def busy_with(self, seconds: float) -> tuple[list[int], float, str] | None:
        """What `Worker.busy_with` says; None if it does not answer within some seconds."""
        asked = self.actor.busy_with.options(concurrency_group="watch").remote()
        try:
            answer: tuple[list[int], float, str] = ray.get(asked, timeout=seconds)
        except RayError:
            return None
        return answer


def _content(message: Message, broadcast: Broadcast) -> Content:
    return Content(
        {name: broadcast.number(one) for name, one in message.content.items() if isinstance(one, ArrayRecord)},
        of_kind(message.content, MetricRecord),
        of_kind(message.content, ConfigRecord),
    )


def _array_bytes(message: Message) -> int:
    arrays = (array for record in message.content.array_records.values() for array in record.values())
    return sum(array.count_bytes() if isinstance(array, TensorArray) else len(array.data) for array in arrays)
