"""A table of runs on the cached features of a frozen network, by `fedha sweep` on two cores, and what of it is no run.

    python benchmarks/feature_sweep.py [--quick] [--workers N]

10,000 images in four domains and seven classes, 1,280 features of a frozen network in a cache, an mlp of 32 behind
them, full batches, 100 rounds, evaluated every 10; six recipes, each domain the target in turn, three seeds: 72 runs.
The command is a user's, in processes of its own. Its wall clock and the processor time of all of its processes are
measured; what it takes beside training is that time less what each run notes of its own, in its worker: from the first
round to the last, evaluations included. Making the images and computing the features is not counted. Python keeps what
it compiles, as it does for a user, in a folder of the benchmark's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

import numpy
from PIL import Image
from sides.driving import BENCHMARKS, environment, say
from sides.processes import machine, own_cpu_seconds
from sides.spent import PLACE, seconds

DOMAINS = ("art", "cartoon", "photo", "sketch")
RECIPES = ("erm", "vrex", "irm", "fishr", "hgp", "exact_diagonal")
CLASSES, SIZE = 7, 8


def write_images(root: Path, rows: int) -> None:
    """Small images whose colours tell their class, and shift from domain to domain."""
    chance = numpy.random.default_rng(0)
    centres = chance.uniform(60, 190, (CLASSES, 3))
    for domain in DOMAINS:
        shift = chance.normal(0, 15, 3)
        for label in range(CLASSES):
            folder = root / domain / f"class{label}"
            folder.mkdir(parents=True)
            for place in range(rows // CLASSES + (label < rows % CLASSES)):
                pixels = centres[label] + shift + chance.normal(0, 30, (SIZE, SIZE, 3))
                Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8)).save(folder / f"{place}.png")


def write_config(folder: Path, recipes: list[str], width: int, rounds: int, seeds: int) -> Path:
    """The sweep's config, as a user writes one."""
    path = folder / "sweep.yaml"
    path.write_text(
        f"""
name: features
data: {{name: folder, root: {folder / "images"}, target: all, size: {SIZE}, channels: 3}}
model: {{name: "sides.networks:frozen", width: {width}, features: {{cache: {folder / "features"}}}}}
recipe: [{", ".join(recipes)}]
seed: [{", ".join(map(str, range(seeds)))}]
training: {{rounds: {rounds}, optimizer: adam, learning_rate: 0.001}}
evaluation: {{every: 10}}
engine: {{name: inline}}
"""
    )
    return path


def command(folder: Path, *arguments: object) -> tuple[float, float]:
    """Seconds of a command by the clock, and of the processor in all processes that it started.

    Args:
        folder: Has what Python compiles, and what runs note.
        arguments: The command's.
    """
    own = {"PYTHONPATH": str(BENCHMARKS), "PYTHONPYCACHEPREFIX": str(folder / "compiled"), PLACE: str(folder / "spent")}
    usual = {key: value for key, value in environment().items() if key != "PYTHONDONTWRITEBYTECODE"}
    begun, known = time.perf_counter(), dict[tuple[int, int], float]()
    child = subprocess.Popen(
        [sys.executable, "-m", "fedha", *map(str, arguments)],
        env=usual | own,
        stdout=subprocess.DEVNULL,
    )
    while child.poll() is None:
        known |= own_cpu_seconds(child.pid)
        time.sleep(0.5)
    if child.returncode:
        raise SystemExit(f"fedha {' '.join(map(str, arguments))} ended with {child.returncode}")
    return time.perf_counter() - begun, sum(known.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows, rounds and runs")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side, a thread each")
    given = parser.parse_args()
    rows, width, rounds, seeds = (40, 64, 10, 1) if given.quick else (10_000 // len(DOMAINS), 1_280, 100, 3)
    recipes = [*RECIPES][: 2 if given.quick else None]
    print(f"{machine()}; {given.workers} workers")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", rows)
        path = write_config(folder, recipes, width, rounds, seeds)
        taken, _ = command(folder, "features", path)
        print(f"{rows * len(DOMAINS):,} images, {width:,} features of each, computed in {taken:.1f} s", flush=True)
        sweep = ("sweep", path, "--out", folder / "sweep", "--jobs", given.workers, "--log", "sides.spent:Spent")
        wall, spent = command(folder, *sweep, "--quiet")
        inside = seconds(folder / "spent")
    print(f"{'recipe':15} {'runs':>5} {'training of one':>16}   (seconds of a processor)")
    for recipe in recipes:
        print(f"{recipe:15} {len(inside[recipe]):5} {fmean(inside[recipe]):16.2f}")
    trains = sum(sum(one) for one in inside.values())
    rest = 1 - trains / spent
    print(f"{len(DOMAINS) * seeds * len(recipes)} runs: {wall:.1f} s by the clock, {spent:.1f} s of processors")
    print(f"training takes {trains:.1f} s of them; start-ups, loading and reports {100 * rest:.1f} %")
    means = {recipe: fmean(one) for recipe, one in inside.items()}
    say("feature_sweep", {"wall": wall, "cpu": spent, "training": trains, "rest": rest, "recipes": means})


if __name__ == "__main__":
    os.chdir(BENCHMARKS)
    main()
