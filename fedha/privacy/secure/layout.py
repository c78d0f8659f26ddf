"""Where each tensor lies in the vector of integers that is summed, and how fine its fixed point is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fedha.errors import FedhaError

Words = npt.NDArray[np.unsignedinteger]  # integers modulo 2^32 or 2^64, little-endian

DEFAULT_BOUND = 2.0**16
_DTYPES: dict[int, np.dtype[np.unsignedinteger]] = {32: np.dtype("<u4"), 64: np.dtype("<u8")}
_FINEST = 512


@dataclass(frozen=True)
class Slot:
    """One tensor's place.

    Attributes:
        name: The tensor's.
        shape: Its shape.
        fraction_bits: Its values are summed in steps of ``2^-fraction_bits``; negative for steps above 1.
    """

    name: str
    shape: tuple[int, ...]
    fraction_bits: int

    @property
    def size(self) -> int:
        """Its entries."""
        return math.prod(self.shape)

    @property
    def step(self) -> float:
        """Its fixed-point step."""
        return 2.0**-self.fraction_bits


@dataclass(frozen=True)
class Layout:
    """Tensors one after the other, and a last word that every client sets to 1: its sum counts the clients.

    No sum can overflow. A client's word is at most ``L = (2^(bits - 1) - 1) // clients`` in absolute value, which
    `fedha.privacy.secure.encoding.encode` checks, so the sum of up to `clients` of them is at most ``clients L <=
    2^(bits - 1) - 1``, the largest that two's complement holds. The counting word keeps to it too: with ``clients <=
    2^(bits / 4)`` L is above 1.

    Attributes:
        slots: In the order of the vector.
        clients: No more vectors than this are summed.
        bits: Of a word: 64, or 32 where half of the bytes are worth a coarser step.

    Raises:
        FedhaError: Tensors of one name or of impossible shapes, words of another width, too many clients.
    """

    slots: tuple[Slot, ...]
    clients: int
    bits: int = 64

    def __post_init__(self) -> None:
        names = [slot.name for slot in self.slots]
        if len(set(names)) < len(names):
            raise FedhaError(f"tensors to be summed are named {names}; give each a name of its own")
        if any(side < 0 for slot in self.slots for side in slot.shape):
            raise FedhaError(f"the shapes {[slot.shape for slot in self.slots]} have a negative side; correct it")
        if any(abs(slot.fraction_bits) > _FINEST for slot in self.slots):
            raise FedhaError(f"fixed-point steps must lie between 2^-{_FINEST} and 2^{_FINEST}; choose another range")
        if self.bits not in _DTYPES:
            raise FedhaError(f"words of {self.bits} bits cannot be summed; choose 32 or 64")
        if not 1 <= self.clients <= 2 ** (self.bits // 4):
            most = 2 ** (self.bits // 4)
            raise FedhaError(f"{self.clients} clients cannot be summed in {self.bits} bits; have 1 to {most}")

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Of the words."""
        return _DTYPES[self.bits]

    @property
    def words(self) -> int:
        """Length of the vector."""
        return sum(slot.size for slot in self.slots) + 1

    @property
    def largest_word(self) -> int:
        """L above: the largest absolute value of a client's word."""
        return int((2 ** (self.bits - 1) - 1) // self.clients)

    @property
    def largest_float(self) -> float:
        """The largest float64 that is not above L: what can be compared with floats."""
        nearest = float(self.largest_word)
        return nearest if int(nearest) <= self.largest_word else math.nextafter(nearest, 0)

    def bound(self, slot: Slot) -> float:
        """The largest absolute value, weight included, that a client may send in this slot."""
        return self.largest_float * slot.step


def make_layout(
    shapes: Mapping[str, tuple[int, ...]],
    clients: int,
    bounds: float | Mapping[str, float] = DEFAULT_BOUND,
    bits: int = 64,
) -> Layout:
    """The layout with the finest step that still has room for every client at the bound.

    Args:
        shapes: By name, in the order of the vector.
        clients: No more vectors than this are summed.
        bounds: The largest absolute value, weight included, that a tensor must be able to hold, for all or by name.
        bits: Of a word.

    Raises:
        FedhaError: As in `Layout`, or a bound is not a positive number, or none is given for a tensor.
    """
    room = Layout((), clients, bits).largest_float
    slots = []
    for name, shape in shapes.items():
        bound = bounds.get(name, math.nan) if isinstance(bounds, Mapping) else bounds
        if not 0 < bound < math.inf:
            raise FedhaError(f"the range of tensor {name!r} is {bound}; give a positive number")
        slots.append(Slot(name, tuple(shape), _fraction_bits(Fraction(bound), Fraction(room))))
    return Layout(tuple(slots), clients, bits)


def _fraction_bits(bound: Fraction, room: Fraction) -> int:
    """The largest f with ``bound 2^f <= room``, exactly."""
    ratio = room / bound
    guess = ratio.numerator.bit_length() - ratio.denominator.bit_length()
    return guess if Fraction(2) ** guess <= ratio else guess - 1
