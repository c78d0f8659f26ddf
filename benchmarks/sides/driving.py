"""The driving end: start sides and let them run in turns, so that all see the same load."""

import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedha.heap import TUNABLES, uncached
from sides.processes import birth, cpu_seconds, tree

BENCHMARKS = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """What every process of a benchmark inherits: no telemetry, and one thread for everybody.

    Products as small as the benchmarks' lose with two threads. torch, Ray and Flower read this when they are imported.
    """
    return os.environ | {
        "RAY_ADDRESS": "local",  # else Flower's simulation joins whatever Ray cluster runs on the machine
        TUNABLES: uncached(os.environ),  # as the command starts itself
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "MKL_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


class SideFailedError(Exception):
    """A side ended or fell silent; the message has the end of what it printed."""


@dataclass(frozen=True)
class Block:
    """Some rounds of one side in a row.

    Attributes:
        seconds: Wall-clock seconds of each round.
        cpu_seconds: CPU time of the side's whole process tree while the block ran.
        bytes: What the rounds sent, where the side counts it.
    """

    seconds: list[float]
    cpu_seconds: float
    bytes: int


@dataclass(frozen=True)
class Summary:
    """What some blocks of one side say.

    Attributes:
        seconds: Median seconds of a round.
        cpu_seconds: CPU seconds a round, over all processes of the side; the system counts them in hundredths.
        bytes: Sent a round.
        rounds: How many were counted.
    """

    seconds: float
    cpu_seconds: float
    bytes: float
    rounds: int


class Side:
    """One side, a process with all that it starts.

    Args:
        module: Of this package, such as ``loops``.
        arguments: For it.
        python: Which interpreter.
        patience: Seconds a block may take, the side's start included.
    """

    def __init__(
        self, module: str, *arguments: object, python: str | Path = sys.executable, patience: float = 900
    ) -> None:
        self.name = " ".join([module, *map(str, arguments)])
        self._patience = patience
        self._folder = tempfile.TemporaryDirectory(prefix="side-")
        self._log = Path(self._folder.name, "log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", f"sides.{module}", *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=BENCHMARKS,
                env=environment(),
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._cpu_before = 0.0
        self._started: dict[int, int] = {}

    def begin(self, rounds: int) -> None:
        """Ask for rounds; `end` waits for them."""
        self._cpu_before = cpu_seconds(tree(self.pid))
        with suppress(BrokenPipeError):  # its end is reported with its last words by `end`
            self._process.stdin.write(f"{rounds}\n")
            self._process.stdin.flush()

    def end(self) -> Block:
        """The rounds that `begin` asked for.

        Raises:
            SideFailedError: The side ended, or did not answer in time.
        """
        ready, _, _ = select.select([self._process.stdout], [], [], self._patience)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            state = "ended" if ready else f"did not answer in {self._patience:g} s"
            words = self._log.read_text(errors="replace")[-3000:]
            raise SideFailedError(f"{self.name} {state}; it said last:\n{words}")
        answer = json.loads(line)
        return Block(answer["seconds"], cpu_seconds(tree(self.pid)) - self._cpu_before, answer["bytes"])

    def run(self, rounds: int) -> Block:
        """Some rounds at once."""
        self.begin(rounds)
        return self.end()

    def leave(self) -> None:
        """Let the side end: it sees the end of its input. Does not wait."""
        self._started = {pid: birth(pid) for pid in tree(self.pid)}
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def stop(self) -> None:
        """End the side; what is left of its processes after a while is killed."""
        if not self._started:
            self.leave()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        for pid, born in self._started.items():
            with suppress(ProcessLookupError):
                if born and birth(pid) == born:  # not another process that has got its number since
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()


@contextmanager
def running(sides: Mapping[str, Side]) -> Iterator[Mapping[str, Side]]:
    """Sides that are stopped at the block's end, all at once, however that comes."""
    try:
        yield sides
    finally:
        for side in sides.values():
            side.leave()
        for side in sides.values():
            side.stop()


def alternate(
    sides: Mapping[str, Side], rounds: Mapping[str, int], blocks: int, warm_up: Mapping[str, int] | None = None
) -> dict[str, Summary]:
    """Blocks of rounds of each side in turns.

    Args:
        sides: By name; only one computes at a time.
        rounds: Rounds of each side's block.
        blocks: How many of each side.
        warm_up: Rounds of each side before, which are not counted; default: a block.
    """
    for name, side in sides.items():
        side.run((warm_up or rounds)[name])
    seen: dict[str, list[Block]] = {name: [] for name in sides}
    for _ in range(blocks):
        for name, side in sides.items():
            seen[name].append(side.run(rounds[name]))
    return {name: summarise(own) for name, own in seen.items()}


def summarise(blocks: list[Block]) -> Summary:
    """The medians of some blocks."""
    seconds = [second for block in blocks for second in block.seconds]
    return Summary(
        seconds=statistics.median(seconds),
        cpu_seconds=sum(block.cpu_seconds for block in blocks) / len(seconds),
        bytes=sum(block.bytes for block in blocks) / len(seconds),
        rounds=len(seconds),
    )


def say(benchmark: str, found: Any) -> None:
    """One last line that a program can read, after the tables that people read."""
    print(json.dumps({benchmark: found}, default=asdict))
