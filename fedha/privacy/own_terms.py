"""What an example adds to somebody's own statistic: made of that example alone, or clipping it bounds nothing.

fedha's own terms are; another's may look at the batch, as a centred feature does. So it is tried, like a network's
layers (`fedha.privacy.beyond`): on rows that are nobody's, whether a term changes with neighbours of any size.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from fedha.errors import FedhaError
from fedha.privacy.moments import Batch, measure
from fedha.privacy.releasable import required
from fedha.randomness import generator
from fedha.table import COUNTED, STATISTICS

_NEIGHBOURS = (0.0, 1.0, 1e3)  # their size
_ROUNDING = 1e-6  # relative to the row's largest number; all is float64


def refuse_mixed_terms(statistics: Iterable[str], classes: int, width: int) -> None:
    """Raise unless what each example adds to these statistics is its own, and two factors of one row an example.

    Args:
        statistics: That a run releases.
        classes: C, of the head.
        width: D, of the features with their column of ones.

    Raises:
        FedhaError: Names the mean whose term is not.
    """
    for name in required(one for one in statistics if one not in STATISTICS and one not in COUNTED):
        usual = _factors(name, _batch(classes, width))
        for size in _NEIGHBOURS:
            among = _factors(name, _batch(classes, width, size))
            if any(_differ(mine[1], theirs[1]) for mine, theirs in zip(usual, among, strict=True)):
                raise FedhaError(
                    f"what one example adds to {name!r} changes with the others, so that clipping it bounds nothing; "
                    "make the factors of Mean(…, outer=…) of the example's own row, or leave outer out"
                )


def _factors(name: str, batch: Batch) -> tuple[Tensor, Tensor]:
    before = torch.get_rng_state()
    (moment,) = measure((name,), batch).values()
    shapes = [tuple(one.shape) for one in (moment.left, moment.right)]
    if any(len(shape) != 2 or shape[0] != len(batch.features) for shape in shapes):
        raise FedhaError(
            f"the factors of what an example adds to {name!r} have shapes {shapes[0]} and {shapes[1]} for "
            f"{len(batch.features)} examples; give [n, U] and [n, V]"
        )
    if not torch.equal(before, torch.get_rng_state()):
        torch.set_rng_state(before)
        raise FedhaError(f"what an example adds to {name!r} is drawn at random, which no account knows; draw nothing")
    return moment.left, moment.right


def _batch(classes: int, width: int, neighbours: float | None = None) -> Batch:
    """Three examples, of which the second is the same whatever the others are: the usual ones, or of that size."""
    draws = generator(0, "trial of terms", classes, width)
    rows = torch.randn(5, width + classes, generator=draws, dtype=torch.float64)
    vector = torch.randn(classes, width, generator=draws, dtype=torch.float64)
    if neighbours is not None:
        rows = torch.stack([rows[3] * neighbours, rows[1], rows[4] * neighbours])
    features = torch.cat([rows[:3, : width - 1], torch.ones(3, 1, dtype=torch.float64)], 1)
    labels = torch.tensor([0, 0, 1] if neighbours is None else [1, 0, 0])
    return Batch(features, rows[:3, width:], labels, vector)


def _differ(mine: Tensor, theirs: Tensor) -> bool:
    if mine.shape != theirs.shape:
        return True
    largest = float(mine.abs().amax()) if mine.numel() else 0.0
    return not torch.allclose(mine, theirs, rtol=0, atol=_ROUNDING * largest, equal_nan=True)
