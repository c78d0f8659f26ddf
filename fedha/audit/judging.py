"""Scores of members and of others as findings: area, rate at few false alarms, curve."""

from collections.abc import Iterator

from torch import Tensor

from fedha.audit.findings import Curve, Finding
from fedha.audit.scores import auc, bootstrap, roc, true_positive_rate

LIMIT = 0.01  # of false positives


def judge(
    attack: str, round: int | None, client: int | None, examples: int, scores: tuple[Tensor, Tensor], seed: int
) -> Iterator[Finding | Curve]:
    """A membership attack's finding and its ROC curve.

    Args:
        attack: A key of `ATTACKS`.
        round: Of the release; None for the final model.
        client: Its id; None for the aggregate.
        examples: n, behind the release or the model.
        scores: Of members, and of others.
        seed: Of the interval.

    Returns:
        With the finding, as detail: the true positive rate where at most `LIMIT` of the others are taken for members,
        the rate of those that is attained there (0 with fewer than 1 / `LIMIT` others), its interval and the counts.
    """
    members, others = scores
    point = true_positive_rate(members, others, LIMIT)
    interval, rates = bootstrap(
        lambda a, b: (auc(a, b), true_positive_rate(a, b, LIMIT).true_positives), [members, others], seed
    )
    detail = {
        "true_positive_rate": point.true_positives,
        "true_positive_rate_interval": list(rates),
        "false_positive_rate_attained": point.false_positives,
        "false_positive_limit": LIMIT,
        "members": len(members),
        "others": len(others),
    }
    yield Finding(attack, round, client, auc(members, others), 0.5, interval, examples, detail)
    false_rates, true_rates = ([_short(rate) for rate in side] for side in roc(members, others))
    yield Curve(attack, round, client, false_rates, true_rates, len(others))


def _short(rate: float) -> float:
    """To five places: finer cannot be drawn, and the file is mostly these."""
    return float(f"{rate:.5f}")
