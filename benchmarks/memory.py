"""Memory and bytes of a round as the cohort grows, and whether memory grows over 500 rounds.

    python benchmarks/memory.py [--quick] [--engine ray|inline] [--workers W]

The run is the one of `cohort.py`, batched, on random numbers. Memory is PSS, which counts a page that several processes
share once, of the whole process tree: the driver, its workers, what Ray starts besides, and the object store that they
share. A thread samples it while the rounds run; the peak is the largest sum. Bytes are those of the messages' records,
as metrics.jsonl has them: Ray moves the model once a round, not once a client.

The growth is the slope of a line through the memory after each tenth round, the first fifth of the rounds left out,
with its standard error. There 20 of 100 clients are drawn: by then each has been, and has brought its data into memory.
"""

import argparse
import statistics
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from sides import federation
from sides.driving import Side, running, say
from sides.processes import command, cores, machine, memory_bytes, tree

KINDS = ("driver", "workers", "ray's own", "shared store")


def memory(root: int) -> dict[str, int]:
    """Bytes of a side's processes by kind."""
    held = dict.fromkeys(KINDS, 0)
    for pid in tree(root):
        kind = "driver" if pid == root else "workers" if command(pid).startswith("ray::") else "ray's own"
        own, shared = memory_bytes(pid)
        held[kind] += own
        held["shared store"] += shared
    return held


@dataclass
class Watch:
    """Samples a side's memory until told to stop; use it in a `with`.

    Attributes:
        root: The side's process.
        peak: Bytes by kind when their sum was largest.
    """

    root: int
    peak: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    _enough: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._enough.wait(0.1):
            now = memory(self.root)
            if sum(now.values()) > sum(self.peak.values()):
                self.peak = now


def start(data: str, cohort: int, given: argparse.Namespace) -> Side:
    """fedha's side at this cohort."""
    return Side(
        "ours", "cohort", "--engine", given.engine, "--data", data, "--cohort", cohort, "--workers", given.workers
    )


def grow(data: str, cohorts: tuple[int, ...], given: argparse.Namespace) -> dict[int, dict[str, float]]:
    """A row for each cohort: peak memory by kind, and bytes sent."""
    print(
        f"\n{'cohort':>7}{'peak MB':>10}"
        + "".join(f"{kind:>14}" for kind in KINDS)
        + f"{'sent MB':>11}{'a client':>10}"
    )
    found = {}
    for cohort in cohorts:
        with running({"ours": start(data, cohort, given)}) as sides, Watch(sides["ours"].pid) as watch:
            block = sides["ours"].run(2 if given.quick else 5)
        sent = block.bytes / len(block.seconds)
        found[cohort] = {**watch.peak, "bytes": sent}
        held = "".join(f"{watch.peak[kind] / 1e6:14,.0f}" for kind in KINDS)
        total = sum(watch.peak.values()) / 1e6
        print(f"{cohort:>7,}{total:10,.0f}{held}{sent / 1e6:11,.1f}{sent / 1e6 / cohort:10.2f}", flush=True)
    if len(cohorts) > 1:
        few, many = cohorts[0], cohorts[-1]
        more = sum(found[many][kind] - found[few][kind] for kind in KINDS)
        print(f"from {few} to {many:,} clients a round: {more / (many - few) / 1e6:.2f} MB more at the peak for each")
    return found


def slope(places: list[float], values: list[float]) -> tuple[float, float]:
    """The slope of the line through these points, and its standard error."""
    line = statistics.linear_regression(places, values)
    left = [value - line.slope * place - line.intercept for place, value in zip(places, values, strict=True)]
    middle = statistics.fmean(places)
    spread = sum((place - middle) ** 2 for place in places)
    return line.slope, (sum(one * one for one in left) / (len(places) - 2) / spread) ** 0.5


def leak(data: str, cohort: int, rounds: int, given: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Bytes that each kind of process gains a round."""
    held: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with running({"ours": start(data, cohort, given)}) as sides:
        for _ in range(rounds // 10):
            sides["ours"].run(10)
            for kind, value in memory(sides["ours"].pid).items():
                held[kind].append(value)
    skipped = len(held["driver"]) // 5
    places = [10.0 * (count + 1) for count in range(skipped, rounds // 10)]
    print(f"\n{rounds} rounds with a cohort of {cohort}, from round {10 * skipped + 10} on:")
    found = {}
    for kind, values in held.items():
        found[kind] = slope(places, values[skipped:])
        gain, error = found[kind]
        end = f"{values[-1] / 1e6:9,.1f} MB at the end"
        print(f"  {kind:12}{end}, {gain / 1e3:+8.2f} kB a round, give or take {error / 1e3:.2f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10 of 20 clients, 50 rounds")
    parser.add_argument("--engine", choices=["ray", "inline"], default="ray")
    parser.add_argument("--workers", type=int, default=cores())
    given = parser.parse_args()
    print(f"{machine()}; {given.engine}, {given.workers} workers, one thread each")
    with tempfile.TemporaryDirectory(prefix="memory-") as data:
        print(federation.write(Path(data), 20 if given.quick else 1000, None))
        sizes = grow(data, (10,) if given.quick else (10, 100, 1000), given)
    with tempfile.TemporaryDirectory(prefix="memory-") as data:
        federation.write(Path(data), 20 if given.quick else 100, None)
        growth = leak(data, 20, 50 if given.quick else 500, given)
    say("memory", {"peak": sizes, "growth": growth})


if __name__ == "__main__":
    main()
