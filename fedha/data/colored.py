"""Colours that lie: gray images whose colour predicts the label, by another amount in every domain.

The construction of Colored MNIST: a binary label from the digit, flipped with some probability (label noise), and a
colour that agrees with that noisy label except with another probability (the domain's color flip). A model that trusts
the colour beats one that reads the shape on the sources, and fails where the flip is high.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedha.config import DataConfig
from fedha.data.domain import Domain, Examples, unseen
from fedha.randomness import generator


def flipped(bits: Tensor, probability: float, draws: torch.Generator) -> Tensor:
    """Zeros and ones, each flipped independently with the same probability.

    Args:
        bits: 0 or 1, [n], int64.
        probability: Of a flip; 0 keeps every bit and 1 flips every bit.
        draws: Drawn from once for every bit.

    Returns:
        [n], int64.
    """
    return bits ^ (torch.rand(len(bits), generator=draws) < probability).long()


def flipped_exactly(bits: Tensor, fraction: float, draws: torch.Generator, groups: Tensor) -> Tensor:
    """Zeros and ones, of which a fixed number is flipped: the same share in every group, to the nearest example.

    For small data: with 500 images, chance alone moves a probability by two points, a fifth of what tells the domains
    apart.

    Args:
        bits: 0 or 1, [n], int64.
        fraction: Of each group that is flipped.
        draws: Decides which.
        groups: Which group an example is in, [n], int64.

    Returns:
        [n], int64.
    """
    flips = torch.zeros_like(bits)
    for group in groups.unique():
        members = (groups == group).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=draws)
        flips[members[order[: round(fraction * len(members))]]] = 1
    return bits ^ flips


def colored(images: Tensor, colors: Tensor) -> Tensor:
    """Two channels a colour: the image in the channel of its own colour, zeros in the other.

    Args:
        images: Gray images, [n, h, w].
        colors: 0 or 1, [n], int64: the channel that keeps the image.

    Returns:
        [n, 2, h, w].

    Source:
        Arjovsky, Bottou, Gulrajani, Lopez-Paz, "Invariant Risk Minimization" (2019), section 5.2 and its code.
    """
    return images[:, None] * (torch.arange(2) == colors[:, None])[:, :, None, None]


def grayscale(images: Tensor) -> Tensor:
    """The same images without a colour: [n, h, w] in both channels of [n, 2, h, w]."""
    return images[:, None].repeat(1, 2, 1, 1)


def labels_and_colors(
    digits: Tensor, flip: float, label_noise: float, seed: int, *key: str, exact: bool = False
) -> tuple[Tensor, Tensor]:
    """Noisy binary labels of digits, and the colours that follow them.

    Args:
        digits: 0 to 9, [n].
        flip: Probability that a colour disagrees with its (noisy) label.
        label_noise: Probability that a label is not ``digit < 5``.
        seed: The run's seed.
        key: Whose draws these are: a domain and a part of it.
        exact: Whether exactly these shares are flipped, in every class and noise group, instead of each by chance.

    Returns:
        Labels and colours, 0 or 1, [n], int64.
    """
    clean = (digits < 5).long()
    noise, color = (generator(seed, "data", purpose, *key) for purpose in ("label noise", "color"))
    if exact:
        labels = flipped_exactly(clean, label_noise, noise, groups=clean)
        return labels, flipped_exactly(labels, flip, color, groups=2 * clean + labels)
    labels = flipped(clean, label_noise, noise)
    return labels, flipped(labels, flip, color)


def colored_examples(
    images: Tensor, digits: Tensor, flip: float, config: DataConfig, seed: int, *key: str, exact: bool = False
) -> Examples:
    """Images of digits as the examples of a domain with this color flip; arguments as in `labels_and_colors`."""
    labels, colors = labels_and_colors(digits, flip, config.label_noise, seed, *key, exact=exact)
    return Examples(colored(images, colors), labels)


def targets(
    images: Tensor, digits: Tensor, config: DataConfig, seed: int, *, exact: bool = False
) -> tuple[Domain, ...]:
    """The unseen domain and, if asked for, the same images and labels without colour.

    Args:
        images: Gray images, [n, h, w].
        digits: 0 to 9, [n].
        config: Its target_color_flip, label_noise and grayscale_target.
        seed: The run's seed.
        exact: As in `labels_and_colors`.

    Returns:
        The domains "target" and, with ``grayscale_target``, "grayscale".
    """
    target = colored_examples(images, digits, config.target_color_flip, config, seed, "target", exact=exact)
    gray = [unseen("grayscale", Examples(grayscale(images), target.labels))] if config.grayscale_target else []
    return (unseen("target", target), *gray)


def source_names(color_flips: Sequence[float]) -> list[str]:
    """Short names such as "flip-0.2", one a source; the second "flip-0.1" is "flip-0.1-2"."""
    plain = [f"flip-{flip:g}" for flip in color_flips]
    before = [plain[:place].count(name) for place, name in enumerate(plain)]
    return [name if times == 0 else f"{name}-{times + 1}" for name, times in zip(plain, before, strict=True)]


def label_shift(labels: Tensor, ratio: float, majority: int) -> Tensor:
    """Which examples to keep so that one label has the given share: a label shift that changes nothing else.

    As many are kept as the ratio allows, the first of each label; nothing about the images or the colours decides, so
    the distribution of an input given its label stays as it was.

    Args:
        labels: 0 or 1, [n]; the order of the examples must be random.
        ratio: Share of the majority label after it, 0.5 to 1.
        majority: The label that gets that share.

    Returns:
        Places in ascending order. The share is exact up to rounding one example.
    """
    many = (labels == majority).nonzero()[:, 0]
    few = (labels != majority).nonzero()[:, 0]
    kept_many = min(len(many), int(len(few) * ratio / (1 - ratio)))
    kept_few = round(kept_many * (1 - ratio) / ratio)
    return torch.cat([many[:kept_many], few[:kept_few]]).sort().values


def published_imbalance(digits: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """The two sources of the published label-shift script, its slip included.

    The intention: the first source gets ``ratio`` of all digits below 5 and ``1 - ratio`` of the others, the second
    source gets what is left. The script takes the counts to slice off from the length of a boolean mask, n, instead
    of its number of true entries. So the first source gets the first ``round(ratio * n)`` digits below 5, which is all
    of them whenever they are fewer, and the first ``round((1 - ratio) * n)`` others; the second source gets the rest.
    On the 50,000 training images of MNIST with ratio 0.97 that is 25,538 + 1,500 digits (94.5 % below 5) and
    0 + 22,962 digits: the second source has not one digit below 5. Labels are noised only after the split, so with
    noise 0.25 label 1 is 72 % of the first source and 25 % of the second. Domain sizes differ too.

    Args:
        digits: 0 to 9, [n], shuffled, before any label noise.
        ratio: The script's P, 0.97 there.

    Returns:
        Places of the two sources' examples, digits below 5 first, as the script has them; disjoint, together all.

    Source:
        The Colored MNIST scripts for imbalanced data of Hemati et al. (ICCV 2023).
    """
    low, high = (digits < 5).nonzero()[:, 0], (digits >= 5).nonzero()[:, 0]
    cut_low, cut_high = round(ratio * len(digits)), round((1 - ratio) * len(digits))
    return torch.cat([low[:cut_low], high[:cut_high]]), torch.cat([low[cut_low:], high[cut_high:]])
