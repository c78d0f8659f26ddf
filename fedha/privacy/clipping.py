"""The private means of one exchange: every example clipped once, over all that travels together, then Gaussian noise.

Let ``t_ki = left_ki ⊗ right_ki`` be example i's term of moment k and s_k a public scale. What is protected is the
concatenation of all ``s_k t_ki``, of norm ``r_i = sqrt(sum_k s_k^2 |left_ki|^2 |right_ki|^2)``. With the factors
``f_i = min(1, clip / r_i)`` one example more or less moves ``S = sum_i f_i (s_k t_ki)_k`` by at most ``clip``, all
moments together, so one Gaussian release of deviation ``noise_multiplier * clip`` an entry covers the whole exchange.
Divided by ``s_k n``, n a public constant, moment k is ``(1 / n) sum_i f_i t_ki`` plus noise of deviation
``noise_multiplier * clip / (s_k n)``: a larger scale buys a moment less noise at the others' cost.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from fedha.privacy.mechanism import Mechanism
from fedha.privacy.moments import Moment
from fedha.privacy.noise import Source

NO_SCALES: Mapping[str, float] = MappingProxyType({})


def joint_norms(moments: Mapping[str, Moment], scales: Mapping[str, float] = NO_SCALES) -> Tensor:
    """Norm of all that each example would add, [n]: r in the module's words.

    Raises:
        ValueError: No moments, or a scale that is not a positive number.
    """
    total: Tensor | None = None
    for name, moment in moments.items():
        own = moment.norms()
        if (scale := scales.get(name, 1.0)) != 1:
            if not 0 < scale < math.inf:
                raise ValueError(f"the scale of {name!r} is {scale:g}; give a positive number")
            own = own * scale
        total = own if total is None else torch.hypot(total, own)
    if total is None:
        raise ValueError("there is no moment to clip; measure one or more")
    return total


def factors(norms: Tensor, clip: float) -> tuple[Tensor | None, Tensor]:
    """What cuts each example to a norm: ``min(1, clip / norm)``.

    Args:
        norms: Of what each example would add, [n]; n may be 0.
        clip: May be infinite.

    Returns:
        Which examples count, [n], or None where all do; and their factors, one for each that counts. One whose norm is
        not finite, or too large for the precision, does not: it adds nothing, for an error would tell of it.
    """
    finite = None
    if len(norms) and not float(norms.amax()) < math.inf:
        finite = norms.isfinite()
        norms = norms[finite]
    return finite, torch.ones_like(norms) if math.isinf(clip) else clip / norms.clamp(min=clip)


@torch.no_grad()
def private_means(
    moments: Mapping[str, Moment], mechanism: Mechanism, source: Source, scales: Mapping[str, float] = NO_SCALES
) -> dict[str, Tensor]:
    """What a client may send of one batch: the clipped means of its moments, with noise.

    Args:
        moments: By name, of the same n examples; n may be 0, and noise is sent all the same.
        mechanism: Norm, noise, and the fixed number that sums are divided by.
        source: Of this release alone.
        scales: s by moment, public; 1 where it says nothing.

    Returns:
        By moment, [U, V], in the moment's precision, or float64 from a cryptographic source. Without noise and with an
        infinite norm, the plain means times ``n / mechanism.divisor``.

    Raises:
        ValueError: No moments, or a scale that is not a positive number.

    Source:
        The Gaussian mechanism (Dwork and Roth, 2014) on sums clipped an example at a time (Abadi et al., CCS 2016).
    """
    moments = {name: one.to(source.precision(one.left.dtype)) for name, one in moments.items()}
    finite, weights = factors(joint_norms(moments, scales), mechanism.norm)
    if finite is not None:
        moments = {name: Moment(one.left[finite], one.right[finite]) for name, one in moments.items()}
    weights /= mechanism.divisor
    sums = {name: (one.left * weights[:, None]).T @ one.right for name, one in moments.items()}
    return _disturbed(sums, mechanism, source, scales) if mechanism.noise_multiplier else sums


def _disturbed(
    sums: dict[str, Tensor], mechanism: Mechanism, source: Source, scales: Mapping[str, float]
) -> dict[str, Tensor]:
    """Sums with their noise, drawn for all at once in the order of the moments."""
    sizes = [value.numel() for value in sums.values()]
    first = next(iter(sums.values()))
    draws = source.normal(sum(sizes), first.dtype).to(first.device)
    for (name, value), own in zip(sums.items(), draws.split(sizes), strict=True):
        deviation = mechanism.deviation(scales.get(name, 1.0))
        value.add_(own.view(value.shape), alpha=deviation)
        sums[name] = source.settle(value, deviation)
    return sums
