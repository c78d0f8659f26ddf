"""A network that knows shapes in images: what discriminators may be linear in, beside pixels, where images are small.

Its layers, none of which sees a label or a domain's name: random filters of the whitened brightness (Coates, Lee and
Ng, AISTATS 2011, with random directions in the place of learned ones); how much each is exceeded, either way, in every
field of a grid; principal axes; and units around centres that lie where images do. Each is made of sums over examples
(patches' and features' second moments, the means of cells), so that two domains can share it; what is trained behind
it, by sums of gradients, is the discriminator's last layer.

Why not by gradients throughout: labels of which a quarter is noise are learned by heart before the shape is. A
convolutional network told the class of 20,000 such digits' shapes in 93 % of them; images that are alike have alike
labels, and units around centres average over them: 96 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from fedha.randomness import generator

SMALLEST = 8  # pixels of a side that is looked at
FILTERS, PATCH, GRID = 64, 5, 4
AXES = 80
MOST_CENTRES, SHARING = 1024, 16  # and how many examples share one at least
WIDTH = 0.45  # of a unit, beside the median distance
STEEP = 5.0  # of a channel's share: few weights that should cost little
_EXCEEDED = 0.5  # standard deviations of a filter's answers
_FAINT = 0.25  # of the patches' usual contrast
_WHITENED = 0.1  # of the largest variance: what is added to the patches' others
_LOOKED_AT = 20_000  # examples that sums are taken over
_PASSES, _AT_ONCE = 3, 1000
_STEPS, _BESIDE = 4, 16  # to the axes, and how many more are followed than are taken


@dataclass(frozen=True)
class Seen:
    """What the network sees in images.

    Attributes:
        colours: Each channel's share of the brightness, [n, c], about zero, in float32.
        units: Answers of the units, each of mean 0 and variance 1, [n, k], in float32.
    """

    colours: Tensor
    units: Tensor

    def at(self, chosen: Tensor) -> "Seen":
        """Of some images."""
        return Seen(self.colours[chosen], self.units[chosen])


def joined(parts: Sequence[Seen]) -> Seen:
    """Of all of them, in order."""
    return Seen(torch.cat([one.colours for one in parts]), torch.cat([one.units for one in parts]))


def seen_in(images: Tensor, seed: int) -> Seen | None:
    """What the network sees in images of both domains.

    Args:
        images: [n, c, h, w].
        seed: Of the filters and the centres.

    Returns:
        None where images are too small, or too few.
    """
    count = _centre_count(len(images))
    if min(images.shape[2:]) < SMALLEST or count < 2:
        return None
    drawn = generator(seed, "diagnosis", "shapes")
    bright = images.mean(1, keepdim=True).float()
    looked = slice(None, None, max(1, len(images) // _LOOKED_AT))
    filters = _filters(bright[looked], drawn)
    fields = torch.cat([filters.fields(some) for some in bright.split(_AT_ONCE)])
    placed = _along_axes(fields, looked, drawn)
    centres = _centres(placed[looked], count, drawn)
    middle = float(torch.cdist(placed[looked][:_AT_ONCE], centres).median())
    reach = 2 * (WIDTH * middle or 1.0) ** 2
    units = torch.cat([(-(torch.cdist(some, centres) ** 2) / reach).exp() for some in placed.split(_AT_ONCE)])
    channels = images.abs().mean((2, 3)).float()
    shares = channels / channels.sum(1, keepdim=True).clamp_min(1e-12)
    return Seen(STEEP * (shares - shares.mean(0)), (units - units.mean(0)) / units.std(0).clamp_min(1e-3))


@dataclass(frozen=True)
class _Filters:
    weights: Tensor  # [k, 1, p, p], each adding up to 0
    offsets: Tensor  # [k, 1, 1]
    faint: float  # contrast of a patch, below which it counts less
    spread: float

    def answers(self, bright: Tensor) -> Tensor:
        """To patches of which the mean is taken away, divided by their contrast."""
        told = functional.conv2d(bright, self.weights, padding=PATCH // 2)
        return (told / (_contrast(bright) + self.faint) + self.offsets) / self.spread

    def fields(self, bright: Tensor) -> Tensor:
        """How much each filter's answers exceed a level, either way, in every field of a grid."""
        told = self.answers(bright)
        both = torch.cat([(told - _EXCEEDED).relu_(), (-told - _EXCEEDED).relu_()], 1)
        return functional.adaptive_avg_pool2d(both, GRID).flatten(1)


