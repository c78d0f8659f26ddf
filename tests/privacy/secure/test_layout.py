"""The finest steps that have room for everybody, and layouts that cannot be."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedha.errors import FedhaError
from fedha.privacy.secure.layout import Layout, Slot, make_layout

BITS = st.sampled_from([32, 64])


@given(st.floats(1e-30, 1e30), st.integers(1, 256), BITS)
def test_the_step_is_the_finest_that_holds_everybody_at_the_bound(bound: float, clients: int, bits: int) -> None:
    layout = make_layout({"w": (2,)}, clients, bound, bits)
    (slot,) = layout.slots
    scaled = Fraction(bound) * Fraction(2) ** slot.fraction_bits
    assert clients * scaled <= 2 ** (bits - 1) - 1
    assert scaled <= layout.largest_float < 2 * scaled
    assert layout.bound(slot) >= bound
    assert slot.step == 2.0**-slot.fraction_bits


@given(st.integers(1, 256), BITS)
def test_the_largest_float_is_the_last_one_that_is_not_above_the_largest_word(clients: int, bits: int) -> None:
    layout = Layout((), clients, bits)
    assert int(layout.largest_float) <= layout.largest_word < int(math.nextafter(layout.largest_float, math.inf)) + 1
    assert clients * layout.largest_word <= 2 ** (bits - 1) - 1 < clients * (layout.largest_word + 1)
    assert layout.largest_word > 1


def test_words_are_the_entries_and_one_that_counts() -> None:
    assert make_layout({"a": (3, 4), "b": (), "c": (0, 5)}, 3).words == 12 + 1 + 0 + 1


def test_every_tensor_may_have_a_range_of_its_own() -> None:
    layout = make_layout({"examples": (), "w": (2,)}, 3, {"examples": 2.0**61, "w": 1.0})
    assert [slot.fraction_bits for slot in layout.slots] == [0, 61]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"bounds": {"w": 1.0}}, r"the range of tensor 'b' is nan; give a positive number"),
        ({"bounds": 0.0}, r"the range of tensor 'w' is 0\.0"),
        ({"bounds": math.inf}, r"the range of tensor 'w' is inf"),
        ({"bounds": 1e300}, r"steps must lie between 2\^-512 and 2\^512"),
        ({"bits": 16}, r"words of 16 bits cannot be summed; choose 32 or 64"),
        ({"clients": 0}, r"0 clients cannot be summed in 64 bits"),
        ({"clients": 257, "bits": 32}, r"257 clients cannot be summed in 32 bits; have 1 to 256"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(FedhaError, match=sentence):
        make_layout({"w": (2,), "b": ()}, **{"clients": 3, **arguments})  # type: ignore[arg-type]


def test_tensors_of_one_name_and_of_impossible_shapes_are_refused() -> None:
    with pytest.raises(FedhaError, match=r"named \['w', 'w'\]"):
        Layout((Slot("w", (), 1), Slot("w", (), 1)), 3)
    with pytest.raises(FedhaError, match=r"have a negative side"):
        Layout((Slot("w", (-1,), 1),), 3)
