"""The private means of one exchange: every example clipped once, over all that travels together, then Gaussian noise.

Let ``t_ki = left_ki ⊗ right_ki`` be example i's term of moment k and s_k a public scale. What is protected is the
concatenation of all ``s_k t_ki``, of norm ``r_i = sqrt(sum_k s_k^2 |left_ki|^2 |right_ki|^2)``. With the factors
``f_i = min(1, clip / r_i)`` one example more or less moves ``S = sum_i f_i (s_k t_ki)_k`` by at most ``clip``, all
moments together, so one Gaussian release of deviation ``noise_multiplier * clip`` an entry covers the whole exchange.
Divided by ``s_k n``, n a public constant, moment k is ``(1 / n) sum_i f_i t_ki`` plus noise of deviation
``noise_multiplier * clip / (s_k n)``: a larger scale buys a moment less noise at the others' cost.

Rounding must not move the sum further, whatever scales, directions and networks a server sends: any request may come
from one that wants it to. A site adds up float32 terms in float32, for float64 costs twice the time, but clips them a
little shorter, by the most that float32 can lose. What the noise is added to, in float64, is then a function of the
examples that one of them moves by at most ``clip``, last bits included. With ``u = 2^-24``, V the length of right and
blocks of ``b = min(n, 512)`` examples, whose sums are added in float64:

- everything is in units of a power of two of about the clip, so that ``|f_i s_k left| |right| <= 1`` is what float32
  holds; the factors come in float64, and range over 10^300 without being cut to subnormal numbers;
- r_i is short by at most ``(V / 2 + 2) u r_i``: a sum of V squares and its root; left's is taken in float64. A square
  of right below 2^-126 may vanish, so ``sqrt(V) 2^-63`` is added to right's norm, and to left's what vanishes in
  float64: never too little of anything, and nothing at all of a norm near one, whose last bit is larger;
- weights and weighted lefts are off by u each, or by 2^-126 where they are subnormal. Right is at most 2^64 then, since
  the squares of more overflow and their example is left out: less than 2^-60 is lost of a term of norm one;
- an entry of a block's sum is off by at most ``u sum_i d_i |x_i|``, x_i example i's share and d_i the roundings on its
  way: one product and, in the worst order, 1, 2, .., b - 1 and b - 1 additions. By Cauchy-Schwarz that is at most
  ``u (b + 2)^2 / sqrt(3) clip`` over all entries, each in its own order. Neighbours keep their rows, who is absent
  being a row of zeros (n is public): they differ in one block, whose error may be there in both.

Together less than ``(1.2 (b + 2)^2 + V + 16) u clip``: 0.01 % of the clip at n = 32, and 1.9 % from n = 512 on. Moments
that are float64 have the same bound with its u, 2^-1022 and 2^512.
"""

import math
from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor

from fedha.config import LARGEST, SMALLEST
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.moments import Moment
from fedha.privacy.noise import Source

NO_SCALES: Mapping[str, float] = MappingProxyType({})
_BLOCK = 512  # examples that are added up in float32
_WIDEST = 2**18  # entries whose squares are


def joint_norms(
    moments: Mapping[str, Moment], scales: Mapping[str, float] = NO_SCALES, precision: torch.dtype | None = None
) -> Tensor:
    """Norm of all that each example would add, [n]: r in the module's words.

    Args:
        moments: By name, of the same n examples.
        scales: s by moment, public; 1 where it says nothing.
        precision: As in `Moment.norms`.

    Raises:
        ValueError: No moments, or a scale that is not a positive number of a size that sums are proven for.
    """
    total: Tensor | None = None
    for name, moment in moments.items():
        own = moment.norms(precision)
        if (scale := scales.get(name, 1.0)) != 1:
            if not SMALLEST <= scale <= LARGEST:
                raise ValueError(f"the scale of {name!r} is {scale:g}; give a number from {SMALLEST:g} to {LARGEST:g}")
            own *= scale
        total = own if total is None else torch.hypot(total, own)
    if total is None:
        raise ValueError("there is no moment to clip; measure one or more")
    return total


