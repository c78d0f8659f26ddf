"""Which recipes can be told apart: mean ranks over targets and trials, and the difference that chance explains."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from fedha.report.formats import Column, Table
from fedha.sweep.selection import Chosen, Place

_LEAST = 3  # recipes; of two the paired comparison says more
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ranks:
    """Recipes by their mean rank.

    Attributes:
        means: By recipe, 1 is the best; in that order.
        blocks: Over how many pairs of a target and a trial.
        difference: Mean ranks that differ by less cannot be told apart (Nemenyi, 95 %).
        p: Of the hypothesis that all are alike (Friedman).
        cliques: The first and the last place of recipes that cannot be told apart; none within another.
    """

    means: Mapping[str, float]
    blocks: int
    difference: float
    p: float
    cliques: Sequence[tuple[int, int]]


def rank(chosen: Mapping[Place, Chosen], *, smaller: bool = False) -> Ranks | None:
    """Rank recipes where all of them have a number; None for fewer than three, or fewer than two such places.

    Args:
        chosen: The runs that a rule keeps.
        smaller: Whether less is better.

    Source:
        Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006.
    """
    labels = list(dict.fromkeys(row[1] for row, _, _ in chosen))
    places: dict[tuple[str, str, int], dict[str, float]] = {}
    for (row, target, seed), one in chosen.items():
        places.setdefault((row[0], target, seed), {})[row[1]] = one.accuracy
    whole = [[one[label] for label in labels] for one in places.values() if len(one) == len(labels)]
    if len(labels) < _LEAST or len(whole) < 2:
        return None
    by_place = [stats.rankdata([value if smaller else -value for value in values]).tolist() for values in whole]
    means = {label: statistics.fmean(column) for label, column in zip(labels, zip(*by_place, strict=True), strict=True)}
    means = dict(sorted(means.items(), key=lambda one: one[1]))
    count = len(labels)
    quantile = float(stats.studentized_range.ppf(_CONFIDENCE, count, math.inf)) / math.sqrt(2)
    difference = quantile * math.sqrt(count * (count + 1) / (6 * len(whole)))
    alike = all(len(set(values)) == 1 for values in whole)  # nothing to test, and scipy would divide by zero
    p = 1.0 if alike else float(stats.friedmanchisquare(*zip(*whole, strict=True)).pvalue)
    return Ranks(means, len(whole), difference, p, cliques(list(means.values()), difference))


def cliques(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """The first and last of those within a difference, longest stretches alone.

    Args:
        ranks: From the best to the worst.
        difference: What they may differ by.
    """
    found: list[tuple[int, int]] = []
    for first, best in enumerate(ranks):
        last = max(place for place, one in enumerate(ranks) if one - best < difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def rank_table(ranks: Ranks) -> Table:
    """Mean ranks, best first."""
    columns = (Column("recipe"), Column("mean rank", number=True))
    p = f"{ranks.p:.3f}" if ranks.p >= 0.001 else f"{ranks.p:.0e}"
    return Table(
        f"Mean rank over {ranks.blocks} pairs of a target and a trial, 1 is best",
        columns,
        tuple((name, f"{mean:.2f}") for name, mean in ranks.means.items()),
        (
            f"Friedman's test that all are alike: p = {p}. Recipes whose mean ranks differ by less than "
            f"{ranks.difference:.2f} cannot be told apart (Nemenyi, 95 %). Trials of one target share their data, so "
            "the difference is rather too small than too large.",
        ),
    )
