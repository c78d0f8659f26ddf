"""Statistics as functions of means over examples, which is what lets them be taken in pieces.

A mean of a batch is the mean of its pieces' means, weighed by their rows. Where a statistic is ``s = derive(means)``, a
penalty ``P(s)`` has in the network's parameters the gradient of ``<pull, means>`` with the constant
``pull = dP / d means``: each piece of the batch adds its part. n examples, C classes, D features.

Two statistics are two means deep. A covariance is the mean around the mean, whose own derivative vanishes there. HGP's
``H g`` is the Hessian along the batch's own gradient: with u the pull on it, ``d <u, H g> = <u, dH g> + <H u, dg>``,
and as H is symmetric, ``H u`` is one more such mean, which joins g's pull.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedha import cross_entropy
from fedha.errors import FedhaError
from fedha.measurement import Circumstances, Piece
from fedha.pieces import Batch
from fedha.registry import statistic
from fedha.statistic import Mean
from fedha.table import COUNTED, STATISTICS

Named = Mapping[str, Tensor]

_TRIED = 8  # rows on which somebody's own mean is looked at


def means_needed(wanted: Iterable[str]) -> dict[str, Mean]:
    """The means that some statistics are made of, by name.

    Raises:
        FedhaError: There is no such statistic, or two of them call different means by one name.
    """
    needed: dict[str, Mean] = {}
    for name in wanted:
        for mean in statistic(name).means:
            if needed.setdefault(mean.name, mean) is not mean:
                raise FedhaError(f"statistic {name!r} calls a mean {mean.name!r}, as another one does; rename it")
    return needed


def means_of(batch: Batch, wanted: Iterable[str], around: Circumstances) -> dict[str, Tensor]:
    """The means that some statistics of a batch are made of, without a graph.

    Args:
        batch: Of n rows, n >= 1.
        wanted: Statistics, as in `fedha.registry.statistic`.
        around: Signs, and references of earlier exchanges.

    Raises:
        FedhaError: A statistic is too large for this head; or somebody's own mean is none.
    """
    names = list(wanted)
    means = means_needed(names).values()
    _check_own([name for name in names if name not in STATISTICS and name not in COUNTED], batch, around)
    first = _merged(batch, [mean for mean in means if mean.along is None], around, {})
    return first | _merged(batch, [mean for mean in means if mean.along is not None], around, first)


def derived(wanted: Iterable[str], means: Named, examples: int) -> dict[str, Tensor]:
    """Statistics of a batch of n examples from its means, differentiable in them."""
    return {name: statistic(name).formula.derive(means, examples) for name in wanted}


def mean_along(batch: Batch, mean: Mean, direction: Tensor, around: Circumstances) -> Tensor:
    """A batch's mean that is taken along another one, along a given direction in its place."""
    if mean.along is None:
        raise ValueError(f"the mean {mean.name!r} is taken along no other one")
    return _merged(batch, [mean], around, {mean.along.name: direction})[mean.name]


def _merged(batch: Batch, means: Iterable[Mean], around: Circumstances, directions: Named) -> dict[str, Tensor]:
    means = list(means)
    total: dict[str, Tensor] = {}
    for seen in batch.measured() if means else ():
        piece = Piece(seen.view, seen.features, seen.labels, around, directions)
        with torch.no_grad(), cross_entropy.shared():
            for mean in means:
                value = mean.of(piece) * seen.fraction
                total[mean.name] = total[mean.name].add_(value) if mean.name in total else value
    return total


def _check_own(names: Iterable[str], batch: Batch, around: Circumstances) -> None:
    """Look whether somebody's own means are means over examples, on a few rows: else no piece could be added up."""
    own = [(name, mean) for name in names for mean in statistic(name).means if mean.along is None]
    for seen in batch.measured() if own else ():
        piece = Piece(seen.view, seen.features[:_TRIED], seen.labels[:_TRIED], around)
        for name, mean in own:
            if not _is_mean(mean, piece):
                raise FedhaError(
                    f"statistic {name!r}: {mean.name!r} of {len(piece.targets)} examples is not the mean of its values "
                    "of one part and the rest, so that it cannot be taken in pieces; give the means that it is made "
                    "of, and derive (fedha.Statistic), or raise training.chunk"
                )
        return


def _is_mean(mean: Mean, piece: Piece) -> bool:
    rows, cut = len(piece.targets), max(1, len(piece.targets) // 3)
    if rows < 2:
        return True
    with torch.no_grad():
        whole, *parts = (
            mean.of(replace(piece, features=piece.features[own], targets=piece.targets[own]))
            for own in (slice(None), slice(cut), slice(cut, None))
        )
    merged = (cut * parts[0] + (rows - cut) * parts[1]) / rows
    return torch.allclose(whole, merged, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))
