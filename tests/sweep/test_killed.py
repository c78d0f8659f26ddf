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
    """A sweep in a process of its own, which has begun to work."""
    command = [sys.executable, "-m", "fedha", "sweep", "c.yaml", "--out", "s", *_ASKED, _RATE, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    assert process.stdout is not None
    assert b"runs" in process.stdout.readline()  # how many there are, before the first
    return process


def ended(process: "subprocess.Popen[bytes]", seconds: float | None) -> bool:
    """Whether it ends by itself within so many seconds; else it is killed."""
    try:
        told = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    assert process.returncode == 0, told
    return True


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
        one = start(*workers)
        other = start("--worker", "2/2") if workers[1] == "1/2" else None
        survived += ended(one, chance.uniform(0.0, 4.0))
        if other is not None:  # it takes over what the other had, or is killed as well
            ended(other, chance.choice((0.5, None)))
    assert ended(start("--jobs", "1"), None)
    assert survived < KILLS
    assert table(fedha, "s") == table(fedha, "whole")
    for path in Path("whole").rglob("model.safetensors"):
        assert path.read_bytes() == (Path("s") / path.relative_to("whole")).read_bytes()
