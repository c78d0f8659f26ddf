"""A synchronous minibatch round, with and without `engine.batching`, and a hand-written step in DomainBed's way.

    python benchmarks/synchronous.py [--quick] [--recipes NAME ...]

Three domains, 32 images of each in a step, Adam. The hand-written loop has all domains at hand: one concatenated
forward pass, the penalty by autograd, one step. fedha's rounds are the strategy's, through the inline engine's
messages: draw the rows, measure what the recipe wants, refer, train, step. Evaluation and the run's folder are left out
of all. The sides take turns round by round in this process, so that all see the same load; figures are medians over the
rounds, of wall clock and of the process' CPU time, and ratios are medians of the pairs' ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from flwr.app import ConfigRecord
from sides.driving import say
from sides.processes import machine
from torch import Tensor, nn
from torch.nn import functional

from fedha import numerics
from fedha.config import TrainingConfig
from fedha.data.domain import Domain, Examples
from fedha.engine.inline import InlineGrid
from fedha.flower import HessianAlignment
from fedha.flower.client import Clients, app_for, seeded_site
from fedha.models import SplitModel
from fedha.recipes import RECIPES

DOMAINS, IMAGES, ROWS, CLASSES = 3, 600, 32, 10
SHAPES = {"mlp 28 px": (1, 28, 28), "mlp 64 px": (3, 64, 64), "cnn 32 px": (3, 32, 32)}
RATE = 1e-3


def network(name: str) -> SplitModel:
    """An MLP of two hidden layers, or a small CNN."""
    torch.manual_seed(0)
    if name.startswith("mlp"):
        inputs = torch.Size(SHAPES[name]).numel()
        layers = [nn.Flatten(), nn.Linear(inputs, 390), nn.ReLU(), nn.Linear(390, 390), nn.ReLU()]
        return SplitModel(nn.Sequential(*layers), nn.Linear(390, CLASSES))
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
    layers += [nn.MaxPool2d(2), nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return SplitModel(nn.Sequential(*layers), nn.Linear(128, CLASSES))


def domains(name: str) -> list[Domain]:
    """Images of numbers, and labels, drawn at random."""
    draws = torch.Generator().manual_seed(1)
    found = []
    for place in range(DOMAINS):
        inputs = torch.rand(IMAGES, *SHAPES[name], generator=draws)
        labels = torch.randint(0, CLASSES, (IMAGES,), generator=draws)
        some = Examples(inputs, labels)
        found.append(Domain(f"d{place}", some, some.select(slice(0, 2))))
    return found


# --- the hand-written loop: DomainBed's, as its algorithms.py writes it ---


def _erm(model: SplitModel, features: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(model.head(features), labels)


def _vrex(model: SplitModel, features: Tensor, labels: Tensor) -> Tensor:
    logits = model.head(features)
    risks = torch.stack(
        [functional.cross_entropy(*one) for one in zip(logits.split(ROWS), labels.split(ROWS), strict=True)]
    )
    return risks.mean() + ((risks - risks.mean()) ** 2).mean()


def _coral(model: SplitModel, features: Tensor, labels: Tensor) -> Tensor:
    risks, parts = [], features.split(ROWS)
    penalty = features.new_zeros(())
    for one, truth in zip(parts, labels.split(ROWS), strict=True):
        risks.append(functional.cross_entropy(model.head(one), truth))
    for i in range(DOMAINS):
        for j in range(i + 1, DOMAINS):
            x, y = parts[i], parts[j]
            centred_x, centred_y = x - x.mean(0), y - y.mean(0)
            covariances = (centred_x.T @ centred_x - centred_y.T @ centred_y) / (ROWS - 1)
            penalty = penalty + (x.mean(0) - y.mean(0)).pow(2).mean() + covariances.pow(2).mean()
    return torch.stack(risks).mean() + penalty / (DOMAINS * (DOMAINS - 1) / 2)


def _iga(model: SplitModel, features: Tensor, labels: Tensor) -> Tensor:
    logits, head = model.head(features), list(model.head.parameters())
    risks, slopes = [], []
    for one, truth in zip(logits.split(ROWS), labels.split(ROWS), strict=True):
        risks.append(functional.cross_entropy(one, truth))
        slopes.append(torch.autograd.grad(risks[-1], head, create_graph=True))
    means = [torch.stack(column).mean(0) for column in zip(*slopes, strict=True)]
    spread = sum((g - m).pow(2).sum() for own in slopes for g, m in zip(own, means, strict=True))
    return torch.stack(risks).mean() + spread / DOMAINS


BY_HAND: dict[str, Callable[[SplitModel, Tensor, Tensor], Tensor]] = {
    "erm": _erm,
    "vrex": _vrex,
    "coral": _coral,
    "iga": _iga,
}


def by_hand(name: str, recipe: str) -> Iterator[None]:
    """One step each time."""
    model, sources = network(name), domains(name)
    optimizer, draws, loss = torch.optim.Adam(model.parameters(), lr=RATE), torch.Generator().manual_seed(2), None
    while True:
        rows = [torch.randperm(IMAGES, generator=draws)[:ROWS] for _ in sources]
        inputs = torch.cat([one.train.inputs[own] for one, own in zip(sources, rows, strict=True)])
        labels = torch.cat([one.train.labels[own] for one, own in zip(sources, rows, strict=True)])
        loss = BY_HAND[recipe](model, model.featurizer(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # DomainBed notes it each step
        yield


def rounds(name: str, recipe: str, *, together: bool) -> Iterator[None]:
    """One round of fedha's each time, through the inline engine."""
    model, sources = network(name), domains(name)
    clients = Clients(
        lambda context: network(name), lambda context: sources[context.node_config["partition-id"]], site=seeded_site
    )
    grid = InlineGrid(app_for(clients), DOMAINS, together=clients if together else None)
    training = TrainingConfig(rounds=10**9, optimizer="adam", learning_rate=RATE, batch_size=ROWS)
    strategy = HessianAlignment(RECIPES[recipe], training, clients=DOMAINS)
    strategy.begin(dict(model.named_parameters()))
    number = 0
    while True:
        number += 1
        messages = list(strategy.configure_train(number, strategy.arrays, ConfigRecord(), grid))
        strategy.aggregate_train(number, strategy.talk.deliver(grid, messages))
        yield


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


