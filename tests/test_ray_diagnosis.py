"""A diagnosis over the clients of an engine has the numbers of the plain one, to the bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedha import config as configs
from fedha import engine
from fedha.cli.launch import shipped_configs
from fedha.config import Config
from fedha.diagnosis import record
from fedha.diagnosis.diagnose import diagnose
from fedha.diagnosis.settings import Asked, Settings
from fedha.flower.job import Job
from fedha.flower.serve import load_domains
from fedha.loading import load
from fedha.run import execute
from fedha.runs.listener import Silent
from tests.made_runs import FAST, changed

SETTINGS = Settings(rows=("transfer", "curvature"), logits=(0.3, 1.0))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path, Any]:
    """A finished run, and its diagnosis in this process."""
    overrides = changed(FAST, "recipe=exact_diagonal", "seed=0", "training.rounds=1", "model.hidden=[6]")
    config = configs.load(shipped_configs()["quickstart"], list(overrides))
    folder = tmp_path_factory.mktemp("diagnosed") / "run"
    execute(config, folder, Silent())
    plain = diagnose(load(folder), config, load_domains(config), SETTINGS, lambda *_: None, round=1)
    return config, folder, json.loads(json.dumps(plain))


def over(name: str, run: tuple[Config, Path, Any], tmp_path: Path, settings: Settings = SETTINGS) -> dict[str, Any]:
    config, folder, _ = run
    there = config.model_copy(update={"engine": config.engine.model_copy(update={"name": name})})
    place = shutil.copytree(folder, tmp_path / "run")
    before = (place / "results.json").read_bytes()
    job = Job(there, place, diagnose=Asked(settings, 1))
    assert engine.run(job, load_domains(config), Silent(), resume=True) == json.loads(before)
    assert (place / "results.json").read_bytes() == before
    return record.read(place)


def assert_same(found: dict[str, Any], plain: Any) -> None:
    for part in ("domains", "transfer", "curvature"):
        assert found[part] == plain[part]


def test_over_the_inline_grid(run: tuple[Config, Path, Any], tmp_path: Path) -> None:
    assert_same(over("inline", run, tmp_path), run[2])


def test_rows_that_need_features_are_of_this_process(run: tuple[Config, Path, Any], tmp_path: Path) -> None:
    settings = Settings(rows=("curvature", "attributes"))
    config, folder, _ = run
    plain = diagnose(load(folder), config, load_domains(config), settings, lambda *_: None, round=1)
    found = over("inline", run, tmp_path, settings)
    for part in ("domains", "curvature", "attributes"):
        assert found[part] == json.loads(json.dumps(plain))[part]


@pytest.mark.usefixtures("shared_ray")
def test_over_ray(run: tuple[Config, Path, Any], tmp_path: Path) -> None:
    assert_same(over("ray", run, tmp_path), run[2])


@pytest.mark.slow
def test_over_flowers_simulation(run: tuple[Config, Path, Any], tmp_path: Path) -> None:
    assert_same(over("flower", run, tmp_path), run[2])
