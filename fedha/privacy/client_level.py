"""Differential privacy for clients as a whole: each contribution clipped, their sum disturbed once (central model).

It hides whether one client took part at all, from whoever sees the models; the server, or secure aggregation in its
place, is trusted with the sum before the noise. It is for many clients: with E of them the mean carries noise of
deviation ``noise_multiplier * norm / E`` an entry, and with one client a domain the domain itself is what is hidden.

Source:
    McMahan, Ramage, Talwar, Zhang, "Learning differentially private recurrent language models" (ICLR 2018).
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from fedha.privacy.ledger import Release, Sampled
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.noise import Source


def clip_contribution(tensors: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
    """A client's statistics or update, cut to a norm over all its tensors together.

    Where clients count differently, weigh before clipping: it is the weighted contribution that the norm must bound.

    Args:
        tensors: By name.
        norm: The longest contribution that is left as it is.

    Returns:
        Zeros where a number is not finite, or too large for its norm to be: such a client adds nothing.
    """
    length = float(torch.stack([torch.linalg.vector_norm(value.double()) for value in tensors.values()]).norm())
    if not length < math.inf:
        return {name: torch.zeros_like(value) for name, value in tensors.items()}
    factor = norm / max(length, norm) if norm < math.inf else 1.0
    return {name: value * factor for name, value in tensors.items()}


def disturb(total: Mapping[str, Tensor], mechanism: Mechanism, source: Source) -> dict[str, Tensor]:
    """The private mean of a sum of clipped contributions, such as secure aggregation gives.

    Args:
        total: The sum by name, float64 where the source is cryptographic.
        mechanism: The norm that clients clipped to, the noise, and the expected number of clients as divisor.
        source: Of this release alone.
    """
    deviation, mean = mechanism.deviation(), {}
    for name, value in total.items():
        exact = value.to(source.precision(value.dtype)) / mechanism.divisor
        if deviation:
            noise = source.normal(exact.numel(), exact.dtype).to(exact.device)
            exact = source.settle(exact.add_(noise.view(exact.shape), alpha=deviation), deviation)
        mean[name] = exact.to(value.dtype)
    return mean


def private_mean(
    contributions: Iterable[Mapping[str, Tensor]], mechanism: Mechanism, source: Source
) -> dict[str, Tensor]:
    """Clip, sum in the order given, disturb.

    Args:
        contributions: One a client, in client order, names and shapes alike.
        mechanism: Norm, noise, and the expected number of clients.
        source: Of this release alone.

    Raises:
        ValueError: No client contributed, so that nothing is known of the shapes.
    """
    total: dict[str, Tensor] | None = None
    for tensors in contributions:
        clipped = clip_contribution(tensors, mechanism.norm)
        total = clipped if total is None else {name: value + clipped[name] for name, value in total.items()}
    if total is None:
        raise ValueError("no client contributed; send the noise alone with disturb and zeros of the right shapes")
    return disturb(total, mechanism, source)


def joined_multiplier(multipliers: Sequence[float]) -> float:
    """The noise multiplier of one Gaussian release that costs what these cost together: ``(sum_j z_j^-2)^(-1/2)``.

    A round's exchanges share one cohort, so they are one release of a sampled cohort, not several: sampling each anew
    would hide a client better than it is.

    Source:
        Composition of Gaussian mechanisms is a Gaussian mechanism (Dong, Roth, Su, JRSS-B 2022, corollary 3.3); the
        sampled one is then that of the joined mechanism.
    """
    return 1 / math.hypot(*(1 / multiplier for multiplier in multipliers))


def cohort_release(multipliers: Sequence[float], sampling: Sampled, cohort: int) -> Release:
    """One round's entry in the ledger of clients.

    Args:
        multipliers: Noise of each exchange of the round.
        sampling: How its cohort was drawn: *whole*, *poisson*, *without_replacement* (uniform, fixed size), or
            *unamplified* (by examples, or in any other way).
        cohort: How many clients, on average under poisson.
    """
    return Release(joined_multiplier(multipliers), sampling, cohort)
