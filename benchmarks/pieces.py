"""Peak memory of training and evaluation as the number of examples grows: flat, and near the limit that the chunk sets.

    python benchmarks/pieces.py [--quick]

Each number of examples is a process of its own (`sides/examples.py`): two rounds of exact_diagonal on a small CNN, full
batch and with minibatches of 32, and an evaluation. The peak is what the rounds add to what the process held before
them, data and network included. The limit is the memory of a piece: rows of a chunk times what one example takes on its
way forth and back, 256 MiB unless fewer examples than a chunk are there.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from sides.driving import environment, say
from sides.processes import machine

SIZES = (500, 1000, 2000, 4000, 8000)
BATCHES = {"full batch": (), "batches of 32": ("--batch", "32")}


def measured(examples: int, *more: str) -> dict[str, float]:
    """What one process says."""
    command = [sys.executable, "-m", "sides.examples", str(examples), *more]
    here = Path(__file__).resolve().parent
    done = subprocess.run(command, cwd=here, env=environment(), capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small sizes")
    given = parser.parse_args()
    print(f"{machine()}; one thread")
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
