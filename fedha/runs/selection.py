"""DomainBed's three model-selection rules, from one run: which round's model would be kept, and how good it is."""

from collections.abc import Mapping, Sequence
from typing import Any

RULES = {
    "final": "the last round",
    "training_domain_validation": "the round with the best mean accuracy on the sources' held-out parts",
    "leave_one_domain_out": "the round with the best mean accuracy on each source when trained without it",
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
        warmup: Rounds in which the recipe had not yet its own weight.

    Returns:
        {rule: {"round": …, "target_accuracy": …}}; a rule whose numbers are missing is left out. A round of the warm-up
        has "within_warmup" beside it, how long that is: its model is not yet the recipe's.

    Source:
        Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021; there the oracle may not stop
        early, here it may: it is the best evaluated round.
    """
    evaluated = _evaluated(records)
    if not evaluated:
        return {}
    targets = {number: _first_accuracy(record["target"]) for number, record in evaluated.items()}
    by_rule = scores(records, folds)
    chosen = {rule: max(by_round, key=by_round.__getitem__) for rule, by_round in by_rule.items()}
    return {
        rule: {
            "round": number,
            "target_accuracy": targets[number],
            **({"within_warmup": warmup} if number <= warmup else {}),
        }
        for rule, number in chosen.items()
    }


def scores(
    records: Sequence[Mapping[str, Any]], folds: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
) -> dict[str, dict[int, float]]:
    """What each rule looks at, by round; a rule whose numbers are missing is left out. Arguments as in `select`."""
    evaluated = _evaluated(records)
    found: dict[str, dict[int, float]] = {
        "final": {number: number for number in evaluated},
        "training_domain_validation": _validation(evaluated),
        "leave_one_domain_out": _left_out(evaluated, folds or {}),
        "oracle": {number: _first_accuracy(record["target"]) for number, record in evaluated.items()},
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
