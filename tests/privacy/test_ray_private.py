"""Private rounds on every engine: one seed, one answer."""

from pathlib import Path
from typing import Any

import pytest

from fedha.flower.serve import Job
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.jobs import run_job
from tests.killed_runs import without_time
from tests.privacy.rounds import LOCAL, settings

pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')

pytestmark = pytest.mark.usefixtures("shared_ray")

RUNS: dict[str, dict[str, Any]] = {
    "examples, synchronous": {"recipe": "exact_diagonal", "privacy": {"evaluation_noise": 5.0}},
    "examples, poisson steps": {
        "recipe": "fishr",
        "training": LOCAL,
        "privacy": {"sampling": "poisson"},
        "data": {"clients_per_domain": 2},
    },
    "clients": {
        "recipe": "iga",
        "training": {"averaging": "clients", "clients_per_round": 5},
        "privacy": {"protect": "clients", "clip": 0.1},
        "data": {"clients_per_domain": 4},
    },
}


def _same(name: str, engine: dict[str, Any], folder: Path) -> None:
    for place, section in (("inline", {"name": "inline"}), ("other", engine)):
        run_job(Job(settings(**RUNS[name], engine=section), folder / place), Silent())
    one, other = folder / "inline", folder / "other"
    assert (one / runfolder.MODEL).read_bytes() == (other / runfolder.MODEL).read_bytes()
    assert without_time(one / runfolder.METRICS) == without_time(other / runfolder.METRICS)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("examples, synchronous", marks=pytest.mark.slow),
        "examples, poisson steps",
        "clients",
    ],
)
def test_ray_gives_the_answer_of_one_process(name: str, tmp_path: Path) -> None:
    _same(name, {"name": "ray", "workers": 2, "batching": False}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["examples, synchronous"])
def test_flowers_simulation_gives_the_answer_of_one_process(name: str, tmp_path: Path) -> None:
    _same(name, {"name": "flower"}, tmp_path)
