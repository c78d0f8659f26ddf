"""Peak memory of training and evaluation as the number of examples grows: flat, and near the limit that the chunk sets.

    python benchmarks/pieces.py [--quick] [--repeats N]

Each number of examples is a process of its own (`sides/examples.py`): two rounds of exact_diagonal on a small CNN, full
batch and with minibatches of 32, and an evaluation. The peak is what the rounds add to what the process held before
them, data and network included. The limit is the memory of a piece: rows of a chunk times what one example takes on its
way forth and back, 256 MiB unless fewer examples than a chunk are there.

With `--repeats` one and the same process is measured so many times instead, in turns with glibc's caches for threads
and without (`fedha.heap`): the smallest and the largest peak of each.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from sides.driving import environment, say
from sides.processes import machine

from fedha.heap import TUNABLES

SIZES = (500, 1000, 2000, 4000, 8000)
BATCHES = {"full batch": (), "batches of 32": ("--batch", "32")}


def measured(examples: int, *more: str, caches: bool = False) -> dict[str, float]:
    """What one process says; whether it has glibc's usual caches."""
    command = [sys.executable, "-m", "sides.examples", str(examples), *more]
    here = Path(__file__).resolve().parent
    around = environment() | ({TUNABLES: ""} if caches else {})
    done = subprocess.run(command, cwd=here, env=around, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def repeat(times: int, examples: int) -> dict[str, list[float]]:
    """Peaks of one and the same process, with caches and without."""
    peaks: dict[str, list[float]] = {"with caches": [], "without": []}
    for _ in range(times):
        for kind, seen in peaks.items():
            seen.append(measured(examples, caches=kind == "with caches")["peak"])
    for kind, seen in peaks.items():
        print(f"{kind:12} {min(seen) / 1e6:,.0f} to {max(seen) / 1e6:,.0f} MB in {times} processes")
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small sizes")
    parser.add_argument("--repeats", type=int, help="measure one size so often, with glibc's caches and without")
    given = parser.parse_args()
    print(f"{machine()}; one thread")
    if given.repeats:
        say("pieces", repeat(given.repeats, 100 if given.quick else 2000))
        return
    print(f"{'':16}{'examples':>9}{'data MB':>9}{'peak MB':>9}{'limit MB':>10}{'peak / limit':>14}")
    found = {}
    for kind, more in BATCHES.items():
        for examples in (100, 200) if given.quick else SIZES:
            one = found[f"{kind}, {examples}"] = measured(examples, *more)
            numbers = "".join(
                f"{one[key] / 1e6:{width},.0f}" for key, width in (("data", 9), ("peak", 9), ("limit", 10))
            )
            print(f"{kind:16}{examples:9,}{numbers}{one['peak'] / one['limit']:14.2f}", flush=True)
    say("pieces", found)


if __name__ == "__main__":
    main()
