"""Layers that draw from torch's generator while they are trained: what they draw is repeated wherever it is computed.

Dropout, stochastic depth and the like draw from one generator of the whole process, so that what one client draws
would depend on who came before. Where a network draws at all, each forward pass of a piece of a batch begins with a
seed of its own, made of (run seed, round, client, step, piece): on every engine, in every pass and after a resume the
same. Networks without chance pay nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedha.inputs import Form, arguments
from fedha.models.split import SplitModel, evaluating
from fedha.randomness import generator

Key = tuple[int | str, ...]  # the run's seed first


class RandomParts(NamedTuple):
    """Which parts of a network draw.

    Attributes:
        featurizer: The featurizer.
        head: The head.
    """

    featurizer: bool
    head: bool


def random_parts(model: SplitModel, form: Form, *, evaluation: bool = False) -> RandomParts:
    """Which parts of a network draw, tried once on two examples of zeros.

    Args:
        model: In the mode in which it is trained; it stays as it is.
        form: Of its inputs.
        evaluation: Whether it is looked at in evaluation mode, in which few draw.
    """
    return _tried(model, form, evaluation)


@lru_cache(maxsize=16)
def _tried(model: SplitModel, form: Form, evaluation: bool) -> RandomParts:
    device = next(model.parameters()).device
    inputs = arguments(form.zeros(2, device=device))
    with evaluating(model) if evaluation else nullcontext(), untouched(device), torch.no_grad():
        before = _drawn(device)
        features = functional_call(model.featurizer, kept_apart(model.featurizer), *inputs)
        between = _drawn(device)
        functional_call(model.head, kept_apart(model.head), (features,))
        return RandomParts(not torch.equal(before, between), not torch.equal(between, _drawn(device)))


def kept_apart(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's buffers, for `functional_call` to write to in their place."""
    return {name: value.clone() for name, value in module.named_buffers()}


@contextmanager
def untouched(device: torch.device) -> Iterator[None]:
    """Leave torch's generators as they are."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def drawing(key: Key | None, device: torch.device) -> Iterator[None]:
    """Draw as a key says, and leave torch's generators as they were.

    Args:
        key: Whose first entry is the run's seed; None: nothing is drawn.
        device: Where it is computed.
    """
    if key is None:
        yield
        return
    seed, *rest = key
    with untouched(device):
        torch.manual_seed(generator(int(seed), *rest).initial_seed())
        yield


def _drawn(device: torch.device) -> Tensor:
    """The state of what layers draw from."""
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return torch.cat(states)
