"""One process that trains on the card when it is told to.

    python -m card.worker DEVICE mlp|resnet18 PIXELS ROWS RECIPE

It says ``ready``; a line with a number of seconds has it take steps for that long and say how many; the end of its
input ends it. It is one thread, as each of several processes on one machine should be.
"""

import sys
import time

import torch
from sides import networks, rounds

from fedha import numerics


def main() -> None:
    device, architecture, pixels, rows, recipe = sys.argv[1:]
    numerics.configure(1)
    shape = (3, int(pixels), int(pixels))
    model = networks.residual(architecture) if architecture != "mlp" else networks.mlp(torch.Size(shape).numel())
    sources = networks.images(3, 4 * int(rows), shape, device)
    training = rounds.synchronous(int(rows), 1e-5, 3 * int(rows))
    course = rounds.plain(model.to(device), sources, recipe, training, together=True)
    for _ in range(3):
        next(course)
    print("ready", flush=True)
    for line in sys.stdin:
        until, steps = time.monotonic() + float(line), 0
        while time.monotonic() < until:
            next(course)  # its numbers are read at the end, so that the step is over
            steps += 1
        print(steps, flush=True)


if __name__ == "__main__":
    main()
