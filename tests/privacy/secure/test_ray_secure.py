"""Secure sums on Ray: the bits of one process, and each client of a worker masked for itself."""

from pathlib import Path
from typing import Any

import pytest

from fedha.flower.serve import Job
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.jobs import run_job
from tests.killed_runs import without_time
from tests.privacy.secure.test_secure_runs import assert_near, config, model

pytestmark = pytest.mark.usefixtures("shared_ray")


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({}, marks=pytest.mark.slow, id="hgp"),
        pytest.param(
            {"recipe": "fishr", "training": {"rounds": 4, "mode": "local", "local": {"epochs": 1, "batch_size": 30}}},
            id="fishr, local steps",
        ),
    ],
)
def test_ray_writes_what_one_process_writes(sections: dict[str, Any], tmp_path: Path) -> None:
    for engine in ("inline", "ray"):
        run_job(Job(config(engine, **sections), tmp_path / engine), Silent())
    assert model(tmp_path / "ray") == model(tmp_path / "inline")
    assert without_time(tmp_path / "ray" / "metrics.jsonl") == without_time(tmp_path / "inline" / "metrics.jsonl")


def test_clients_that_are_computed_together_are_masked_each_for_itself(tmp_path: Path) -> None:
    data = {"color_flips": [0.1, 0.2, 0.3], "clients_per_domain": 2}
    engines = {"together": {"name": "ray", "workers": 2}, "alone": {"name": "inline", "batching": False}}
    for place, engine in engines.items():
        run_job(Job(config(engine, data=data), tmp_path / place), Silent())
    assert_near(tmp_path / "alone", tmp_path / "together")
    sent = [
        [(record["bytes_down"], record["bytes_up"]) for record in runfolder.read_metrics(tmp_path / place)]
        for place in engines
    ]
    assert sent[0] == sent[1]  # nobody's answer is missing