def _contrast(bright: Tensor) -> Tensor:
    """Length of each patch without its mean, [n, 1, h, w]."""
    box = torch.full((1, 1, PATCH, PATCH), 1 / PATCH**2)
    mean, squares = (functional.conv2d(one, box, padding=PATCH // 2) for one in (bright, bright**2))
    return ((squares - mean**2).clamp_min(0) * PATCH**2).sqrt()


def _filters(bright: Tensor, drawn: torch.Generator) -> _Filters:
    """Random directions in whitened patches, from the patches' mean and second moments."""
    faint = _FAINT * float(_contrast(bright).square().mean().sqrt()) or 1.0
    total, squares, count = torch.zeros(PATCH**2), torch.zeros(PATCH**2, PATCH**2), 0
    for some in bright.split(_AT_ONCE):
        patches = functional.unfold(some, PATCH, padding=PATCH // 2).transpose(1, 2).reshape(-1, PATCH**2)
        patches = patches - patches.mean(1, keepdim=True)
        patches = patches / (patches.norm(dim=1, keepdim=True) + faint)
        total, squares, count = total + patches.sum(0), squares + patches.T @ patches, count + len(patches)
    mean = total / count
    values, axes = torch.linalg.eigh((squares / count - torch.outer(mean, mean)).double())
    added = float(values[-1].clamp_min(1e-12)) * _WHITENED
    whitening = (axes / (values.clamp_min(0) + added).sqrt() @ axes.T).float()
    turns = functional.normalize(torch.randn(FILTERS, PATCH**2, generator=drawn)) @ whitening
    weights = (turns - turns.mean(1, keepdim=True)).view(FILTERS, 1, PATCH, PATCH)
    made = _Filters(weights, -(turns @ mean)[:, None, None], faint, 1.0)
    return replace(made, spread=float(made.answers(bright[:_AT_ONCE]).std()) or 1.0)


def _along_axes(fields: Tensor, looked: slice, drawn: torch.Generator) -> Tensor:
    """Along the axes of most variance, each divided by the fourth root of its own; found by power steps on a block."""
    some = fields[looked]
    mean = some.mean(0)
    some = some - mean
    kept = min(AXES, *some.shape)
    block = torch.randn(some.shape[1], min(kept + _BESIDE, some.shape[1]), generator=drawn)
    for _ in range(_STEPS):
        block = some.T @ (some @ torch.linalg.qr(block).Q)
    block = torch.linalg.qr(block).Q
    seen = some @ block
    values, axes = torch.linalg.eigh((seen.T @ seen / len(some)).double())
    scale = values[-kept:].clamp_min(float(values[-1]) * 1e-9 or 1.0) ** 0.25
    found: Tensor = (fields - mean) @ (block.double() @ axes[:, -kept:] / scale).float()
    return found


def _centre_count(examples: int) -> int:
    """A power of two, as cells are halved."""
    return min(MOST_CENTRES, 1 << max(0, (examples // SHARING).bit_length() - 1))


def _centres(placed: Tensor, count: int, drawn: torch.Generator) -> Tensor:
    """Centres of cells that are halved again and again (Linde, Buzo and Gray 1980), from cells' sums alone."""
    centres = placed.mean(0, keepdim=True)
    spread = placed.std(0)
    while len(centres) < count:
        push = 0.1 * spread * torch.randn(centres.shape, generator=drawn)
        centres = torch.cat([centres + push, centres - push])
        for _ in range(_PASSES):
            own = torch.cat([_nearest(some, centres) for some in placed.split(_AT_ONCE)])
            sizes = torch.bincount(own, minlength=len(centres))
            sums = torch.zeros_like(centres).index_add_(0, own, placed)
            centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp_min(1)[:, None], centres)
    return centres


def _nearest(some: Tensor, centres: Tensor) -> Tensor:
    found: Tensor = (centres.pow(2).sum(1) - 2 * some @ centres.T).argmin(1)
    return found
