"""What left a client, or what the server learned of all of them together, in one round."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from fedha.errors import FedhaError

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Sent:
    """One release: a client's, or the aggregate's.

    Attributes:
        round: From 1.
        client: Its client id; None for the aggregate.
        head: The head as one matrix, bias last, [C, D], at which the statistics were taken; None where the head is not
            linear and no closed form holds.
        statistics: What was sent of them, by name, as sent: noise and clipping included.
        update: The model update by parameter name, as sent; None where none was.
        examples: n, behind the release; for the aggregate those of all its clients.
        parameters: The whole model at which all of it was taken, by name.
        mode: Whether the update is one gradient (synchronous) or what local steps changed (local).
        averaging_weights: Whose releases it averages, and with which weights; left out for a client, which is its own.
    """

    round: int
    client: int | None
    head: Tensor | None
    statistics: Tensors
    update: Tensors | None
    examples: int
    parameters: Tensors
    mode: Literal["synchronous", "local"]
    averaging_weights: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.client is not None:
            object.__setattr__(self, "averaging_weights", {self.client: 1.0})
        elif not self.averaging_weights:
            raise ValueError("the aggregate's averaging_weights are empty; name its clients and their weights")

    @property
    def whose(self) -> str:
        """Client and round in words."""
        who = "the aggregate" if self.client is None else f"client {self.client}"
        return f"{who} in round {self.round}"


def remainder(aggregate: Sent, own: Sent) -> Sent:
    """What a curious client learns of the others: the aggregate without its own part.

    ``(aggregate - share * own) / (1 - share)`` is the others' mean; with two clients it is the other one's release.

    Args:
        aggregate: What all clients were told.
        own: What the curious client itself sent, in the same round.

    Returns:
        A release of the others: with one other client that client's, else an aggregate over them.

    Raises:
        FedhaError: The client is not in the aggregate, or is alone in it.
    """
    weight = aggregate.averaging_weights.get(own.client) if own.client is not None else None
    others = {client_id: other for client_id, other in aggregate.averaging_weights.items() if client_id != own.client}
    if weight is None or not others or aggregate.round != own.round:
        raise FedhaError(
            f"{own.whose} cannot be taken out of {aggregate.whose}, which averages the clients "
            f"{', '.join(map(str, aggregate.averaging_weights))}; give both of one round, with another client beside it"
        )

    def rest(all_: Tensors, part: Tensors) -> dict[str, Tensor]:
        return {name: (value - weight * part[name]) / (1 - weight) for name, value in all_.items() if name in part}

    both = aggregate.update is not None and own.update is not None
    return replace(
        aggregate,
        client=next(iter(others)) if len(others) == 1 else None,
        statistics=rest(aggregate.statistics, own.statistics),
        update=rest(aggregate.update or {}, own.update or {}) if both else None,
        examples=aggregate.examples - own.examples,
        averaging_weights={client_id: other / (1 - weight) for client_id, other in others.items()},
    )
