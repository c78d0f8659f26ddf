"""Runs with the baselines' rules: resumed to the same bits, summed securely, the same in Flower's simulation."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from fedha.config import Config, parse
from fedha.flower.serve import Job
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.jobs import run_job
from tests.killed_runs import assert_resumes, assert_same_bits

LOCAL = {"mode": "local", "rounds": 4, "local": {"epochs": 1, "batch_size": 60, "learning_rate": 0.1}}
BASE: dict[str, Any] = {
    "data": {"partition": {"name": "lambda", "clients": 4, "mixing": 0.2}},
    "model": {"hidden": [6]},
    "recipe": "erm",
    "evaluation": {"every": 2},
    "checkpoint": {"every": 2},
}


def config(optimizer: Any, engine: str = "inline", **sections: Any) -> Config:
    training = {**LOCAL, "optimizer": optimizer, **sections.pop("training", {})}
    return parse({**BASE, "training": training, "engine": {"name": engine}, **sections})


@pytest.mark.parametrize("optimizer", ["feddg_ga", "fedyogi", {"name": "qfedavg", "q": 2}])
def test_a_killed_run_resumes_to_the_same_bits(optimizer: Any, tmp_path: Path) -> None:
    wanted = config(optimizer, recipe={"name": "mixup", "sam_radius": 0.1}, training={"clients_per_round": 3})
    assert_resumes(wanted, tmp_path, 3)


@pytest.mark.parametrize("optimizer", ["fedgma", "qfedavg", "fedprox", "fedyogi"])
def test_secure_sums_give_the_plain_runs_model(optimizer: str, tmp_path: Path) -> None:
    for name, privacy in (("plain", {}), ("secure", {"secure_aggregation": True})):
        run_job(Job(config(optimizer, training={"averaging": "clients"}, privacy=privacy), tmp_path / name), Silent())
    one, other = (load_file(tmp_path / name / runfolder.MODEL) for name in ("plain", "secure"))
    assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_flowers_simulation_writes_what_one_process_writes(tmp_path: Path) -> None:
    for engine in ("inline", "flower"):
        run_job(Job(config("feddg_ga", engine, recipe={"name": "fedsr"}), tmp_path / engine), Silent())
    assert_same_bits(tmp_path / "flower", tmp_path / "inline")
