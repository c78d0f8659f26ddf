"""Peers without a framework: plain PyTorch loops of federated averaging, and the product that bounds them all.

    python -m sides.loops autograd|by_hand|product [--data FOLDER --cohort N] [--fedha-numerics]

`autograd` is what a researcher writes: a copy of the model a client, torch.optim.SGD, backward(). `by_hand` writes the
gradients of this one network out. Both sample, train and average; neither keeps metrics.
"""

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from sides import federation
from sides.federation import BATCH, EXAMPLES, RATE
from sides.gate import Gate

SQUARE = 1024  # side of the product whose rate is the limit


def train_autograd(model: nn.Sequential, inputs: Tensor, labels: Tensor, order: Tensor) -> None:
    """One epoch of SGD in this order, in place."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for rows in order.split(BATCH):
        loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def train_by_hand(model: nn.Sequential, inputs: Tensor, labels: Tensor, order: Tensor) -> None:
    """The same epoch with the gradients of this network written out."""
    first, bias, last, last_bias = model.parameters()
    for rows in order.split(BATCH):
        batch, count = inputs[rows], len(rows)
        hidden = torch.addmm(bias, batch, first.T).relu_()
        slope = torch.addmm(last_bias, hidden, last.T).softmax(1)
        slope[torch.arange(count), labels[rows]] -= 1
        hidden_slope = (slope @ last).mul_(hidden > 0)
        step = -RATE / count
        last.addmm_(slope.T, hidden, alpha=step)
        last_bias.add_(slope.sum(0), alpha=step)
        first.addmm_(hidden_slope.T, batch, alpha=step)
        bias.add_(hidden_slope.sum(0), alpha=step)


TRAINERS: dict[str, Callable[[nn.Sequential, Tensor, Tensor, Tensor], None]] = {
    "autograd": train_autograd,
    "by_hand": train_by_hand,
}


def average_round(
    model: nn.Sequential,
    inputs: Tensor,
    labels: Tensor,
    chosen: Tensor,
    train: Callable[[nn.Sequential, Tensor, Tensor, Tensor], None],
) -> None:
    """One round of federated averaging over the chosen clients, in place."""
    totals = [torch.zeros_like(one) for one in model.parameters()]
    for client in chosen.tolist():
        rows = slice(client * EXAMPLES, (client + 1) * EXAMPLES)
        local = copy.deepcopy(model)
        train(local, inputs[rows], labels[rows], torch.randperm(EXAMPLES))
        for total, one in zip(totals, local.parameters(), strict=True):
            total += one.detach()
    with torch.no_grad():
        for one, total in zip(model.parameters(), totals, strict=True):
            one.copy_(total / len(chosen))


def loop(train: Callable[[nn.Sequential, Tensor, Tensor, Tensor], None], data: Path, cohort: int) -> None:
    """Rounds as they are asked for."""
    gate = Gate()
    (inputs, labels), model = federation.read(data), federation.network()
    while gate.wants_round():
        begun = time.perf_counter()
        average_round(model, inputs, labels, torch.randperm(len(labels) // EXAMPLES)[:cohort], train)
        gate.passed(time.perf_counter() - begun)


def product() -> None:
    """Float32 products of two square matrices as they are asked for."""
    gate = Gate()
    left, right, out = (torch.rand(SQUARE, SQUARE) for _ in range(3))
    while gate.wants_round():
        begun = time.perf_counter()
        torch.mm(left, right, out=out)
        gate.passed(time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=[*TRAINERS, "product"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cohort", type=int)
    parser.add_argument("--fedha-numerics", action="store_true", help="with fedha's choice of product and memory")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.fedha_numerics:
        from fedha import numerics

        numerics.configure(1)
    if given.kind == "product":
        product()
    else:
        loop(TRAINERS[given.kind], given.data, given.cohort)


if __name__ == "__main__":
    main()
