"""What example-level privacy adds to the statistics that a client sends: gradient and exact Hessian diagonal.

    python benchmarks/private_statistics.py [--quick]

Plain: `fedha.statistics`, both statistics sharing their products. Clipped: the same with every example cut to a joint
norm. Seeded: clipped, with a simulation's noise. Site: with float64 noise from the system's generator, rounded. Ratios
are to plain, features given. The last two columns put both where they happen: statistics of inputs that first go
through a network, the smallest there is, one layer from 784 inputs to the features.

"draws" is what drawing 2 C D numbers costs by itself, as a part of plain: seeded and site cannot be below 1 plus that.

Time is CPU time of one thread, medians of runs that take turns: other processes cost cache misses but no waiting. Noise
is drawn for every one of 2 C D entries however few the examples are, so it weighs most where C D is large and n small.
"""

import argparse
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sides.driving import say
from sides.processes import machine
from torch import Tensor
from torch.nn import functional

from fedha import cross_entropy, numerics, statistics
from fedha.models import with_bias
from fedha.privacy.clipping import private_means
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.moments import Batch, measure
from fedha.privacy.noise import Source, cryptographic, seeded

NAMES = ("gradient", "hessian_diagonal")
INPUTS = 784
SIZES = [(n, width, classes) for n in (32, 512) for width in (129, 2048) for classes in (2, 7, 65)]


@dataclass(frozen=True)
class Problem:
    """One client's features and head, and the layer before them."""

    head: Tensor
    features: Tensor
    labels: Tensor
    inputs: Tensor
    weight: Tensor

    def through_network(self) -> Tensor:
        return with_bias(functional.relu(functional.linear(self.inputs, self.weight)))


def make_problem(n: int, width: int, classes: int) -> Problem:
    draws = torch.Generator().manual_seed(classes)
    features = torch.randn(n, width, generator=draws)
    features[:, -1] = 1
    return Problem(
        0.02 * torch.randn(classes, width, generator=draws),
        features,
        torch.randint(0, classes, (n,), generator=draws),
        torch.randn(n, INPUTS, generator=draws),
        torch.randn(width - 1, INPUTS, generator=draws) / math.sqrt(INPUTS),
    )


def plain(problem: Problem, features: Tensor) -> list[Tensor]:
    client = (problem.head, features, problem.labels)
    with torch.no_grad(), cross_entropy.shared():
        return [statistics.gradient(*client), statistics.hessian_diagonal(*client)]


def private(problem: Problem, features: Tensor, mechanism: Mechanism, source: Source) -> list[Tensor]:
    with torch.no_grad():
        moments = measure(NAMES, Batch.at(problem.head, features, problem.labels))
        return list(private_means(moments, mechanism, source).values())


def check_agreement(problem: Problem) -> None:
    """Without clip and noise both sides must be the same."""
    unbounded = Mechanism(math.inf, 0.0, len(problem.features))
    pairs = zip(plain(problem, problem.features), private(problem, problem.features, unbounded, seeded(0)), strict=True)
    if not all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in pairs):
        raise SystemExit("plain and private statistics differ without clip and noise; nothing to compare")


def median_seconds(sides: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median CPU seconds of each side, in turns of another order each: who runs first pays for a cold cache."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    order, chance = list(sides), random.Random(0)
    for _ in range(10):  # warmed up
        for side in sides.values():
            side()
    while sum(taken[next(iter(sides))]) < seconds:
        chance.shuffle(order)
        for name in order:
            start = time.process_time()
            sides[name]()
            taken[name].append(time.process_time() - start)
    return {name: sorted(own)[len(own) // 2] for name, own in taken.items()}


def compare(problem: Problem, seconds: float) -> dict[str, float]:
    check_agreement(problem)
    n, given = len(problem.features), problem.features
    clip, noise = Mechanism(1.0, 0.0, n), Mechanism(1.0, 1.0, n)
    return median_seconds(
        {
            "plain": lambda: plain(problem, given),
            "clipped": lambda: private(problem, given, clip, seeded(0, 1, 0)),
            "seeded": lambda: private(problem, given, noise, seeded(0, 1, 0)),
            "site": lambda: private(problem, given, noise, cryptographic()),
            "seeded draws": lambda: seeded(0, 1, 0).normal(2 * problem.head.numel(), torch.float32),
            "site draws": lambda: cryptographic().normal(2 * problem.head.numel(), torch.float64),
            "network, plain": lambda: plain(problem, problem.through_network()),
            "network, seeded": lambda: private(problem, problem.through_network(), noise, seeded(0, 1, 0)),
            "network, site": lambda: private(problem, problem.through_network(), noise, cryptographic()),
        },
        seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes, a few runs")
    quick = parser.parse_args().quick
    numerics.configure(1)
    print(machine())
    print("ratios to plain statistics; milliseconds of plain in front")
    sides = ("clipped", "seeded", "site", "seeded draws", "site draws")
    networks = ("network, seeded", "network, site")
    print(f"{'n':>5}{'D':>6}{'C':>4}{'plain ms':>10}" + "".join(f"{name:>17}" for name in (*sides, *networks)))
    found = {}
    for n, width, classes in [(32, 129, 7), (512, 129, 7)] if quick else SIZES:
        own = compare(make_problem(n, width, classes), 0.01 if quick else 0.2)
        ratios = {name: own[name] / own["plain"] for name in sides}
        ratios |= {name: own[name] / own["network, plain"] for name in networks}
        found[f"{n} x {width} x {classes}"] = {"plain_seconds": own["plain"], **ratios}
        columns = "".join(f"{ratio:17.2f}" for ratio in ratios.values())
        print(f"{n:>5}{width:>6}{classes:>4}{own['plain'] * 1e3:>10.3f}{columns}", flush=True)
    say("private_statistics", found)


if __name__ == "__main__":
    main()
