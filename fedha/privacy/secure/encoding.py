"""Tensors as integers in a checked range, and their sum back as tensors.

Whether a client's numbers fit is one bit of them, and a server that asks about ever other ranges, or models, would read
a number bit by bit. So a client that has nothing to send sends `nothing`: uniform words, which no message tells from
masked ones. With one such vector, the sum is uniform and independent of all others, the last word too: the server
learns that of all clients one or more had nothing to send, and neither who, nor how many, nor anything of the rest.
"""

import math
import os
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedha.errors import FedhaError
from fedha.privacy.secure.layout import Layout, Slot, Words

_BLOCK = 2**15  # values that are scaled at once: they stay in the cache
_SIGNED: dict[int, np.dtype[np.signedinteger]] = {32: np.dtype("<i4"), 64: np.dtype("<i8")}


def encode(layout: Layout, tensors: Mapping[str, Tensor], weight: float | Mapping[str, float] = 1.0) -> Words:
    """One client's tensors times its weight, rounded to the fixed-point step, as integers modulo ``2^bits``.

    A word is off by at most half a step, plus the rounding of ``weight * value`` in float64. Nothing is clipped.

    Args:
        layout: Of all clients of the sum.
        tensors: Exactly those of the layout; real numbers, on any device.
        weight: The client's share of the mean, one for all tensors or by name.

    Returns:
        [layout.words]; plain: whoever sees it knows the tensors.

    Raises:
        FedhaError: A tensor is missing, unknown or of another shape; a value is not finite or, weighted, beyond
            ``layout.bound``. The sentence names tensor and value: it is for the client's own people.
    """
    _check_names(layout, tensors)
    weights = weight if isinstance(weight, Mapping) else dict.fromkeys(tensors, weight)
    if not all(math.isfinite(one) for one in weights.values()):
        raise FedhaError(f"a client's weight is {weight}; give a finite number")
    words = np.empty(layout.words, layout.dtype)
    signed = words.view(_SIGNED[layout.bits])
    for slot, start in _places(layout):
        if tuple(tensors[slot.name].shape) != slot.shape:
            raise FedhaError(
                f"tensor {slot.name!r} has shape {tuple(tensors[slot.name].shape)} but {slot.shape} was agreed on; "
                "see that this client has the model of the others"
            )
        _write(signed[start : start + slot.size], tensors[slot.name], weights[slot.name], layout, slot)
    words[-1] = 1
    return words


def nothing(layout: Layout) -> Words:
    """The words of a client whose numbers cannot be sent: drawn by the system, so that no sum with them has a meaning.

    Args:
        layout: Of all clients of the sum.
    """
    return np.frombuffer(bytearray(os.urandom(layout.words * layout.dtype.itemsize)), layout.dtype)


def decode(layout: Layout, words: Words, summands: int, divisor: float = 1.0) -> dict[str, Tensor]:
    """The sum of the clients' weighted tensors, divided.

    With N summands an entry is within ``N step / 2 / divisor`` of the exact quotient, plus rounding in float64.

    Args:
        layout: Of all clients of the sum.
        words: Sum of N encoded vectors modulo ``2^bits``, [layout.words].
        summands: N, which the last word must equal.
        divisor: The sum of the weights, for a mean.

    Returns:
        Tensors by name, float64.

    Raises:
        FedhaError: The vector has another length, is not a sum of this many (masks are still on it), or the divisor is
            not a positive number.
    """
    if words.shape != (layout.words,) or words.dtype != layout.dtype:
        raise FedhaError(
            f"a sum of {words.shape} {words.dtype} does not fit {layout.words} words of {layout.bits} bits"
        )
    if not 0 < divisor < math.inf:
        raise FedhaError(f"the clients' weights sum to {divisor}; a mean needs a positive number")
    if int(words[-1]) != summands:
        raise FedhaError(
            f"the sum of {summands} clients means nothing: one or more could not answer, had numbers beyond "
            "privacy.bound or not finite, or sent another vector than agreed on. Which one, only its own log says: "
            "that would tell of it; look there"
        )
    signed = words.view(_SIGNED[layout.bits])
    return {
        slot.name: torch.from_numpy(signed[start : start + slot.size] * (slot.step / divisor)).reshape(slot.shape)
        for slot, start in _places(layout)
    }


def _write(target: npt.NDArray[np.signedinteger], tensor: Tensor, weight: float, layout: Layout, slot: Slot) -> None:
    values = tensor.detach().cpu().reshape(-1)
    scale, largest = 2.0**slot.fraction_bits, layout.largest_float
    for start in range(0, slot.size, _BLOCK):
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
            block = values[start : start + _BLOCK].to(torch.float64).numpy() * weight
            block *= scale
        np.rint(block, out=block)
        if not (block.max() <= largest and block.min() >= -largest):  # false for NaN
            beyond = start + int(np.argmin(np.abs(block) <= largest))
            raise FedhaError(
                f"tensor {slot.name!r} holds {float(values[beyond]):g} at entry {beyond}, weighted by {weight:g}, and "
                f"secure aggregation of up to {layout.clients} clients was agreed on for ±{layout.bound(slot):g}; "
                "mend what made the value, or raise the range for all clients"
            )
        target[start : start + _BLOCK] = block


def _places(layout: Layout) -> Iterator[tuple[Slot, int]]:
    start = 0
    for slot in layout.slots:
        yield slot, start
        start += slot.size


def _check_names(layout: Layout, tensors: Mapping[str, Tensor]) -> None:
    agreed = {slot.name for slot in layout.slots}
    if agreed != tensors.keys():
        raise FedhaError(
            f"the tensors {sorted(agreed ^ tensors.keys())} are either not agreed on or missing; "
            "see that this client measures and trains what the others do"
        )
