"""Runs on the features of a frozen network: seconds of computing for each recipe. `python benchmarks/features.py`.

Four domains of 2,500 examples with 1,280 features, 7 classes, an mlp of 32 behind them, full batches, 100 rounds,
evaluated every 10: what is left of a network whose features are in the cache. One run a recipe is measured, in one
process and one thread; a table of 4 targets and 3 seeds is 12 such runs a recipe.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy

from fedha.config import parse
from fedha.run import execute
from fedha.runs.listener import Silent

RECIPES = ("erm", "vrex", "irm", "fishr", "hgp", "exact_diagonal")
DOMAINS, CLASSES = ("art", "cartoon", "photo", "sketch"), 7
RUNS = 12  # of each recipe: 4 targets, 3 seeds


def main() -> None:
    """Print a line for each recipe, and the sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=1_280)
    parser.add_argument("--rounds", type=int, default=100)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_domains(Path(folder), wanted.rows // len(DOMAINS), wanted.width)
        total = 0.0
        for recipe in RECIPES:
            spent, passed = measured(Path(folder), recipe, wanted.rounds)
            total += spent
            print(f"{recipe:15} {spent:6.2f} s of a processor, {passed:6.2f} s by the clock, a run", flush=True)
    print(f"{RUNS * len(RECIPES)} runs take {RUNS * total:.0f} s of a processor, {RUNS * total / 2:.0f} s on two cores")


def write_domains(folder: Path, rows: int, width: int) -> None:
    """Features of classes that differ, and shift from domain to domain."""
    chance = numpy.random.default_rng(0)
    centres = chance.normal(size=(CLASSES, width))
    for name in DOMAINS:
        labels = chance.integers(0, CLASSES, rows)
        shift = 0.5 * chance.normal(size=width)
        inputs = numpy.maximum(0.3 * centres[labels] + shift + chance.normal(size=(rows, width)), 0)
        numpy.savez(folder / f"{name}.npz", inputs=inputs.astype(numpy.float32), labels=labels)


def measured(folder: Path, recipe: str, rounds: int) -> tuple[float, float]:
    """Seconds of a processor, and by the clock, of one run."""
    config = parse(
        {
            "data": {"name": "arrays", "root": str(folder), "target": DOMAINS[-1]},
            "model": {"name": "mlp", "hidden": [32]},
            "recipe": recipe,
            "training": {"rounds": rounds, "optimizer": "adam", "learning_rate": 0.001},
            "evaluation": {"every": 10},
            "engine": {"name": "inline"},
        }
    )
    spent, begun = time.process_time(), time.perf_counter()
    execute(config, folder / "runs" / recipe, Silent())
    return time.process_time() - spent, time.perf_counter() - begun


if __name__ == "__main__":
    main()
