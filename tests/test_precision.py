"""Somebody's own network in another precision: products of its featurizer in bfloat16, all behind it in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedha.config import ModelConfig, parse
from fedha.measurement import Circumstances, measure, view_head
from fedha.models import SplitModel, build
from fedha.models.split import MixedPrecision
from fedha.registry import known, statistic
from fedha.run import execute
from fedha.runs.listener import Silent
from tests.models_of_others import BODIES

SHAPE = (3, 4)
OWN = "tests.models_of_others"


def made(precision: str, name: str = f"{OWN}:shaped", **options: Any) -> SplitModel:
    return build(ModelConfig.model_validate({"name": name, "precision": precision, **options}), SHAPE, 2, 0).eval()


@pytest.mark.parametrize("kind", BODIES)
def test_an_own_featurizer_is_rounded_and_nothing_behind_it(kind: str) -> None:
    full, mixed = (made(one, kind=kind) for one in ("float32", "mixed"))
    assert isinstance(mixed.featurizer, MixedPrecision)
    inputs = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1))
    exact, rounded = full.featurizer(inputs), mixed.featurizer(inputs)
    assert rounded.dtype == torch.float32
    assert float((exact - rounded).detach().abs().max()) < 0.05
    assert torch.equal(mixed.head(exact), full.head(exact))
    assert all(value.dtype == torch.float32 for value in mixed.parameters())


def test_statistics_behind_an_own_featurizer_in_bfloat16_are_those_of_float32() -> None:
    mixed = made("mixed", f"{OWN}:normed")
    features = mixed.featurizer(torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1)))
    labels, view = torch.tensor([0, 1, 1, 0, 1, 0]), view_head(mixed, {})
    around = Circumstances(0, 1, None, 3, {"gradient": torch.ones(view.shape)})
    exact = view_head(mixed.double(), {})
    in_double = Circumstances(0, 1, None, 3, {"gradient": torch.ones(view.shape, dtype=torch.float64)})
    for name in known():
        if statistic(name).representation:
            continue  # of Gaussians, which this network does not give
        value = measure(name, view, view.prepare(features), labels, around)
        assert value.dtype == torch.float32
        wanted = measure(name, exact, exact.prepare(features.double()), labels, in_double)
        torch.testing.assert_close(value, wanted.float(), rtol=1e-4, atol=1e-6)


def test_an_own_network_in_float64_computes_in_it() -> None:
    model = made("float64", f"{OWN}:normed")
    assert model(torch.randn(2, *SHAPE, dtype=torch.float64)).dtype == torch.float64
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float64}


def test_several_inputs_and_token_ids_reach_a_featurizer_in_bfloat16() -> None:
    shapes = {"tokens": (6,), "numbers": (3,)}
    model = build(ModelConfig.model_validate({"name": f"{OWN}:reads_both", "precision": "mixed"}), shapes, 2, 0)
    inputs = {"tokens": torch.randint(0, 20, (4, 6)), "numbers": torch.randn(4, 3)}
    assert model.featurizer(**inputs).dtype == torch.float32
    words = build(ModelConfig.model_validate({"name": f"{OWN}:reads_words", "precision": "mixed"}), (6,), 2, 0)
    assert words.featurizer(inputs["tokens"]).dtype == torch.float32


def takes_it(input_shape: tuple[int, ...], classes: int, precision: str = "whole") -> SplitModel:
    """A function that sees to its precision itself."""
    assert precision in ("whole", "mixed")
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    return SplitModel(MixedPrecision(body) if precision == "mixed" else body, torch.nn.Linear(5, classes))


def test_a_function_that_asks_for_the_precision_is_given_it_and_is_not_wrapped_again() -> None:
    name = f"{__name__}:takes_it"
    assert not isinstance(made("float32", name).featurizer, MixedPrecision)
    assert not isinstance(made("mixed", name).featurizer.full, MixedPrecision)


@pytest.mark.parametrize("mode", ["synchronous", "local"])
def test_a_run_in_mixed_precision_is_near_that_in_float32_and_not_the_same(mode: str, tmp_path: Path) -> None:
    ends = []
    for precision in ("float32", "mixed"):
        content = {
            "model": {"name": f"{OWN}:normed", "precision": precision},
            "recipe": "exact_diagonal",
            "training": {"mode": mode, "rounds": 3, "local": {"steps": 2}},
            "engine": {"name": "inline"},
        }
        execute(parse(content), tmp_path / precision, Silent())
        state = load_file(tmp_path / precision / "model.safetensors")
        ends.append({name.replace(".full", "", 1): value for name, value in state.items()})
    assert {value.dtype for value in ends[1].values() if value.is_floating_point()} == {torch.float32}
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=0, atol=0.02)
    assert any(not torch.equal(ends[1][name], value) for name, value in ends[0].items())
