"""A sweep that is killed again and again, at moments nobody chose, ends with the table of one that never was."""

import csv
import io
import random
from pathlib import Path

import pytest

from tests import forked
from tests.commands import Command

_ASKED = ("training.rounds=30", "checkpoint.every=5", "seed=[0, 1]", "--draws", "2", "--halving", "2")
_RATE = "training.learning_rate={log_uniform: [-2, 0]}"


def begun(*arguments: str) -> forked.Program:
    """A sweep in a process of its own, which has begun to work."""
    program = forked.start("sweep", "c.yaml", "--out", "s", *_ASKED, _RATE, *arguments)
    assert b"runs" in program.stdout.readline()  # how many there are, before the first
    return program


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
@pytest.mark.parametrize(
    ("workers", "kills", "longest"),
    [(("--jobs", "1"), 20, 0.5), (("--worker", "1/2"), 20, 0.5), (("--jobs", "2"), 5, 10.0)],  # Ray takes seconds
    ids=["one", "two", "ray"],
)
def test_a_sweep_that_is_killed_again_and_again_ends_with_the_same_table(
    fedha: Command, workers: tuple[str, str], kills: int, longest: float
) -> None:
    code, *_ = fedha("sweep", "c.yaml", "--out", "whole", "--jobs", "1", "-q", *_ASKED, _RATE)
    assert code == 0
    chance, survived = random.Random(workers[1]), 0
    for _ in range(kills):
        one = begun(*workers)
        other = begun("--worker", "2/2") if workers[1] == "1/2" else None
        survived += one.ends(chance.uniform(0.0, longest))
        if other is not None:  # it takes over what the other had, or is killed as well
            other.ends(chance.choice((0.1, 0.8)))
    assert begun("--jobs", "1").ends(None)
    assert survived < kills
    assert table(fedha, "s") == table(fedha, "whole")
    for path in Path("whole").rglob("model.safetensors"):
        assert path.read_bytes() == (Path("s") / path.relative_to("whole")).read_bytes()
