"""Several plain processes on one card: how many steps they take together."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from card.stage import Stage

BENCHMARKS = Path(__file__).resolve().parents[1]
START = 90  # seconds in which a process must be ready


def compare(stage: Stage) -> None:
    """Steps a second of 1, 2, 4 and 8 processes, of a small and of a larger network."""
    counts = (1, 2) if stage.tiny else (1, 2, 4, 8)
    works = {"mlp 28 px, hgp": ("mlp", 28, 32, "hgp"), "resnet18 64 px, hgp": ("resnet18", 64, 32, "hgp")}
    for name, (architecture, pixels, rows, recipe) in list(works.items())[: 1 if stage.tiny else None]:
        if stage.over(name):
            continue
        given = [stage.device.type, architecture, pixels, 4 if stage.tiny else rows, recipe]
        with started(max(counts), given) as workers:
            if not all(answer(one, START) == "ready" for one in workers):
                raise SystemExit(f"a process that trains {name} did not start: {said(workers)}")
            alone = 0.0
            for count in counts:
                steps = together(workers[:count], 0.5 if stage.tiny else 3.0)
                alone = alone or steps
                stage.say(f"{name}, {count} processes", {"steps/s": steps, "times one": steps / alone})


def together(workers: Sequence[subprocess.Popen[str]], seconds: float) -> float:
    """Steps a second of all of them."""
    begun = time.perf_counter()
    for one in workers:
        one.stdin.write(f"{seconds}\n")
        one.stdin.flush()
    steps = sum(int(answer(one, seconds + START) or 0) for one in workers)
    return steps / (time.perf_counter() - begun)


def answer(worker: subprocess.Popen[str], patience: float) -> str:
    """A process' next line; empty where it has ended or says nothing for so many seconds."""
    ready, _, _ = select.select([worker.stdout], [], [], patience)
    return worker.stdout.readline().strip() if ready else ""


def said(workers: Sequence[subprocess.Popen[str]]) -> str:
    """The last words of those that have ended."""
    ended = [one for one in workers if one.poll() is not None]
    return "; ".join(one.stderr.read()[-500:] for one in ended) or "none has ended"


@contextmanager
def started(count: int, arguments: Sequence[object]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended with the block."""
    command = [sys.executable, "-m", "card.worker", *map(str, arguments)]
    paths = [str(BENCHMARKS), str(BENCHMARKS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    pipe = subprocess.PIPE
    workers = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=BENCHMARKS, env=own)
        for _ in range(count)
    ]
    try:
        yield workers
    finally:
        for one in workers:
            one.kill()
            one.wait()
