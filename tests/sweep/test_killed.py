"""A sweep that is killed again and again, at moments nobody chose, ends with the table of one that never was."""

import csv
import io
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweep.made import Command

KILLS = 20
_ASKED = ("training.rounds=30", "checkpoint.every=5", "seed=[0, 1]", "--draws", "2", "--halving", "2")
_RATE = "training.learning_rate={log_uniform: [-2, 0]}"


def start(*arguments: str) -> "subprocess.Popen[bytes]":
    """A sweep in a process of its own."""
    command = [sys.executable, "-m", "fedha", "sweep", "c.yaml", "--out", "s", "-q", *_ASKED, _RATE, *arguments]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)


def table(fedha: Command, folder: str) -> str:
    """What `fedha table` writes, without the column and the line that tell seconds."""
    code, out, _ = fedha("table", folder, "--format", "csv")
    assert code == 0
    parts = []
    for text in out.split("\n\n"):
        rows = list(csv.reader(io.StringIO(text)))
        kept = [place for place, head in enumerate(rows[0]) if head != "seconds"]
        parts.append("\n".join(",".join(row[place] for place in kept) for row in rows))
    return "\n\n".join(parts)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [("--jobs", "1"), ("--worker", "1/2"), ("--jobs", "2")], ids=["one", "two", "ray"])
def test_a_sweep_that_is_killed_twenty_times_ends_with_the_same_table(fedha: Command, workers: tuple[str, str]) -> None:
    code, *_ = fedha("sweep", "c.yaml", "--out", "whole", "--jobs", "1", "-q", *_ASKED, _RATE)
    assert code == 0
    chance, survived = random.Random(workers[1]), 0
    for _ in range(KILLS):
        process = start(*workers)
        other = start("--worker", "2/2") if workers[1] == "1/2" else None
        try:
            process.wait(timeout=chance.uniform(1.5, 8.0))
            survived += 1
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        if other is not None:  # the job of the one that was killed is this one's, or the next one's
            if chance.random() < 0.5:
                os.kill(other.pid, signal.SIGKILL)
            other.wait()
    assert start("--jobs", "1").wait() == 0
    assert survived < KILLS
    assert table(fedha, "s") == table(fedha, "whole")
    for path in Path("whole").rglob("model.safetensors"):
        assert path.read_bytes() == (Path("s") / path.relative_to("whole")).read_bytes()
