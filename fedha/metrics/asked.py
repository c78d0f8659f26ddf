"""What an evaluation gives beside accuracy and risk, as server and clients tell each other."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fedha.errors import FedhaError
from fedha.metrics.metric import BINS, COUNTS
from fedha.metrics.table import check_allowed, metric

MOST_CLASSES = 2000  # whose confusion is counted


@dataclass(frozen=True)
class Asked:
    """What is counted on examples that are evaluated; nothing by default.

    Attributes:
        counts: Of `metric.COUNTS`: sums over examples.
        scores: Names of metrics that need the probabilities of single examples, and are computed where these are.
        groups: The column by which examples are also told apart; "": by none.
        classes: C.
    """

    counts: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    groups: str = ""
    classes: int = 0

    def __bool__(self) -> bool:
        return bool(self.counts or self.scores or self.groups)

    @property
    def sizes(self) -> dict[str, int]:
        """How many numbers each of the counts has."""
        usual = {"confusion": self.classes**2, "bins": 3 * BINS}
        return {name: usual[name] for name in self.counts}


NOTHING = Asked()


def asked(metrics: Sequence[str], groups: str, classes: int) -> Asked:
    """What some metrics need.

    Args:
        metrics: By name.
        groups: As in `Asked`.
        classes: Likewise.
    """
    needs = {need for name in metrics for need in metric(name).needs}
    scores = tuple(name for name in metrics if metric(name).of_scores)
    if scores:
        needs.add("confusion")  # which classes there are says why one has no value
    counts = tuple(name for name in COUNTS if name in needs)
    if "confusion" in counts and classes > MOST_CLASSES:
        raise FedhaError(
            f"evaluation.metrics counts which of {classes:,} classes are taken for which, and {MOST_CLASSES:,} are the "
            "most; take accuracy and log_loss"
        )
    return Asked(counts, scores, groups, classes) if counts or groups else NOTHING


def packed(wanted: Asked) -> str:
    """As a message carries it."""
    return json.dumps(asdict(wanted))


def unpacked(content: object) -> Asked:
    """Read what `packed` wrote.

    Raises:
        ValueError: It is something else.
        FedhaError: It names a metric that this process was not told of.
    """
    if not isinstance(content, dict):
        raise ValueError("what is asked of an evaluation is no object")
    counts, scores = (tuple(str(one) for one in content.get(name, ())) for name in ("counts", "scores"))
    if unknown := [one for one in counts if one not in COUNTS]:
        raise ValueError(f"it asks to count {unknown[0]!r}")
    for name in scores:
        check_allowed(name)
    if not 0 <= (classes := int(content.get("classes", 0))) <= MOST_CLASSES:
        raise ValueError(f"it asks to count {classes} classes")
    return Asked(counts, scores, str(content.get("groups", "")), classes)
