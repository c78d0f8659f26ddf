"""A run that came apart is told from one that trains badly: by its cross-entropy, never by its penalty or accuracy."""

import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fedha.config import parse
from fedha.run import execute
from fedha.runs.divergence import divergence
from fedha.runs.listener import Silent


def parts(risk: float | None, accuracy: float | None = 0.8) -> dict[str, Any]:
    return {"a": {"risk": risk, "accuracy": accuracy, "examples": 3}, "b": {"risk": risk, "accuracy": accuracy}}


def rounds(*risks: float | None) -> list[dict[str, Any]]:
    return [{"round": number, "risk": {"a": one, "b": one}} for number, one in enumerate(risks, 1)]


def told(*risks: float | None, final: float | None, accuracy: float = 0.8, classes: int = 2) -> str | None:
    expects = {"expects": {"classes": classes}}
    return divergence(rounds(*risks), {"train": parts(final, accuracy), **expects})


@pytest.mark.parametrize("final", [1e18, 1e30, 5e3, math.inf, math.nan, None])
def test_an_absurd_loss_is_no_result_however_accurate(final: float | None) -> None:
    assert told(0.7, 3.0, final=final, accuracy=0.9)


@pytest.mark.parametrize(("peak", "final"), [(1e12, 0.7), (5e3, 1.2), (math.inf, 0.69), (None, 0.69)])
def test_who_guesses_after_an_explosion_has_nothing_left(peak: float | None, final: float) -> None:
    assert told(0.7, peak, final=final, accuracy=0.5)
    assert told(2.3, peak, final=2.3 if final < 1 else final, accuracy=0.1, classes=10)


@pytest.mark.parametrize(
    ("risks", "final", "accuracy"),
    [
        ((0.7, 0.5), 0.3, 0.9),
        ((0.7, 30.0, 5.0), 0.6, 0.7),  # it oscillates
        ((0.7, 1e4, 3.0), 0.4, 0.85),  # it exploded and has come back
        ((0.7, 0.7), 0.7, 0.5),  # it has learnt nothing
        ((50.0, 40.0), 12.0, 0.6),  # inputs that nobody scaled
        ((5e4, 9e4), 2e5, 0.6),  # the same, with pixels of 16 bits
        ((0.7, 0.5), 40.0, 0.85),  # sure of itself, and of what is wrong
        ((0.7, 500.0), 500.0, 0.84),  # still accurate
    ],
)
def test_what_trains_badly_is_a_result(risks: tuple[float, ...], final: float, accuracy: float) -> None:
    assert told(*risks, final=final, accuracy=accuracy) is None


def test_a_large_penalty_is_no_divergence() -> None:
    records = [{**one, "loss": 1e18, "penalty": {"hessian": 1e14}} for one in rounds(0.7, 0.6)]
    assert divergence(records, {"train": parts(0.5)}) is None


def test_where_clients_tell_no_loss_that_of_the_target_is_looked_at() -> None:
    hidden = {"train": {}, "sources": {"a": {"accuracy": 0.5}}}
    assert divergence([{"round": 1}], {**hidden, "target": parts(1e9)})
    assert divergence([{"round": 1}], {**hidden, "target": parts(20.0)}) is None
    assert divergence([{"round": 1}], {**hidden, "target": {}}) is None
    assert divergence(rounds(0.7, 1e9), {**hidden, "target": {}})


def test_parameters_of_any_size_that_squares_have_are_answered_so_that_the_run_says_what_became_of_it(
    tmp_path: Path,
) -> None:
    training = {"rounds": 6, "optimizer": "sgd", "learning_rate": 1e6}
    results = execute(parse({"recipe": "erm", "model": {"hidden": [6]}, "training": training}), tmp_path, Silent())
    parameters = load_file(tmp_path / "model.safetensors")
    assert 1e12 < max(float(value.abs().amax()) for value in parameters.values()) < 1e19
    assert results["diverged"]
