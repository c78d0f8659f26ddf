"""What is wrong with a reply, before it may enter an average."""

import math
from collections.abc import Mapping

import torch

from fedha.errors import FedhaError
from fedha.exchange import Reply
from fedha.metrics.values import wrong_counts
from fedha.numerics import first_not_finite

_NOT_FINITE = "has numbers that are not finite, or far too large"
_ADVICE = (
    "look at its data (NaN, or inputs that are far too large?), or lower training.learning_rate or the recipe's weight"
)
_WEIGHING = ("loss", "risk")  # numbers of an update that averages are made of, or weights


def problem(reply: Reply, expected: Mapping[str, torch.Size], *, later: bool = False) -> str | None:
    """Why a reply is refused, in a phrase; None if it is not.

    Args:
        reply: A client's.
        expected: The shape of each tensor that it must have. Where that is not known (empty), numbers alone are looked
            at.
        later: Whether somebody will look at its tensors' numbers: `check_mean`.
    """
    if expected and not (reply.weighed and not reply.tensors):
        missing, foreign = expected.keys() - reply.tensors.keys(), reply.tensors.keys() - expected.keys()
        if missing or foreign:
            return f"it sent {_names(reply.tensors) or 'nothing'} where {_names(expected)} were asked for"
        for name, shape in expected.items():
            if reply.tensors[name].shape != shape:
                return f"its {name} has shape {tuple(reply.tensors[name].shape)} instead of {tuple(shape)}"
    if not later and (broken := first_not_finite(reply.tensors)) is not None:
        return f"its {broken} {_NOT_FINITE}"
    for name in _WEIGHING:
        if not math.isfinite(reply.metrics.get(name, 0.0)):
            return f"its {name} is {reply.metrics[name]}"
    if reply.sums and (wrong := wrong_counts(reply.sums, reply.metrics)) is not None:
        return wrong
    return None


def check_mean(mean: Mapping[str, torch.Tensor], round: int) -> None:
    """Look at the clients' mean update, where nobody has looked at theirs.

    Raises:
        FedhaError: It has numbers that are not finite.
    """
    if (broken := first_not_finite(mean)) is not None:
        raise FedhaError(f"the clients' update in round {round} does not count: its {broken} {_NOT_FINITE}; {_ADVICE}")


def refused(who: str, verb: str, round: int, wrong: str) -> FedhaError:
    """The error for a reply that does not count.

    Args:
        who: Whose it is, such as ``client 1 (domain 'b')``.
        verb: What it was asked to do.
        round: From 1.
        wrong: What `problem` said.
    """
    return FedhaError(f"{who} was asked to {verb} in round {round} and its answer does not count: {wrong}; {_ADVICE}")


def _names(tensors: Mapping[str, object]) -> str:
    return ", ".join(sorted(tensors))
