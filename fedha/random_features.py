"""Random Fourier features: means of them tell distributions apart as a kernel does, so that means suffice for MMD.

For the Gaussian kernel ``exp(-g |x - y|^2)``, frequencies w drawn from N(0, 2 g I) and the features ``cos(w x)`` and
``sin(w x)`` over the root of their number, the inner product of two examples' features estimates the kernel without
bias. So the squared distance of two domains' mean features estimates their squared MMD with the sum of the kernels,
the one that takes every pair, an example with itself included. The frequencies are drawn from (seed, round), the same
for all clients.

Source:
    Rahimi, Recht, "Random features for large-scale kernel machines" (NeurIPS 2007); the kernels are those of DomainBed
    (MMD) and of Nguyen et al., "Domain generalisation via risk distribution matching" (WACV 2024).
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy
import torch
from torch import Tensor

from fedha.randomness import generator

# g of each. DomainBed's go on to 10, 100 and 1,000: of kernels that hardly reach an example's neighbours, random
# features give noise, and gradients that magnify the last bit.
_KERNELS = (1e-3, 1e-2, 1e-1, 1.0)
KERNELS: Mapping[str, tuple[float, ...]] = {"representation": _KERNELS, "losses": (1e-4, *_KERNELS)}


def fourier(values: Tensor, frequencies: Tensor) -> Tensor:
    """The features of some examples, [n, D] to [n, 2 K m].

    Args:
        values: [n, D].
        frequencies: [K, m, D].

    Raises:
        ValueError: There is no example.
    """
    if len(values) == 0:
        raise ValueError("a statistic needs at least one example, got 0; check the domain's data")
    phases = values @ frequencies.flatten(0, 1).T
    return torch.cat([phases.cos(), phases.sin()], 1) / math.sqrt(frequencies.shape[1])


def frequencies(seed: int, round: int, what: str, kernels: Sequence[float], probes: int, width: int) -> Tensor:
    """A round's frequencies, [K, m, D], in float64 on the CPU.

    Args:
        seed: The run's seed.
        round: From 1.
        what: Whose features.
        kernels: The g of each.
        probes: m.
        width: D.
    """
    # by NumPy: torch refuses to draw where clients are mapped by vmap, though these are the same for all
    draws = numpy.random.default_rng(generator(seed, "frequencies", what, round).initial_seed())
    scales = numpy.sqrt(2 * numpy.asarray(kernels))[:, None, None]
    return torch.from_numpy(scales * draws.standard_normal((len(kernels), probes, width)))


drawn = lru_cache(maxsize=8)(frequencies)  # every piece of every client asks for a round's
