"""Domains of which those of one seed take their process with them."""

import os
import signal

import torch

from fedha.data import Domain, Examples, split
from fedha.data.sides import Cut


def domains(seed: int, cut: Cut) -> list[Domain]:
    """Three domains; at seed 1 the process ends as if the kernel had ended it."""
    if seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    made = []
    for place, name in enumerate("tuv"):
        inputs = torch.randn((30, 3), generator=torch.Generator().manual_seed(place))
        made.append(split(name, Examples(inputs, (inputs[:, 0] > 0).long()), cut))
    return made
