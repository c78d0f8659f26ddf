"""How far chance may carry a score."""

import math


def chance_bound(members: int, others: int, runs: int, false_alarms: float) -> float:
    """How far from 1/2 the mean area of independent runs may lie where members and others are alike.

    The area is then Mann-Whitney's U over m k, of variance ``(m + k + 1) / (12 m k)``; Chebyshev bounds the mean.
    """
    return math.sqrt((members + others + 1) / (12 * members * others) / runs / false_alarms)
