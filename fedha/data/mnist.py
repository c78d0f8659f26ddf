"""Colored MNIST: the published environments, made from MNIST's own four files."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedha.config import DataConfig
from fedha.data.colored import colored_examples, label_shift, published_imbalance, source_names, targets
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.data.idx import IdxFile, find, read
from fedha.errors import FedhaError
from fedha.randomness import generator

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
Gray = tuple[Tensor, Tensor]  # images [n, h, w] in 0..1 and digits [n]

TRAIN = (
    IdxFile(
        "train-images-idx3-ubyte",
        (60_000, 28, 28),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    IdxFile("train-labels-idx1-ubyte", (60_000,), "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
)
TEST = (
    IdxFile(
        "t10k-images-idx3-ubyte",
        (10_000, 28, 28),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    IdxFile("t10k-labels-idx1-ubyte", (10_000,), "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)


def load(config: DataConfig, seed: int, mirrors: Sequence[str] = MIRRORS) -> DomainSet:
    """Colored MNIST from the files in ``config.root``.

    Args:
        config: Its root, download, held_out and the options of `environments`. With ``held_out`` 0 the sources have
            no held-out part; otherwise it is the whole t10k part if root has it (or ``download`` fetches it), as the
            published training uses every training image.
        seed: As in `environments`.
        mirrors: Where missing files are fetched from with ``config.download``: URLs that end in a slash, in order.

    Returns:
        What `environments` makes of them.

    Raises:
        FedhaError: No root, a file that is missing and not to be downloaded, a failed download, or a file that is not
            MNIST's in structure.
    """
    if config.root is None:
        raise FedhaError("data.root is not set; name the folder of the MNIST files, or where to download them to")
    test = None
    if config.held_out > 0 and (config.download or any(find(config.root, file) for file in TEST)):
        test = _gray(TEST, config.root, config.download, mirrors)
    return environments(_gray(TRAIN, config.root, config.download, mirrors), test, config, seed)


def environments(
    train: Gray, test: Gray | None, config: DataConfig, seed: int, target_images: int = 10_000
) -> DomainSet:
    """The published environments of Colored MNIST.

    The last ``target_images`` training images are the target. The others, shuffled, are the sources: the i-th of k
    sources takes every k-th image from the i-th on (all of them train), and of the shuffled test images likewise for
    its held-out part. ``imbalance: clean`` then keeps, in every source, the images that make the majority label's
    share ``imbalance_ratio`` (label 0 in the first source, label 1 in the second, and so on; `label_shift`);
    ``imbalance: paper_code`` splits as the published script does instead (`published_imbalance`, two sources only).

    Args:
        train: Images [n, h, w] in 0..1 and digits [n], in the file's order.
        test: The same of the test part; None for sources without a held-out part.
        config: Its color_flips (a source each), target_color_flip, label_noise, grayscale_target and imbalance.
        seed: Decides the shuffles, the label noise and the colours.
        target_images: How many of the last training images are the target.

    Returns:
        Inputs [n, 2, h, w], two classes; the description states label 1's share in every source.

    Raises:
        FedhaError: ``paper_code`` with another number of sources than two.

    Source:
        Arjovsky et al., "Invariant Risk Minimization" (2019), the Colored MNIST code; Hemati et al. (ICCV 2023).
    """
    images, digits = train
    end = len(digits) - target_images
    names = source_names(config.color_flips)
    parts = _sources((images[:end], digits[:end]), config, seed, "train")
    held_out = _sources(test, config, seed, "held out") if test else [part.select(slice(0, 0)) for part in parts]
    shares = [f"{name} {len(part):,} ({_share(part):.1%})" for name, part in zip(names, parts, strict=True)]
    return DomainSet(
        sources=tuple(Domain(*one) for one in zip(names, parts, held_out, strict=True)),
        targets=targets(images[end:], digits[end:], config, seed),
        classes=2,
        description=(
            f"Colored MNIST, 2x{images.shape[1]}x{images.shape[2]}: label noise {config.label_noise:g}, imbalance "
            f"{config.imbalance}, training images (share of label 1) {', '.join(shares)}, held out "
            f"{'nothing' if test is None else 't10k images'}, unseen target {config.target_color_flip:g}"
        ),
    )


def _sources(gray: Gray, config: DataConfig, seed: int, part: str) -> list[Examples]:
    order = torch.randperm(len(gray[1]), generator=generator(seed, "data", "shuffle", part))
    images, digits = gray[0][order], gray[1][order]
    count = len(config.color_flips)
    places: Sequence[Tensor] = [torch.arange(first, len(digits), count) for first in range(count)]
    if config.imbalance == "paper_code":
        if count != 2:
            raise FedhaError(f"imbalance paper_code splits into two sources but data.color_flips has {count}; give two")
        places = published_imbalance(digits, config.imbalance_ratio)
    sources = [
        colored_examples(images[place], digits[place], flip, config, seed, name, part)
        for name, flip, place in zip(source_names(config.color_flips), config.color_flips, places, strict=True)
    ]
    if config.imbalance == "clean":
        kept = [label_shift(one.labels, config.imbalance_ratio, index % 2) for index, one in enumerate(sources)]
        return [one.select(places) for one, places in zip(sources, kept, strict=True)]
    return sources


def _share(part: Examples) -> float:
    """Share of label 1."""
    return float(part.labels.double().mean())


def _gray(files: tuple[IdxFile, IdxFile], root: Path, download: bool, mirrors: Sequence[str]) -> Gray:
    """Images, every second row and column as published, in 0..1; and their digits."""
    images, digits = (read(file, root, download, mirrors) for file in files)
    return images[:, ::2, ::2].float() / 255, digits.long()
