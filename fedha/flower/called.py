"""Clients of the server's own process: where they are answered together, an exchange is a call, without messages.

What travels is counted all the same, as the bytes of the messages that it would take: each kind of message is packed
once for that. What a client gets, and the server gets back, is what messages would have brought, to the bit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedha.exchange import Reply, Request
from fedha.flower.wire import count_array_bytes, count_bytes, count_other_bytes, pack_reply

Call = Callable[[str, Mapping[int, Request]], dict[int, Reply] | None]


def calls(grid: Grid) -> Call | None:
    """How a grid calls its nodes: their replies to these requests, or None where they have to be asked by messages."""
    call: Call | None = getattr(grid, "call", None)
    return call


@dataclass
class Sizes:
    """How long messages would be: the same for all that hold the same tensors and numbers by name."""

    _down: dict[tuple[Any, ...], int] = field(default_factory=dict)
    _up: dict[tuple[Any, ...], tuple[int, int]] = field(default_factory=dict)

    def down(self, kind: str, request: Request, content: Callable[[Request], RecordDict]) -> int:
        """Bytes of a request.

        Args:
            kind: The message type.
            request: What is asked.
            content: Packs it.
        """
        key = (kind, request.measure, request.evaluate, request.asked, *request.references, "", *request.sent)
        if key not in self._down:
            self._down[key] = count_bytes(content(request))
        return self._down[key]

    def up(self, reply: Reply) -> tuple[int, int]:
        """Bytes of a reply's arrays, and of the rest."""
        counted = ((name, len(values)) for name, values in reply.sums.items())
        key = (reply.client_id, reply.weighed, *reply.tensors, "", *reply.metrics, "", *counted)
        if key not in self._up:
            content = pack_reply(reply)
            self._up[key] = count_array_bytes(content), count_other_bytes(content)
        return self._up[key]
