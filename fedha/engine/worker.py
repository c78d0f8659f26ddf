"""A worker of the Ray engine: a process that holds clients, their data and what they remember."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedha.engine.nodes import FIRST_NODE, copy_records, make_context, received_message
from fedha.engine.parcels import Answer, Call, Content, Records, to_record_dict, to_records
from fedha.flower.client import Clients
from fedha.flower.failure import Failure, failure_of, pack_failure
from fedha.flower.tensor_array import array_record

MakeClients = Callable[[Mapping[int, Any]], Clients | ClientApp]


class Worker:
    """Answers exchanges for its clients, one by one or together.

    Args:
        make: Makes the clients, or a ClientApp, from the data of each client.
        client_ids: The ids of the clients that live here.
        clients: How many there are in all.
        run_config: What their contexts carry.
        memory_share: The part of its GPU's memory that this process may take, or None.
        states: What clients remember from before, by node.
        data: Each client's data, in the order of `client_ids`.
    """

    def __init__(
        self,
        make: MakeClients,
        client_ids: Sequence[int],
        clients: int,
        run_config: dict[str, Any],
        memory_share: float | None,
        states: Mapping[int, Records],
        data: Sequence[Any],
    ) -> None:
        if memory_share is not None and torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(memory_share)
        self._failed: Failure | None = None
        try:
            self._clients = make(dict(zip(client_ids, data, strict=True)))
        except Exception as error:  # told as fields by `ready`: Ray's own way is a trace as text
            self._failed = failure_of(error)
        self._told = ""
        self._contexts = {
            client_id + FIRST_NODE: make_context(client_id, clients, run_config) for client_id in client_ids
        }
        for node, state in states.items():
            self._contexts[node].state = to_record_dict(state)
        self._arrays: dict[int, ArrayRecord] = {}
        self._busy: tuple[list[int], float, int] = ([], 0.0, 0)

    def ready(self) -> dict[str, Any]:
        """What this process is, for whoever asks whether it has started, or why it could not make its clients."""
        here = {
            "pid": os.getpid(),
            "threads": torch.get_num_threads(),
            "gpus": torch.cuda.device_count(),
            "node": ray.get_runtime_context().get_node_id(),
        }
        return {**here, **({"failure": self._failed} if self._failed else {})}

    def handle(self, call: Call, *fresh: Mapping[str, Any]) -> Iterator[list[Answer]]:
        """Answer an exchange, a few clients at a time.

        Args:
            call: The exchange.
            fresh: The arrays of its new records, in the order of their numbers.
        """
        arrays = {number: array_record(record) for number, record in zip(call.fresh, fresh, strict=True)}
        used = {number for content in call.contents for number in content.arrays.values()}
        known = self._arrays | arrays
        self._arrays = {number: known[number] for number in used}
        contents = [self._content(content) for content in call.contents]
        for start in range(0, len(call.nodes), call.piece):
            nodes = call.nodes[start : start + call.piece]
            answers = self._together(call, contents, nodes)
            if answers is not None:
                yield answers
                continue
            for first in range(0, len(nodes), call.parcel):
                parcel = nodes[first : first + call.parcel]
                yield [self._one(call, contents[which], node, name) for node, name, which in parcel]

    def busy_with(self) -> tuple[list[int], float, str]:
        """The nodes that are being worked for, for how many seconds, and where in the code."""
        nodes, since, thread = self._busy
        frame = sys._current_frames().get(thread)
        where = "".join(traceback.format_stack(frame)) if frame else ""
        return nodes, time.monotonic() - since, where

    def _content(self, content: Content) -> RecordDict:
        records = RecordDict({name: self._arrays[number] for name, number in content.arrays.items()})
        records.metric_records.update({name: MetricRecord(values) for name, values in content.metrics.items()})
        records.config_records.update({name: ConfigRecord(values) for name, values in content.configs.items()})
        return records

    def _together(
        self, call: Call, contents: Sequence[RecordDict], nodes: Sequence[tuple[int, str, int]]
    ) -> list[Answer] | None:
        """The answers of clients that can be trained together; None where they are to be asked one by one."""
        if not call.together or not isinstance(self._clients, Clients):
            return None
        self._begin([node for node, _, _ in nodes])
        contexts = [self._contexts[node] for node, _, _ in nodes]
        replies = self._clients.answer_together(call.kind, [contents[which] for _, _, which in nodes], contexts)
        if replies is None:
            return None
        records = (Records(reply.arrays, reply.metrics, reply.configs) for reply in replies)
        return [
            Answer(context.node_id, own, state=self._state(call, context))
            for context, own in zip(contexts, records, strict=True)
        ]

    def _one(self, call: Call, content: RecordDict, node: int, name: str) -> Answer:
        context = self._contexts[node]
        self._begin([node])
        try:
            if isinstance(self._clients, Clients):
                reply = self._clients.answer(call.kind, content, context)
            else:
                received = received_message(
                    call.kind,
                    name,
                    node,
                    copy_records(content),
                    group_id=call.group_id,
                    created_at=call.created_at,
                    ttl=call.ttl,
                )
                reply = self._clients(received, context).content
        except Exception as error:
            client_id = node - FIRST_NODE
            return Answer(node, to_records(pack_failure(failure_of(error, client_id))), note=self._note())
        return Answer(node, to_records(reply), state=self._state(call, context), note=self._note())

    def _begin(self, nodes: list[int]) -> None:
        self._busy = (nodes, time.monotonic(), threading.get_ident())

    def _note(self) -> str:
        """What the driver is to be warned of, once."""
        fault = self._clients.fault if isinstance(self._clients, Clients) else ""
        told, self._told = self._told, fault
        return "" if told == fault else fault

    def _state(self, call: Call, context: Context) -> Records | None:
        """What a client remembers, unless that is nothing or the exchange cannot have changed it."""
        unchanged = call.kind == "evaluate" and not context.state.config_records  # those move on with each message
        if not len(context.state) or (unchanged and isinstance(self._clients, Clients)):
            return None
        return to_records(context.state)
