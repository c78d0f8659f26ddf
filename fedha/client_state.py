"""What a client remembers from one exchange to the next, and its one form as named tensors.

That form is what a checkpoint, a message's context and a Ray worker hold. What an earlier version wrote is read too: a
moving average had its statistic's bare name then.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TypeVar

import torch
from torch import Tensor

_AVERAGES, _RODE, _RELEASED, _RULE, _LOCAL = "averages/", "own/", "released/", "rule/", "local/"
_RODE_FOR, _RELEASED_IN, _CHAIN, _SINCE = "own", f"{_RELEASED}round", "past/chain", "past/since"
_MEMORY = ("averages", "rode", "rule", "local")

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class ClientState:
    """One client's memory. It is replaced, never changed: an answer that fails has not happened.

    Attributes:
        averages: Moving averages, by statistic (Fishr).
        rode: The statistics that it sent along with an update, by name (`fedha.piggyback`).
        rode_for: For which round's references; 0: none.
        released: Where examples are protected, the moments that a round released, by name.
        released_in: Which round; 0: none.
        rule: What the run's rules have it remember, as ``rule's name/its name`` (`fedha.rules`).
        local: The parts of the network that are its own, by name (`fedha.models.state`).
        chain: Where clients are summed securely, which sums its memory is of (`fedha.privacy.secure.past`).
        since: The round in which that memory began.
    """

    averages: Mapping[str, Tensor] = field(default_factory=dict)
    rode: Mapping[str, Tensor] = field(default_factory=dict)
    rode_for: int = 0
    released: Mapping[str, Tensor] = field(default_factory=dict)
    released_in: int = 0
    rule: Mapping[str, Tensor] = field(default_factory=dict)
    local: Mapping[str, Tensor] = field(default_factory=dict)
    chain: bytes = b""
    since: int = 0

    @property
    def remembers(self) -> bool:
        """Whether anything of earlier rounds is among it; a release serves its own round alone, and is covered."""
        return any(getattr(self, name) for name in _MEMORY)

    def moved(self, before: "ClientState") -> bool:
        """Whether it remembers something, and another thing than before."""
        return self.remembers and any(_other(getattr(self, name), getattr(before, name)) for name in _MEMORY)

    def forgotten(self) -> "ClientState":
        """What is left when its memory is gone."""
        return ClientState(released=self.released, released_in=self.released_in)

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) for one in fields(self))


def to_tensors(state: ClientState) -> dict[str, Tensor]:
    """A client's memory as named tensors; nothing where it remembers nothing."""
    groups = {_AVERAGES: state.averages, _RODE: state.rode, _RELEASED: state.released, _RULE: state.rule}
    groups |= {_LOCAL: state.local}
    rounds = {_RODE_FOR: state.rode_for, _RELEASED_IN: state.released_in, _SINCE: state.since}
    named = {f"{prefix}{name}": value for prefix, group in groups.items() for name, value in group.items()}
    if state.chain:
        named[_CHAIN] = torch.frombuffer(bytearray(state.chain), dtype=torch.uint8)
    return named | {name: torch.tensor(number) for name, number in rounds.items() if number}


def from_tensors(tensors: Mapping[str, Tensor]) -> ClientState:
    """What `to_tensors` was given, or the memory that an earlier version wrote."""
    rest = {name: value for name, value in tensors.items() if name not in (_RODE_FOR, _RELEASED_IN)}
    earlier = {name: value for name, value in rest.items() if "/" not in name}
    return ClientState(
        averages={**earlier, **dict(_below(rest, _AVERAGES))},
        rode=dict(_below(rest, _RODE)),
        rode_for=_round(tensors.get(_RODE_FOR)),
        released=dict(_below(rest, _RELEASED)),
        released_in=_round(tensors.get(_RELEASED_IN)),
        rule=dict(_below(rest, _RULE)),
        local=dict(_below(rest, _LOCAL)),
        chain=bytes(tensors[_CHAIN].tolist()) if _CHAIN in tensors else b"",
        since=_round(tensors.get(_SINCE)),
    )


def lasting(named: Mapping[str, _Value]) -> dict[str, _Value]:
    """What of the named form must outlive its round: all but the round's released moments."""
    return {name: value for name, value in named.items() if not name.startswith(_RELEASED)}


def _other(tensors: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> bool:
    """Whether some of these tensors are others; they are replaced, never changed."""
    return tensors.keys() != before.keys() or any(value is not before[name] for name, value in tensors.items())


def _below(tensors: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    return ((name.removeprefix(prefix), value) for name, value in tensors.items() if name.startswith(prefix))


def _round(value: Tensor | None) -> int:
    return 0 if value is None else int(value)
