"""What clipping every example adds to a gradient, from activations and through torch.func.

    python benchmarks/private_gradient.py [--quick]

Plain: the gradient of the batch's mean risk by autograd. Activations: `private_gradient` on these networks of linear
layers, clipped, without noise (`fedha.privacy.ghost`). Site: the same in float64, as before a site's noise. torch.func:
the same sums from the examples' own gradients, the way of all other networks. All must agree before anything is timed.

Time is CPU time of one thread, medians of runs that take turns: other processes cost cache misses but no waiting.
torch.func is run once on the largest batch.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import torch
from sides.driving import say
from sides.processes import machine
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from fedha import numerics
from fedha.config import ModelConfig
from fedha.models import SplitModel, build
from fedha.privacy import ghost
from fedha.privacy.dpsgd import private_gradient
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.noise import Source, cryptographic, seeded
from fedha.privacy.surrogate import risk_loss

DIGITS, COLORED = ((784,), [200], 10), ((2, 14, 14), [390, 390], 2)
SIZES = {
    "mlp 784-200-10, batch 64": (*DIGITS, 64),
    "mlp 392-390-390-1, batch 256": (*COLORED, 256),
    "mlp 392-390-390-1, batch 25,000": (*COLORED, 25_000),
}
QUICK = {"mlp 784-200-10, batch 8": (*DIGITS, 8)}


@dataclass(frozen=True)
class Problem:
    """A network and a batch."""

    model: SplitModel
    parameters: dict[str, Tensor]
    inputs: Tensor
    labels: Tensor

    def plain(self) -> dict[str, Tensor]:
        live = {name: value.detach().requires_grad_() for name, value in self.parameters.items()}
        logits = functional_call(self.model, live, (self.inputs,))
        if logits.shape[1] == 1:
            risk = functional.binary_cross_entropy_with_logits(logits[:, 0], self.labels.to(logits.dtype))
        else:
            risk = functional.cross_entropy(logits, self.labels)
        return dict(zip(live, torch.autograd.grad(risk, list(live.values())), strict=True))

    def private(self, clip: float, source: Source) -> dict[str, Tensor]:
        mechanism = Mechanism(clip, 0.0, len(self.inputs))
        return private_gradient(risk_loss(self.model), self.parameters, self.inputs, self.labels, mechanism, source)

    def through_torch_func(self, clip: float) -> dict[str, Tensor]:
        with patch.object(ghost, "unsuited", lambda *_: "both ways are timed"):
            return self.private(clip, seeded(0))


def make_problem(shape: tuple[int, ...], hidden: list[int], classes: int, batch: int) -> Problem:
    model = build(ModelConfig(name="mlp", hidden=hidden, one_logit=classes == 2), shape, classes, seed=0)
    draws = torch.Generator().manual_seed(batch)
    inputs = torch.rand(batch, *shape, generator=draws)
    labels = torch.randint(0, classes, (batch,), generator=draws)
    return Problem(model, {name: value.detach() for name, value in model.named_parameters()}, inputs, labels)


def check_agreement(problem: Problem) -> None:
    """Without a clip all must be the plain gradient, with one both ways must be the same."""
    few = Problem(problem.model, problem.parameters, problem.inputs[:256], problem.labels[:256])
    pairs = (
        (few.private(math.inf, seeded(0)), few.plain()),
        (few.private(0.5, seeded(0)), few.through_torch_func(0.5)),
    )
    for one, other in pairs:
        if not all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6) for name in one):
            raise SystemExit("the gradients differ; nothing to compare")


def cpu_seconds(side: Callable[[], object]) -> float:
    start = time.process_time()
    side()
    return time.process_time() - start


def median_seconds(sides: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median CPU seconds of each side, one run after the other until the first has had its time."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():  # warmed up
        side()
    while sum(taken[next(iter(sides))]) < seconds or len(taken[next(iter(sides))]) < 3:
        for name, side in sides.items():
            taken[name].append(cpu_seconds(side))
    return {name: sorted(own)[len(own) // 2] for name, own in taken.items()}


def compare(problem: Problem, seconds: float) -> dict[str, float]:
    check_agreement(problem)
    sides: dict[str, Callable[[], object]] = {
        "plain": problem.plain,
        "activations": lambda: problem.private(0.5, seeded(0)),
        "site": lambda: problem.private(0.5, cryptographic()),
    }
    slow = partial(problem.through_torch_func, 0.5)
    if len(problem.inputs) > 1000:
        return median_seconds(sides, seconds) | {"torch.func": cpu_seconds(slow)}
    return median_seconds(sides | {"torch.func": slow}, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one size, a few runs")
    quick = parser.parse_args().quick
    numerics.configure(1)
    print(machine())
    print("milliseconds of CPU a gradient; in brackets, times the plain one")
    print(f"{'':34}{'plain':>9}{'activations':>19}{'site':>19}{'torch.func':>21}{'func / activations':>20}")
    found = {}
    for name, size in (QUICK if quick else SIZES).items():
        own = compare(make_problem(*size), 0.01 if quick else 2.0)
        found[name] = {f"{side}_seconds": value for side, value in own.items()}
        columns = ""
        for side, width in (("activations", 19), ("site", 19), ("torch.func", 21)):
            columns += f"{own[side] * 1e3:,.2f} ({own[side] / own['plain']:.2f})".rjust(width)
        gain = own["torch.func"] / own["activations"]
        print(f"{name:34}{own['plain'] * 1e3:>9,.2f}{columns}{gain:>20.1f}", flush=True)
    say("private_gradient", found)


if __name__ == "__main__":
    main()
