"""A synchronous minibatch round, with and without `engine.batching`, and a hand-written step in DomainBed's way.

    python benchmarks/synchronous.py [--quick] [--recipes NAME ...] [--networks NAME ...] [--threads N]

Three domains, 32 images of each in a step, Adam. The hand-written loop has all domains at hand: one concatenated
forward pass, the penalty by autograd, one step. fedha's rounds are the strategy's, through the inline engine's
messages: draw the rows, measure what the recipe wants, refer, train, step. Evaluation and the run's folder are left out
of all. The sides take turns round by round in this process, so that all see the same load; figures are medians over the
rounds, of wall clock and of the process' CPU time, and ratios are medians of the pairs' ratios.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from sides import by_hand, networks, rounds
from sides.driving import say
from sides.processes import machine

from fedha import numerics
from fedha.models import SplitModel

DOMAINS, IMAGES, ROWS, RATE = 3, 600, 32, 1e-3
SHAPES = {"mlp 28 px": (1, 28, 28), "mlp 64 px": (3, 64, 64), "cnn 32 px": (3, 32, 32), "resnet18 64 px": (3, 64, 64)}


def network(name: str) -> SplitModel:
    """An MLP of two hidden layers, a small CNN, or a ResNet-18 whose batch norm is frozen."""
    kind = name.partition(" ")[0]
    if kind == "resnet18":
        return networks.residual(kind)
    return networks.mlp(torch.Size(SHAPES[name]).numel()) if kind == "mlp" else networks.cnn()


@dataclass
class Times:
    """Of one side's rounds."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def note(self, side: Iterator[None]) -> None:
        """Time one round."""
        wall, cpu = time.perf_counter(), time.process_time()
        next(side)
        self.cpu.append(time.process_time() - cpu)
        self.seconds.append(time.perf_counter() - wall)


def compare(name: str, recipe: str, count: int, threads: int) -> dict[str, float]:
    """Medians: seconds of a step by hand, and each side's ratio to it, pair by pair; the same of CPU seconds."""
    sources = networks.images(DOMAINS, IMAGES, SHAPES[name])
    training = rounds.synchronous(ROWS, RATE)
    sides = {"by hand": by_hand.steps(network(name), sources, recipe, ROWS, RATE)}
    for side, together in (("batching", True), ("without", False)):
        sides[side] = rounds.through_engine(
            lambda: network(name), sources, recipe, training, together=together, threads=threads
        )
    for side in sides.values():
        for _ in range(5):
            next(side)
    times = {one: Times() for one in sides}
    for _ in range(count):
        for one, side in sides.items():
            times[one].note(side)
    found = {}
    for kind in ("seconds", "cpu"):
        hand = getattr(times["by hand"], kind)
        found[f"{kind} by hand"] = statistics.median(hand)
        for one in ("batching", "without"):
            pairs = zip(getattr(times[one], kind), hand, strict=True)
            found[f"{kind} {one}"] = statistics.median(ours / theirs for ours, theirs in pairs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few rounds of the MLP")
    parser.add_argument(
        "--recipes", nargs="+", choices=list(by_hand.BY_HAND), default=["erm", "coral", "hgp", "exact_diagonal"]
    )
    parser.add_argument("--networks", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, help="rounds of each side; default: 100, of a residual network 20")
    given = parser.parse_args()
    numerics.configure(given.threads)
    print(f"{machine()}; {given.threads} threads; {DOMAINS} x {ROWS} images")
    print(f"{'':18}{'by hand ms':>11}{'batching':>10}{'without':>9}{'cpu: by hand':>14}{'batching':>10}{'without':>9}")
    found: dict[str, dict[str, float]] = {}
    for name in given.networks[: 1 if given.quick else None]:
        usual = 5 if given.quick else 20 if name.startswith("resnet") else 100
        for recipe in given.recipes:
            seen = found[f"{name} {recipe}"] = compare(name, recipe, given.repeats or usual, given.threads)
            cells = []
            for kind, width in (("seconds", 11), ("cpu", 14)):
                ours, without = seen[f"{kind} batching"], seen[f"{kind} without"]
                cells.append(f"{1e3 * seen[f'{kind} by hand']:{width}.2f}{ours:9.2f}x{without:8.2f}x")
            print(f"{name + ' ' + recipe:18}{''.join(cells)}", flush=True)
    say("synchronous", found)


if __name__ == "__main__":
    main()
