"""Sums of integers are the weighted mean to the fixed-point step; what does not fit is refused, never clipped."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from fedha.errors import FedhaError
from fedha.privacy.secure import encoding
from fedha.privacy.secure.encoding import decode, encode, nothing
from fedha.privacy.secure.layout import Layout, Words, make_layout

BITS = st.sampled_from([32, 64])
WEIGHTS = st.just(0.0) | st.floats(1e-280, 1)  # less overflows as a divisor


def total(layout: Layout, vectors: list[Words]) -> Words:
    words = np.zeros(layout.words, layout.dtype)
    for vector in vectors:
        words += vector
    return words


@given(
    st.lists(st.tuples(st.lists(st.floats(-50, 50), min_size=3, max_size=3), WEIGHTS), min_size=1, max_size=9),
    BITS,
)
def test_the_sum_is_the_weighted_mean_within_its_bound(clients: list[tuple[list[float], float]], bits: int) -> None:
    layout = make_layout({"w": (3,)}, len(clients), 50.0, bits)
    divisor = sum(weight for _, weight in clients) or 1.0
    vectors = [encode(layout, {"w": torch.tensor(values, dtype=torch.float64)}, w) for values, w in clients]
    found = decode(layout, total(layout, vectors), len(clients), divisor)["w"]
    step = Fraction(layout.slots[0].step)
    for entry in range(3):
        exact = sum(Fraction(values[entry]) * Fraction(w) for values, w in clients)
        largest = sum(abs(Fraction(values[entry]) * Fraction(w)) for values, w in clients)
        rounding = (3 * largest + len(clients) * step) / 2**52  # of weight * value, of the sum, of the quotient
        bound = (len(clients) * step / 2 + rounding) / Fraction(divisor)
        assert abs(Fraction(float(found[entry])) - exact / Fraction(divisor)) <= bound


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("clients", [1, 2, 3, 7, 100, 256])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_everybody_at_the_ends_of_the_range_does_not_overflow(bits: int, clients: int, sign: float) -> None:
    layout = make_layout({"w": (2,), "s": ()}, clients, 1.0, bits)
    ends = {slot.name: torch.full(slot.shape, sign * layout.bound(slot), dtype=torch.float64) for slot in layout.slots}
    one = encode(layout, ends)
    assert_close(decode(layout, one, 1), ends, rtol=0, atol=0)
    everybody = decode(layout, total(layout, [one] * clients), clients)
    assert_close(everybody, {name: clients * value for name, value in ends.items()}, rtol=2**-52, atol=0)
    bound, step = layout.bound(layout.slots[0]), layout.slots[0].step
    further = max(bound + step, math.nextafter(bound, math.inf))  # less than half a step is rounded back
    beyond = {**ends, "w": torch.tensor([0.0, sign * further], dtype=torch.float64)}
    with pytest.raises(FedhaError, match=r"tensor 'w' holds .* at entry 1, weighted by 1, and .* was agreed on for ±"):
        encode(layout, beyond)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, -1e30, 65537.0 * 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_value_that_does_not_fit_is_named_with_its_tensor(bad: float, dtype: torch.dtype) -> None:
    layout = make_layout({"a": (4,), "b": (2, 40_000)}, 3)
    values = {"a": torch.ones(4, dtype=dtype), "b": torch.ones(2, 40_000, dtype=dtype)}
    values["b"][1, 7] = bad
    with pytest.raises(FedhaError) as caught:
        encode(layout, values, 1.0)
    assert f"tensor 'b' holds {bad:g} at entry 40007, weighted by 1," in str(caught.value)
    assert values["b"][1, 7] == bad or math.isnan(bad)


def test_the_weighted_value_is_what_must_fit() -> None:
    layout = make_layout({"w": (1,)}, 3, 8.0)
    value = {"w": torch.tensor([layout.bound(layout.slots[0]) * 2], dtype=torch.float64)}
    assert decode(layout, encode(layout, value, 0.5), 1)["w"] == value["w"] / 2
    with pytest.raises(FedhaError, match=r"weighted by 0.5001"):
        encode(layout, value, 0.5001)


def test_example_counts_are_summed_exactly() -> None:
    layout = make_layout({"examples": ()}, 3, 2.0**40)
    counts = [2**40, 1, 123_456_789]
    vectors = [encode(layout, {"examples": torch.tensor(count)}) for count in counts]
    assert int(decode(layout, total(layout, vectors), 3)["examples"]) == sum(counts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32])
def test_any_kind_of_real_tensor_keeps_shape_and_value(dtype: torch.dtype) -> None:
    layout = make_layout({"m": (2, 3), "s": (), "none": (0, 2)}, 2)
    values: dict[str, Tensor] = {
        "none": torch.zeros(0, 2, dtype=dtype),
        "s": torch.tensor(-3, dtype=dtype),
        "m": torch.arange(12, dtype=dtype).reshape(3, 4)[:, ::2].T,  # not contiguous
    }
    found = decode(layout, encode(layout, values), 1)
    assert_close(found, {name: values[name].double() for name in layout_names(layout)}, rtol=0, atol=0)


def layout_names(layout: Layout) -> list[str]:
    return [slot.name for slot in layout.slots]


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, values = make_layout({"w": (100,)}, 3), {"w": torch.randn(100, generator=torch.Generator().manual_seed(1))}
    whole = encode(layout, values, 0.3)
    monkeypatch.setattr(encoding, "_BLOCK", 7)
    assert np.array_equal(encode(layout, values, 0.3), whole)


@pytest.mark.parametrize(
    ("values", "weight", "sentence"),
    [
        ({"w": torch.ones(2)}, 1.0, r"tensors \['b'\] are either not agreed on or missing"),
        ({"w": torch.ones(2), "b": torch.ones(()), "c": torch.ones(1)}, 1.0, r"tensors \['c'\]"),
        ({"w": torch.ones(3), "b": torch.ones(())}, 1.0, r"'w' has shape \(3,\) but \(2,\) was agreed on"),
        ({"w": torch.ones(1, 2), "b": torch.ones(())}, 1.0, r"'w' has shape \(1, 2\)"),
        ({"w": torch.ones(2), "b": torch.ones(())}, math.nan, r"weight is nan"),
    ],
)
def test_other_tensors_than_agreed_on_are_refused(values: dict[str, Tensor], weight: float, sentence: str) -> None:
    with pytest.raises(FedhaError, match=sentence):
        encode(make_layout({"w": (2,), "b": ()}, 3), values, weight)


def test_a_sum_with_masks_or_of_another_number_is_refused() -> None:
    layout = make_layout({"w": (2,)}, 3)
    words = encode(layout, {"w": torch.ones(2)})
    with pytest.raises(FedhaError, match=r"^the sum of 2 clients means nothing"):
        decode(layout, words, 2)
    for wrong in (words[:-1], words.astype("<u4")):
        with pytest.raises(FedhaError, match=r"does not fit 3 words of 64 bits"):
            decode(layout, wrong, 1)
    for divisor in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(FedhaError, match=r"weights sum to"):
            decode(layout, words, 1, divisor)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_client_with_nothing_to_send_leaves_nothing_of_the_others(bits: int) -> None:
    """Its words are uniform, so the sum is: no byte of a few hundred thousand comes too often, the last word too."""
    layout = make_layout({"w": (30_000,)}, 3, 50.0, bits)
    other = encode(layout, {"w": torch.full((30_000,), 7.0)})
    words = other + nothing(layout)
    counts = np.bincount(words.view(np.uint8), minlength=256)
    mean = counts.sum() / 256
    assert bool((abs(counts - mean) < 7 * math.sqrt(mean)).all())  # by chance once in 10^9 runs
    with pytest.raises(FedhaError, match="the sum of 2 clients means nothing"):
        decode(layout, words, 2)
    assert len({int(nothing(layout)[-1]) for _ in range(4)}) == 4
