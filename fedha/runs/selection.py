"""Model-selection rules, from one run: which round's model would be kept, and how good it is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fedha.metrics.choice import Choice

ORACLE, LODO_VAL = "oracle", "lodo_val"  # parts of a round's record that selection alone looks at

RULES = {
    "final": "the last round",
    "training_domain_validation": "the round with the best mean accuracy on the sources' held-out parts",
    "leave_one_domain_out": "the round with the best mean accuracy on each source when trained without it",
    "validation_domain": "the round with the best accuracy on the domain that is kept for that (data.validation)",
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
        warmup: Rounds in which the recipe had not yet its own weight: their models are not yet the recipe's, and none
            of them is picked where there is another.
        by: What rounds are compared by.
        metrics: Of the target, that are told too.

    Returns:
        {rule: {"round": …, "target_accuracy": …}}; a rule whose numbers are missing is left out. Where a round of the
        warm-up would have been picked, "instead_of" is that round and "warmup" how long it is; where there was no other
        round, "within_warmup" is its length. Where metrics are named, "target" has them.

    Source:
        Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021; there the oracle may not stop
        early, here it may: it is the best evaluated round.
    """
    evaluated = _evaluated(records)
    if not evaluated:
        return {}
    chosen = {rule: pick(by_round, warmup) for rule, by_round in scores(records, folds, by).items()}
    return {rule: _told(one, _first(evaluated[one.round]["target"]), warmup, metrics) for rule, one in chosen.items()}


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


def _told(one: Pick, target: Record, warmup: int, metrics: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"round": one.round, "target_accuracy": target.get("accuracy")}
    found |= {"target": {name: target.get(name) for name in metrics}} if metrics else {}
    if one.instead_of:
        return {**found, "instead_of": one.instead_of, "warmup": warmup}
    return {**found, "within_warmup": warmup} if one.round <= warmup else found


def scores(
    records: Sequence[Record], folds: Mapping[str, Sequence[Record]] | None = None, by: Choice = ACCURACY
) -> dict[str, dict[int, float]]:
    """What each rule looks at, by round, so that more is better; a rule whose numbers are missing is left out.

    Arguments as in `select`.
    """
    evaluated = _evaluated(records)

    def each(domains: Callable[[Record], Iterable[Record]]) -> dict[int, float | None]:
        return {number: by.score(domains(record)) for number, record in evaluated.items()}

    found: dict[str, dict[int, Any]] = {
        "final": {number: number for number in evaluated},
        "training_domain_validation": each(lambda record: (record.get("held_out") or {}).values()),
        "leave_one_domain_out": _left_out(evaluated, folds or {}, by),
        "validation_domain": each(lambda record: [_first(record.get(LODO_VAL) or {})]),
        "oracle": each(lambda record: [_first(record.get(ORACLE) or record["target"])]),
    }
    known = {rule: {n: one for n, one in by_round.items() if one is not None} for rule, by_round in found.items()}
    return {rule: by_round for rule, by_round in known.items() if by_round}


def _evaluated(records: Sequence[Record]) -> dict[int, Record]:
    """By round; where no target is known the sources' numbers are there alone."""
    return {int(one["round"]): one for one in records if one.get("target") or (one.get("held_out") and "target" in one)}


def _left_out(
    evaluated: Mapping[int, Any], folds: Mapping[str, Sequence[Record]], by: Choice
) -> dict[int, float | None]:
    by_fold = [{int(r["round"]): _first(r["target"]) for r in rows if r.get("target")} for rows in folds.values()]
    common = [number for number in evaluated if all(number in fold for fold in by_fold)] if folds else []
    return {number: by.score([fold[number] for fold in by_fold]) for number in common}


def _first(domains: Mapping[str, Record]) -> Record:
    return next(iter(domains.values()), {})
