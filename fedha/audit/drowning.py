"""Releases with noise on top: the check that an attack which reads nothing scores nothing."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from fedha.audit.sent import Sent
from fedha.privacy.noise import Source, seeded


def drowned(sent: Iterable[Sent], noise: float, seed: int) -> Iterator[Sent]:
    """Add Gaussian noise to everything that was sent; the model it was taken at stays known.

    Args:
        sent: Releases.
        noise: Deviation, in units of each tensor's root mean square; 0 changes nothing.
        seed: Of the noise.
    """
    for one in sent:
        if noise == 0:
            yield one
            continue
        source = seeded(seed, "drowned", one.round, "aggregate" if one.client is None else one.client)
        update = None if one.update is None else _noisy(one.update, noise, source)
        yield replace(one, statistics=_noisy(one.statistics, noise, source), update=update)


def _noisy(tensors: Mapping[str, Tensor], noise: float, source: Source) -> dict[str, Tensor]:
    found = {}
    for name, value in tensors.items():
        size = value.square().mean().sqrt().clamp(min=1e-12)
        found[name] = value + noise * size * source.normal(value.numel(), value.dtype).reshape(value.shape)
    return found
