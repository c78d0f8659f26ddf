"""Model-selection rules, from one run: which round's model would be kept, and how good it is."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ORACLE, LODO_VAL = "oracle", "lodo_val"  # parts of a round's record that selection alone looks at

RULES = {
    "final": "the last round",
    "training_domain_validation": "the round with the best mean accuracy on the sources' held-out parts",
    "leave_one_domain_out": "the round with the best mean accuracy on each source when trained without it",
    "validation_domain": "the round with the best accuracy on the domain that is kept for that (data.validation)",
    "oracle": "the round with the best target accuracy: needs what nobody has, an upper bound",
}


def select(
    records: Sequence[Mapping[str, Any]],
    folds: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    warmup: int = 0,
) -> dict[str, dict[str, float]]:
    """The round each rule picks and the target accuracy there; ties go to the earlier round.

    Args:
        records: A run's rounds, as in metrics.jsonl.
        folds: For each source, the rounds of the run without it, whose target it was.
        warmup: Rounds in which the recipe had not yet its own weight: their models are not yet the recipe's, and none
            of them is picked where there is another.

    Returns:
        {rule: {"round": …, "target_accuracy": …}}; a rule whose numbers are missing is left out. Where a round of the
        warm-up would have been picked, "instead_of" is that round and "warmup" how long it is; where there was no other
        round, "within_warmup" is its length.

    Source:
        Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021; there the oracle may not stop
        early, here it may: it is the best evaluated round.
    """
    evaluated = _evaluated(records)
    if not evaluated:
        return {}
    targets = {number: _first_accuracy(record["target"]) for number, record in evaluated.items()}
    by_rule = scores(records, folds)
    chosen = {rule: pick(by_round, warmup) for rule, by_round in by_rule.items()}
    return {rule: _told(one, targets[one.round], warmup) for rule, one in chosen.items()}


class Pick(NamedTuple):
    """A round that a rule takes.

    Attributes:
        round: Which.
        instead_of: The round of the warm-up that would have been taken; 0: none would.
    """

    round: int
    instead_of: int = 0


def pick(by_round: Mapping[int, float], warmup: int) -> Pick:
    """The round with the best score after the warm-up, the earlier of two as good; of the warm-up only without another.

    Args:
        by_round: Scores, at least one.
        warmup: How many rounds it has.
    """
    own = {number: score for number, score in by_round.items() if number > warmup} or by_round
    best, free = max(own, key=own.__getitem__), max(by_round, key=by_round.__getitem__)
    return Pick(best, free if free != best else 0)


def _told(one: Pick, accuracy: float, warmup: int) -> dict[str, float]:
    found: dict[str, float] = {"round": one.round, "target_accuracy": accuracy}
    if one.instead_of:
        return {**found, "instead_of": one.instead_of, "warmup": warmup}
    return {**found, "within_warmup": warmup} if one.round <= warmup else found


def scores(
    records: Sequence[Mapping[str, Any]], folds: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
) -> dict[str, dict[int, float]]:
    """What each rule looks at, by round; a rule whose numbers are missing is left out. Arguments as in `select`."""
    evaluated = _evaluated(records)
    found: dict[str, dict[int, float]] = {
        "final": {number: number for number in evaluated},
        "training_domain_validation": _validation(evaluated),
        "leave_one_domain_out": _left_out(evaluated, folds or {}),
        "validation_domain": {
            number: _first_accuracy(record[LODO_VAL]) for number, record in evaluated.items() if record.get(LODO_VAL)
        },
        "oracle": {
            number: _first_accuracy(record.get(ORACLE) or record["target"]) for number, record in evaluated.items()
        },
    }
    return {rule: by_round for rule, by_round in found.items() if by_round}


def _evaluated(records: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    return {int(record["round"]): record for record in records if record.get("target")}


def _validation(evaluated: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
    scores = {}
    for number, record in evaluated.items():
        accuracies = [one["accuracy"] for one in record.get("held_out", {}).values() if "accuracy" in one]
        if accuracies:
            scores[number] = sum(accuracies) / len(accuracies)
    return scores


def _left_out(evaluated: Mapping[int, Any], folds: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[int, float]:
    if not folds:
        return {}
    by_fold = [
        {int(r["round"]): _first_accuracy(r["target"]) for r in rows if r.get("target")} for rows in folds.values()
    ]
    common = [number for number in evaluated if all(number in fold for fold in by_fold)]
    return {number: sum(fold[number] for fold in by_fold) / len(by_fold) for number in common}


def _first_accuracy(domains: Mapping[str, Mapping[str, float]]) -> float:
    return next(iter(domains.values()))["accuracy"]
