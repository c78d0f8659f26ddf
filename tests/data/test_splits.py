"""The five splits by name: who looks at which."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedha.config import DataConfig, parse
from fedha.data import load, load_targets, source_count
from fedha.data.splits import LODO_VAL, ORACLE, TEST, watched
from fedha.errors import FedhaError
from fedha.run import execute
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from fedha.sweep.summary import summarise


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    folder = tmp_path / "d"
    folder.mkdir()
    for name in "abcd":
        inputs = draws.normal(size=(50, 3)).astype("f4")
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=(inputs[:, 0] > 0).astype("i8"))
    return folder


def section(root: Path, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"name": "arrays", "root": root, "target": "a", **changes})


def test_without_being_asked_a_target_is_looked_at_whole(root: Path) -> None:
    config = section(root)
    targets = load(config, 0).targets
    assert watched(targets, config, 0) == {TEST: targets}


@pytest.mark.parametrize("split", ["stratified", "random"])
def test_the_oracles_part_is_what_the_domain_holds_out_where_it_is_a_source(root: Path, split: str) -> None:
    config = section(root, target_held_out=0.2, split=split)
    parts = watched(load(config, 3).targets, config, 3)
    (rest,), (own,) = parts[TEST], parts[ORACLE]
    assert (len(rest.held_out), len(own.held_out)) == (40, 10)
    (source,) = (one for one in load(section(root, target="b", split=split), 3).sources if one.name == "a")
    assert torch.equal(own.held_out.inputs, source.held_out.inputs)
    assert torch.equal(rest.held_out.inputs, source.train.inputs)
    assert not torch.equal(own.held_out.inputs, watched(load(config, 4).targets, config, 4)[ORACLE][0].held_out.inputs)


def test_a_domain_kept_for_validation_is_neither_source_nor_target(root: Path) -> None:
    for sources in (None, ["b", "d"]):
        config = section(root, validation_domain="c", sources=sources, target_held_out=0.2, classes=2)
        domains = load(config, 0)
        assert [one.name for one in domains.sources] == ["b", "d"]
        parts = watched(domains.targets, config, 0)
        assert {key: [one.name for one in ones] for key, ones in parts.items()} == {
            TEST: ["a"],
            ORACLE: ["a"],
            LODO_VAL: ["c"],
        }
        assert len(parts[LODO_VAL][0].held_out) == 50
    assert "c 50 is kept for validation" in domains.description
    assert [one.name for one in load_targets(config, 0)] == ["a", "c"]
    assert source_count(DataConfig(name="heart", validation_domain="hungarian")) == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"validation_domain": "a"}, "'a' is data.validation_domain and in data.target"),
        ({"validation_domain": "b", "sources": ["b", "c"]}, "'b' is data.validation_domain and in data.sources"),
        ({"validation_domain": "bb"}, "data.validation_domain names 'bb', which is no source domain; did you mean 'b'"),
    ],
)
def test_validation_domains_that_are_none(root: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(FedhaError, match=says):
        load(section(root, **changes), 0)


def test_a_target_that_cannot_be_divided(root: Path) -> None:
    np.savez(root / "a.npz", inputs=np.ones((1, 3), "f4"), labels=np.array([1]))
    config = section(root, target_held_out=0.2)
    with pytest.raises(FedhaError, match="too few examples or groups to be divided"):
        watched(load(config, 0).targets, config, 0)


def test_a_run_evaluates_each_part_by_its_name_and_its_training_does_not_change(root: Path, tmp_path: Path) -> None:
    content = {
        "data": {"name": "arrays", "root": str(root), "target": "a", "sources": ["b", "d"]},
        "model": {"name": "mlp", "hidden": [4]},
        "recipe": "erm",
        "training": {"rounds": 2},
        "engine": {"name": "inline"},
    }
    execute(parse(content), tmp_path / "plain", Silent())
    content["data"] |= {"target_held_out": 0.2, "validation_domain": "c"}  # type: ignore[index]
    results = execute(parse(content), tmp_path / "parts", Silent())
    plain, parts = (runfolder.read_metrics(tmp_path / name) for name in ("plain", "parts"))
    assert [one["loss"] for one in plain] == [one["loss"] for one in parts]
    assert not {"oracle", "lodo_val"} & plain[-1].keys()
    assert [parts[-1][part]["a"]["examples"] for part in ("target", "oracle")] == [40, 10]
    assert parts[-1]["lodo_val"]["c"]["examples"] == 50
    assert (tmp_path / "plain/model.safetensors").read_bytes() == (tmp_path / "parts/model.safetensors").read_bytes()
    assert {"oracle", "validation_domain"} <= results["selection"].keys()


def test_a_part_of_the_sources_is_tested_and_selects_nothing(root: Path, tmp_path: Path) -> None:
    content = {
        "data": {"name": "arrays", "root": str(root), "target": "a", "held_out": 0.4},
        "model": {"name": "mlp", "hidden": [4]},
        "recipe": "erm",
        "training": {"rounds": 2},
        "engine": {"name": "inline"},
    }
    execute(parse(content), tmp_path / "plain", Silent())
    content["data"] |= {"id_test": 0.5}  # type: ignore[index]
    results = execute(parse(content), tmp_path / "parts", Silent())
    plain, parts = (runfolder.read_metrics(tmp_path / name)[-1] for name in ("plain", "parts"))
    assert "id_test" not in plain
    assert (plain["loss"], plain["target"]) == (parts["loss"], parts["target"])
    assert [parts[part]["b"]["examples"] for part in ("held_out", "id_test")] == [10, 10]
    for name, one in plain["held_out"].items():  # the two parts are all that was held out
        halves = [parts[part][name] for part in ("held_out", "id_test")]
        right = sum(half["accuracy"] * half["examples"] for half in halves)
        assert right == pytest.approx(one["accuracy"] * one["examples"])
    assert results["id_test"] == parts["id_test"]
    assert summarise(tmp_path / "parts", 0)["rules"]["final"]["id_test"] == pytest.approx(
        sum(one["accuracy"] for one in parts["id_test"].values()) / 3
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": {"id_test": 0.5, "held_out": 0}}, "source 'b' holds out too few examples or groups to be divided"),
        (
            {"privacy": {"protect": "clients", "noise_multiplier": 1}, "training": {"averaging": "clients"}},
            "which no noise and no secure sum covers",
        ),
        ({"privacy": {"secure_aggregation": True}}, "which no noise and no secure sum covers"),
    ],
)
def test_a_test_part_that_cannot_be(
    root: Path, tmp_path: Path, changes: dict[str, dict[str, object]], says: str
) -> None:
    data = {"name": "arrays", "root": str(root), "target": "a", "id_test": 0.5} | changes.get("data", {})
    content = {"model": {"name": "mlp", "hidden": [4]}, "recipe": "erm", "engine": {"name": "inline"}, **changes}
    with pytest.raises(FedhaError, match=says):
        execute(parse({**content, "data": data}), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()
