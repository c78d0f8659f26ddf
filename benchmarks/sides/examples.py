"""One process that trains on so many examples and says how much memory its rounds took, beside the data.

    python -m sides.examples EXAMPLES [--batch ROWS]

A small CNN on 3 x 32 x 32 images; one client has the examples, a second one a hundred. Two rounds of exact_diagonal, in
which everything happens: measure, refer, train, and then evaluate. The peak is the process' largest resident set while
they run, less what it held before them: data, network, and all that is imported.
"""

import argparse
import json
import resource
from pathlib import Path

import torch
from torch import nn

from fedha import numerics
from fedha.client import Client
from fedha.config import TrainingConfig
from fedha.data.domain import Domain, Examples
from fedha.exchange import Task
from fedha.federation import Server, run_round
from fedha.models import SplitModel
from fedha.pieces import BUDGET_BYTES, example_bytes
from fedha.recipes import RECIPES
from fedha.training import evaluate

SHAPE, CLASSES = (3, 32, 32), 10


def network() -> SplitModel:
    """Three convolutions."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
    layers += [nn.MaxPool2d(2), nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return SplitModel(nn.Sequential(*layers), nn.Linear(128, CLASSES))


def domain(name: str, examples: int) -> Domain:
    """Images of numbers."""
    draws = torch.Generator().manual_seed(examples)
    inputs = torch.rand(examples, *SHAPE, generator=draws)
    some = Examples(inputs, torch.randint(0, CLASSES, (examples,), generator=draws))
    return Domain(name, some, some.select(slice(0, 10)))


def resident() -> int:
    """Bytes that this process holds now; the noted peak starts afresh from here."""
    Path("/proc/self/clear_refs").write_text("5")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """The largest resident set since `resident` was last asked."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("examples", type=int)
    parser.add_argument("--batch", type=int)
    given = parser.parse_args()
    numerics.configure(1)
    model = network()
    clients = [Client(0, domain("many", given.examples), model), Client(1, domain("few", 100), model)]
    training = TrainingConfig(rounds=2, optimizer="sgd", learning_rate=0.01, batch_size=given.batch)
    server = Server(Task(RECIPES["exact_diagonal"], training, 0), dict(model.named_parameters()))
    warm = [Client(place, domain("few", 4), model) for place in range(2)]
    run_round(Server(server.task, dict(model.named_parameters())), warm, 1)  # what is made once is made
    before = resident()
    for number in (1, 2):
        run_round(server, clients, number)
    evaluate(model, server.parameters, clients[0].domain.train)
    each = example_bytes(model, clients[0].domain.train.form)
    limit = min(given.examples, BUDGET_BYTES // each) * each
    print(json.dumps({"peak": peak() - before, "limit": limit, "data": clients[0].domain.train.inputs.nbytes}))


if __name__ == "__main__":
    main()