def factors(
    norms: Tensor, clip: float, divisor: float = 1.0, precision: torch.dtype | None = None
) -> tuple[Tensor | None, Tensor]:
    """What cuts each example to a norm: ``min(1, clip / norm)``, over a divisor.

    Args:
        norms: Of what each example would add, [n]; n may be 0.
        clip: May be infinite.
        divisor: Of the sum.
        precision: What is multiplied with the factors; default: the norms'.

    Returns:
        Which examples do not count, [n], or None where all do, and the factors, [n]. One does not whose norm is not
        finite, or too large for the precision: the caller takes zeros for it, for an error would tell of it.
    """
    out, largest = None, _largest(precision or norms.dtype)
    if len(norms) and not float(norms.amax()) < largest:
        out = ~(norms < largest)
        norms = norms.masked_fill(out, 0)
    if math.isinf(clip):
        return out, torch.full_like(norms, 1 / divisor)
    return out, (clip / divisor) / norms.clamp(min=clip)  # min(1, clip / norm) is clip / max(norm, clip)


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
        By moment, [U, V], in the moment's precision, or float64 from a cryptographic source.
        Without noise and with an infinite norm, the plain means times ``n / mechanism.divisor``.

    Raises:
        ValueError: As in `joint_norms`.

    Source:
        The Gaussian mechanism (Dwork and Roth, 2014) on sums clipped an example at a time (Abadi et al., CCS 2016).
    """
    if source.name == "cryptographic":
        return _at_a_site(_summable(moments), mechanism, source, scales)
    norms = joint_norms(moments, scales)
    out, weights = factors(norms, mechanism.norm, mechanism.divisor, next(iter(moments.values())).left.dtype)
    counted = _counted(moments, out)
    sums = {name: (one.left * weights[:, None].to(one.left.dtype)).T @ one.right for name, one in counted.items()}
    return _disturbed(sums, mechanism, source, scales) if mechanism.noise_multiplier else sums


def _counted(moments: Mapping[str, Moment], out: Tensor | None) -> Mapping[str, Moment]:
    """Moments without the examples that do not count."""
    return moments if out is None else {name: one.without(out) for name, one in moments.items()}


def _disturbed(
    sums: dict[str, Tensor], mechanism: Mechanism, source: Source, scales: Mapping[str, float]
) -> dict[str, Tensor]:
    """Sums with their noise, drawn for all at once in the order of the moments."""
    sizes = [value.numel() for value in sums.values()]
    first = next(iter(sums.values()))
    draws = source.normal(sum(sizes), first.dtype).to(first.device)
    for (name, value), noise in zip(sums.items(), draws.split(sizes), strict=True):
        deviation = mechanism.deviation(scales.get(name, 1.0))
        value.add_(noise.view(value.shape), alpha=deviation)
        sums[name] = source.settle(value, deviation)
    return sums


def _at_a_site(
    moments: Mapping[str, Moment], mechanism: Mechanism, source: Source, scales: Mapping[str, float]
) -> dict[str, Tensor]:
    """Noise in float64 with the products of float32 sides added to it, block by block, all moments as one vector."""
    norms = joint_norms(moments, scales, torch.float64)
    out, weights = factors(norms, mechanism.norm * (1 - _slack(moments.values())), mechanism.divisor)
    unit = _unit(mechanism)
    moments, weights = _counted(moments, out), weights / unit  # a power of two: exact
    pairs = []
    for name, one in moments.items():
        weight = weights * scale if (scale := scales.get(name, 1.0)) != 1 else weights
        pairs.append(((one.left * weight[:, None]).to(one.left.dtype), one.right))
    shapes = [one.shape for one in moments.values()]
    size, deviation, (first, _) = (
        sum(rows * columns for rows, columns in shapes),
        mechanism.deviation() / unit,
        pairs[0],
    )
    total = source.normal(size, torch.float64) if deviation else torch.zeros(size, dtype=torch.float64)
    total = total.to(first.device).mul_(deviation)
    part = first.new_empty(size)
    for start in range(0, len(first), _BLOCK):
        rows = slice(start, start + _BLOCK)
        for value, (left, right) in zip(_cut(part, shapes), pairs, strict=True):
            torch.mm(left[rows].T, right[rows], out=value)
        total += part.double()
    total = source.settle(total, deviation).mul_(unit)
    sums = dict(zip(moments, _cut(total, shapes), strict=True))
    for name, scale in scales.items():
        if name in sums:
            sums[name].div_(scale)
    return sums


def _unit(mechanism: Mechanism) -> float:
    """The power of two next to what an example may add: what a site's sums are held in."""
    return 1.0 if math.isinf(mechanism.norm) else 2.0 ** math.ceil(math.log2(mechanism.norm / mechanism.divisor))


def _cut(flat: Tensor, shapes: Iterable[tuple[int, int]]) -> list[Tensor]:
    """Views of one vector as matrices, one after the other."""
    views, start = [], 0
    for rows, columns in shapes:
        views.append(flat.as_strided((rows, columns), (columns, 1), start))
        start += rows * columns
    return views


def _summable(moments: Mapping[str, Moment]) -> Mapping[str, Moment]:
    """The moments in float32 where all have that and float32's slack is small, else all in float64."""
    if all(one.left.dtype == torch.float32 and one.shape[1] <= _WIDEST for one in moments.values()):
        return moments
    return {name: one.to(torch.float64) for name, one in moments.items()}


def _slack(moments: Iterable[Moment]) -> float:
    """What rounding can cost at worst, as a part of the clip."""
    parts = [
        (1.2 * (min(len(one.left), _BLOCK) + 2) ** 2 + one.shape[1] + 16) * torch.finfo(one.left.dtype).eps / 2
        for one in moments
    ]
    return max(parts, default=0.0)


@cache
def _largest(precision: torch.dtype) -> float:
    """Norms from which on an example is left out: its weight would lose digits."""
    return torch.finfo(precision).max * torch.finfo(precision).eps
