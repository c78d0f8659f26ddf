"""DomainBed's three model-selection rules, from one run: which round's model would be kept, and how good it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedha.metrics.choice import Choice

RULES = {
    "final": "the last round",
    "training_domain_validation": "the round with the best mean accuracy on the sources' held-out parts",
    "leave_one_domain_out": "the round with the best mean accuracy on each source when trained without it",
    "oracle": "the round with the best target accuracy: needs what nobody has, an upper bound",
}
ACCURACY = Choice()

Record = Mapping[str, Any]


def select(
    records: Sequence[Record],
    folds: Mapping[str, Sequence[Record]] | None = None,
    warmup: int = 0,
    by: Choice = ACCURACY,
    metrics: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """The round each rule picks and the target accuracy there; ties go to the earlier round.

    Args:
        records: A run's rounds, as in metrics.jsonl.
        folds: For each source, the rounds of the run without it, whose target it was.
        warmup: Rounds in which the recipe had not yet its own weight.
        by: What rounds are compared by.
        metrics: Of the target, that are told too.

    Returns:
        {rule: {"round": …, "target_accuracy": …}}; a rule whose numbers are missing is left out. A round of the warm-up
        has "within_warmup" beside it, how long that is: its model is not yet the recipe's. Where metrics are named,
        "target" has them.

    Source:
        Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021; there the oracle may not stop
        early, here it may: it is the best evaluated round.
    """
    evaluated = _evaluated(records)
    if not evaluated:
        return {}
    chosen = {rule: max(by_round, key=by_round.__getitem__) for rule, by_round in scores(records, folds, by).items()}
    found = {}
    for rule, number in chosen.items():
        target = _first(evaluated[number]["target"])
        found[rule] = {
            "round": number,
            "target_accuracy": target.get("accuracy"),
            **({"target": {name: target.get(name) for name in metrics}} if metrics else {}),
            **({"within_warmup": warmup} if number <= warmup else {}),
        }
    return found


def scores(
    records: Sequence[Record], folds: Mapping[str, Sequence[Record]] | None = None, by: Choice = ACCURACY
) -> dict[str, dict[int, float]]:
    """What each rule looks at, by round, so that more is better; a rule whose numbers are missing is left out.

    Arguments as in `select`.
    """
    evaluated = _evaluated(records)
    found: dict[str, dict[int, float | None]] = {
        "final": {number: number for number in evaluated},
        "training_domain_validation": {
            number: by.score((record.get("held_out") or {}).values()) for number, record in evaluated.items()
        },
        "leave_one_domain_out": _left_out(evaluated, folds or {}, by),
        "oracle": {number: by.score([_first(record["target"])]) for number, record in evaluated.items()},
    }
    known = {rule: {n: one for n, one in by_round.items() if one is not None} for rule, by_round in found.items()}
    return {rule: by_round for rule, by_round in known.items() if by_round}


def _evaluated(records: Sequence[Record]) -> dict[int, Record]:
    """By round; without a target the sources' numbers are there alone."""
    return {int(one["round"]): one for one in records if one.get("target") or (one.get("held_out") and "target" in one)}


def _left_out(
    evaluated: Mapping[int, Any], folds: Mapping[str, Sequence[Record]], by: Choice
) -> dict[int, float | None]:
    if not folds:
        return {}
    by_fold = [{int(r["round"]): _first(r["target"]) for r in rows if r.get("target")} for rows in folds.values()]
    common = [number for number in evaluated if all(number in fold for fold in by_fold)]
    return {number: by.score([fold[number] for fold in by_fold]) for number in common}


def _first(domains: Mapping[str, Record]) -> Record:
    return next(iter(domains.values()), {})
