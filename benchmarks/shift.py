"""Kinds of shift of data sets whose truth is known, by discriminators of their inputs, and the picture of them.

python benchmarks/shift.py [--quick] [--seed 0] [--mnist FOLDER] [--out docs/images/shift-plane.svg]
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from fedha.config import parse
from fedha.diagnosis.shift import Placed, estimate, together
from fedha.flower.serve import load_domains
from fedha.randomness import generator
from fedha.report.diagnosis.figures import plane_figure
from fedha.report.drawing import standalone

COUNT = 20_000


def main() -> None:
    """Print what was found beside what is known, and all of it as JSON in the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one of the backgrounds alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mnist", type=Path, help="MNIST's files: Colored MNIST's images too, some minutes")
    parser.add_argument("--out", type=Path, help="write the picture here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found, points = [], {}
    for title, known, first, second, classes in cases(given.seed, given.mnist, quick=given.quick):
        begun = time.process_time()
        shift = estimate(first, second, classes, "inputs", given.seed)
        if shift is None:
            raise SystemExit(f"{title}: too few examples of a class")
        told = shift.kinds
        seconds = time.process_time() - begun
        level = max(shift.chance.diversity, shift.chance.correlation) if shift.chance else math.nan
        print(
            f"{title:44} diversity {told.diversity:.3f} (known {known[0]:.3f}), correlation {told.correlation:.3f} "
            f"({known[1]:.3f}; with roots {told.correlation_plus:.3f}), by chance at most {level:.3f}, "
            f"{seconds:.1f} s of processors",
            flush=True,
        )
        points[title] = (told.diversity, told.correlation)
        found.append({"title": title, "known": known, "seconds": seconds, **shift.row()})
    if given.out is not None:
        given.out.write_text(standalone(plane_figure("plane", points)))
    print(json.dumps({"shift": found}))


def cases(seed: int, mnist: Path | None, *, quick: bool) -> list[tuple[str, tuple[float, float], Placed, Placed, int]]:
    """Titles, known diversity and correlation, two sides, and how many classes they have."""
    apart = (32,) if quick else (16, 32, 48)
    made = [
        (f"digits, backgrounds {one / 64:.2f} apart", (one / 64, 0.0), *backgrounds(one, seed), 10) for one in apart
    ]
    if quick:
        return made
    for shape, known in ((False, 0.75), (True, 0.607)):
        title = "Colored MNIST's colour" + " and shape" * shape
        sides = [colored(flip, seed, number, shape=shape) for number, flip in enumerate((0.15, 0.9))]
        made.append((title, (0.0, known), sides[0], sides[1], 2))
    if mnist is not None:
        made.append(("Colored MNIST's images", (0.0, 0.607), *images(mnist, seed), 2))
    return made


def backgrounds(shift: int, seed: int) -> tuple[Placed, Placed]:
    """Two domains of `digits_background`, whose intervals of 64 levels begin so many apart."""
    data: dict[str, Any] = {"name": "digits_background", "domains": 2, "shift": shift, "target": "background1"}
    domains = load_domains(parse({"data": data, "recipe": "erm", "seed": seed}))
    one, other = domains.sources[0], domains.targets[0]
    parts = [one.train, one.held_out, other.train, other.held_out]
    form = tuple(one.train.shape)
    placed = [Placed("", part.take().flatten(1).double(), part.labels, form) for part in parts]
    return together(one.name, placed[:2]), together(other.name, placed[2:])


def images(folder: Path, seed: int) -> tuple[Placed, Placed]:
    """Colored MNIST as `fedha` makes it: a source whose colours lie in 15 % of the images, and one where in 90 %."""
    data: dict[str, Any] = {"name": "colored_mnist", "root": folder, "held_out": 0, "color_flips": [0.15, 0.9]}
    placed = []
    for one in load_domains(parse({"data": data, "recipe": "erm", "seed": seed})).sources:
        points, form = one.train.take()[:COUNT].flatten(1).double(), tuple(one.train.shape)
        placed.append(Placed(one.name, points, one.train.labels[:COUNT], form))
    return placed[0], placed[1]


def colored(flip: float, seed: int, number: int, *, shape: bool) -> Placed:
    """Colored MNIST's law: a quarter of the labels is noise, colours are the label's but for `flip` of them."""
    drawn = generator(seed, "benchmark", "colored", number)
    shapes, noise, flips = ((torch.rand(COUNT, generator=drawn) < share).long() for share in (0.5, 0.25, flip))
    labels = shapes ^ noise
    colors = labels ^ flips
    return Placed(str(flip), torch.stack([colors, shapes] if shape else [colors], 1).double(), labels)


if __name__ == "__main__":
    main()
