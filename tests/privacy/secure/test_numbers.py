"""Numbers that are summed over clients: the common ones are those of all examples together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedha.exchange import Reply
from fedha.privacy.secure.numbers import EXAMPLES, from_vector, measured_numbers, to_vector, trained_numbers
from fedha.recipes import RECIPES

NAMES = trained_numbers(RECIPES["vrex"], ("held_out",))


def reply(examples: int, loss: float, risk: float, held_out: int) -> Reply:
    metrics = {"loss": loss, "risk": risk, "accuracy": 0.5, "penalty/risk": risk / 3, "held_out/examples": held_out}
    if held_out:
        metrics |= {"held_out/accuracy": risk / 9, "held_out/risk": risk}
    return Reply("c", "c", 0, examples, {}, metrics)


@given(
    st.lists(
        st.builds(reply, st.integers(1, 90), st.floats(-9, 9), st.floats(0, 9), st.integers(0, 90)),
        min_size=1,
        max_size=6,
    )
)
def test_means_over_examples_are_weighted_and_means_over_clients_are_not(replies: list[Reply]) -> None:
    total = torch.stack([to_vector(one, NAMES) for one in replies]).sum(0)
    found = from_vector(total, NAMES)
    examples = sum(one.examples for one in replies)
    assert found[EXAMPLES] == examples
    for name in ("loss", "penalty/risk"):
        assert found[name] == pytest.approx(sum(one.metrics[name] for one in replies) / len(replies))
    assert found["risk"] == pytest.approx(sum(one.metrics["risk"] * one.examples for one in replies) / examples)
    count = sum(int(one.metrics["held_out/examples"]) for one in replies)
    assert found["held_out/examples"] == count
    assert set(found) - {"held_out/risk", "held_out/accuracy"} == set(NAMES[:6])
    if count:
        weighed = sum(one.metrics.get("held_out/risk", 0) * one.metrics["held_out/examples"] for one in replies)
        assert found["held_out/risk"] == pytest.approx(weighed / count)
    else:
        assert "held_out/risk" not in found


def test_what_nobody_has_is_left_out_and_what_some_have_is_theirs() -> None:
    bare, full = Reply("a", "a", 0, 3, {}, {"risk": 1.0}), Reply("b", "b", 1, 9, {}, {"risk": 2.0, "accuracy": 0.5})
    total = to_vector(bare, NAMES) + to_vector(full, NAMES)
    assert from_vector(total, NAMES) == {EXAMPLES: 12, "risk": 1.75, "accuracy": 0.5}
    assert to_vector(bare, measured_numbers()).tolist() == [[3.0, 1.0]]
