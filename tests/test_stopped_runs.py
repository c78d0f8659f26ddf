"""A run that is asked to stop ends at its next safe place, whichever that is, saves what is done, and goes on."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fedha import run as runs
from fedha.errors import StoppedError
from fedha.flower.serve import Job
from fedha.runs.listener import Silent
from tests.jobs import Stop, run_job
from tests.test_resume import assert_same_run, settings

PLENTY = 10_000
# Few examples, so that many moments can be tried; checkpoints only where the run is stopped.
SMALL: dict[str, Any] = {
    "data": {"name": "colored_digits", "held_out": 0.9},
    "checkpoint": {"every": 1000},
    "evaluation": {"every": 2},
}
RUNS: dict[str, dict[str, Any]] = {
    "moving averages at the clients": {"recipe": {"name": "fishr", "weight": 30.0}},
    "a moving average at the server": {"recipe": {"name": "fediir", "weight": 3.0}},
    "domain weights": {"recipe": {"name": "groupdro", "step_size": 1.0}},
    "one exchange a round": {"recipe": "hgp", "federation": {"schedule": "piggyback"}},
}


@pytest.mark.parametrize("name", RUNS)
def test_wherever_a_run_is_stopped_it_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    config = settings(**SMALL, **RUNS[name])
    counter = Stop(PLENTY)
    run_job(Job(config, tmp_path / "whole"), Silent(), stop=counter)
    moments, stopped = PLENTY - counter.left, tmp_path / "stopped"
    assert moments > 20
    with pytest.raises(StoppedError, match="stopped before its first round was done"):
        run_job(Job(config, stopped), Silent(), stop=Stop(0))
    while True:  # each time it comes a little further
        with suppress(StoppedError):
            run_job(Job(config, stopped), Silent(), resume=True, stop=Stop(9))
            break
    assert_same_run(stopped, tmp_path / "whole")


@pytest.mark.parametrize("moment", [3, 11, 12, 13, 17])
def test_no_round_that_was_done_is_lost(moment: int, tmp_path: Path) -> None:
    config = settings(**SMALL, recipe="hgp")
    run_job(Job(config, tmp_path / "whole"), Silent())
    with pytest.raises(StoppedError, match=r"stopped after round \d of 7, which is saved|before its first round"):
        run_job(Job(config, tmp_path / "stopped"), Silent(), stop=Stop(moment))
    log = tmp_path / "stopped" / "metrics.jsonl"
    lines = log.read_text() if log.exists() else ""
    run_job(Job(config, tmp_path / "stopped"), Silent(), resume=True)
    assert log.read_text().startswith(lines)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_fold_is_stopped_like_a_run_and_says_which_it_is(tmp_path: Path) -> None:
    config = settings(**{**SMALL, "evaluation": {"every": 2, "leave_one_domain_out": True}}, recipe="erm")
    runs.execute(config, tmp_path / "whole", Silent())
    with pytest.raises(StoppedError, match=r"stopped after round \d of 7 of the fold without \S+, which is saved"):
        runs.execute(config, tmp_path / "stopped", Silent(), stop=Stop(12))
    runs.execute(config, tmp_path / "stopped", Silent(), resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_checkpoint_is_also_made_after_so_many_minutes(tmp_path: Path) -> None:
    for minutes, made in ((1e-9, True), (1e9, False), (None, False)):
        config = settings(**{**SMALL, "checkpoint": {"every": 1000, "minutes": minutes}}, recipe="erm")
        folder = tmp_path / str(minutes)
        with pytest.raises(KeyboardInterrupt):
            run_job(Job(config, folder), _Killed())
        assert (folder / "checkpoint" / "state.safetensors").exists() is made


class _Killed(Silent):
    def round_done(self, record: Any) -> None:
        raise KeyboardInterrupt
