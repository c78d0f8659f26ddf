"""What is wrong with a reply's tensors, before they may enter an average."""

from collections.abc import Mapping

import torch

from fedha.exchange import Reply


def problem(reply: Reply, expected: Mapping[str, torch.Size]) -> str | None:
    """Why a reply is refused, in a phrase; None if it is not.

    Args:
        reply: A client's.
        expected: The shape of each tensor that it must have. Where that is not known (empty), numbers alone are looked
            at.
    """
    if expected and not (reply.weighed and not reply.tensors):
        missing, foreign = expected.keys() - reply.tensors.keys(), reply.tensors.keys() - expected.keys()
        if missing or foreign:
            return f"it sent {_names(reply.tensors) or 'nothing'} where {_names(expected)} were asked for"
        for name, shape in expected.items():
            if reply.tensors[name].shape != shape:
                return f"its {name} has shape {tuple(reply.tensors[name].shape)} instead of {tuple(shape)}"
    for name, tensor in reply.tensors.items():
        if not bool(tensor.sum().isfinite()):
            return f"its {name} has numbers that are not finite, or far too large"
    return None


def _names(tensors: Mapping[str, object]) -> str:
    return ", ".join(sorted(tensors))