def compare(name: str, recipe: str, count: int) -> dict[str, float]:
    """Medians: seconds of a step by hand, and each side's ratio to it, pair by pair; the same of CPU seconds."""
    sides = {
        "by hand": by_hand(name, recipe),
        "batching": rounds(name, recipe, together=True),
        "without": rounds(name, recipe, together=False),
    }
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
    parser.add_argument("--recipes", nargs="+", choices=list(BY_HAND), default=list(BY_HAND))
    given = parser.parse_args()
    numerics.configure(1)
    print(f"{machine()}; one thread; {DOMAINS} x {ROWS} images")
    print(f"{'':18}{'by hand ms':>11}{'batching':>10}{'without':>9}{'cpu: by hand':>14}{'batching':>10}{'without':>9}")
    found: dict[str, dict[str, float]] = {}
    for name in tuple(SHAPES)[: 1 if given.quick else None]:
        for recipe in given.recipes:
            seen = found[f"{name} {recipe}"] = compare(name, recipe, 5 if given.quick else 100)
            cells = []
            for kind, width in (("seconds", 11), ("cpu", 14)):
                ours, without = seen[f"{kind} batching"], seen[f"{kind} without"]
                cells.append(f"{1e3 * seen[f'{kind} by hand']:{width}.2f}{ours:9.2f}x{without:8.2f}x")
            print(f"{name + ' ' + recipe:18}{''.join(cells)}", flush=True)
    say("synchronous", found)


if __name__ == "__main__":
    main()
