"""Choosing among a sweep's runs, over rounds and hyperparameters: DomainBed's rules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedha.sweep.jobs import Job, written
from fedha.sweep.store import Entry

RULES: Mapping[str, str] = {
    "training_domain_validation": "training-domain validation: the run and round with the best mean accuracy on what "
    "the sources hold out",
    "leave_one_domain_out": "leave-one-domain-out: the run and round with the best mean accuracy on each source, "
    "trained without it",
    "validation_domain": "validation domain: the run and round with the best accuracy on the domain kept for that",
    "oracle_last": "oracle, last round: the run whose last round is best on the target itself; a bound, no method",
    "oracle": "oracle, any round: as before, over all rounds too; an upper bound of that bound",
    "final": "last round; the run by training-domain validation there",
}


ACCURACY = "accuracy"


@dataclass(frozen=True)
class Chosen:
    """The run that a rule keeps among those of one row, target and trial.

    Attributes:
        entry: Which run.
        round: Of it.
        score: What the rule looked at, 0 to 1; None: nothing, where there was one run.
        targets: Accuracy by target, 0 to 1, or another metric.
        warmup: Rounds of the warm-up, where one of those would have been selected; else 0.
        of: How many runs it was chosen among.
        id_test: Mean accuracy on what the sources keep from selection; None: they keep nothing.
    """

    entry: Entry
    round: int
    score: float | None
    targets: Mapping[str, float]
    warmup: int
    of: int
    id_test: float | None = None

    @property
    def accuracy(self) -> float:
        """On the first target."""
        return next(iter(self.targets.values()))


Row = tuple[str, str]  # experiment, label
Place = tuple[Row, str, int]  # row, target, seed


def row_of(entry: Entry | Job) -> Row:
    """The row of a table: the recipe, and what was varied of the data, over which nothing is selected."""
    around = ", ".join(f"{key}={written(value)}" for key, value in entry.values.items() if key.startswith("data."))
    return around, entry.label


def choose(
    rule: str, jobs: Iterable[Entry], found: Mapping[str, Mapping[str, Any]], metric: str = ACCURACY
) -> dict[Place, Chosen]:
    """For each row, target and trial the run that a rule keeps; the earlier one of two that are as good.

    A run that diverged is never kept. Where the rule's numbers are missing there is no entry.

    Args:
        rule: A key of `RULES`.
        jobs: All.
        found: Their summaries, by name.
        metric: What is told of the targets in the place of their accuracy; who has no value of it is left out.

    Source:
        Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021, section 3.2.
    """
    candidates: dict[Place, list[tuple[Entry, Mapping[str, Any]]]] = {}
    for entry in jobs:
        row = row_of(entry)
        if entry.target:  # in the order in which they were asked for, whichever has ended first
            candidates.setdefault((row, entry.target, entry.seed), [])
        content = found.get(entry.name)
        if content is None or content["diverged"]:
            continue
        picked = content["rules"].get(rule)
        if picked and picked["targets"]:
            target = entry.target or next(iter(picked["targets"]))
            candidates.setdefault((row, target, entry.seed), []).append((entry, picked))
    best = {place: _best(several) for place, several in candidates.items() if several}
    kept = {place: one for place, one in best.items() if one is not None}
    if metric == ACCURACY:
        return kept
    told = {place: _values(one, found[one.entry.name]["rules"][rule], metric) for place, one in kept.items()}
    return {place: replace(one, targets=told[place]) for place, one in kept.items() if told[place]}


def first_value(picked: Mapping[str, Any], metric: str = ACCURACY) -> float | None:
    """A metric on the first target at the round that a rule picked; None where it has no value there."""
    target, accuracy = next(iter(picked["targets"].items()))
    if metric == ACCURACY:
        return float(accuracy)
    value: float | None = (picked.get("metrics") or {}).get(target, {}).get(metric)
    return value


def _values(one: Chosen, picked: Mapping[str, Any], metric: str) -> dict[str, float]:
    """A metric on the targets; nothing where it has no value on the first of them."""
    found = {name: (picked.get("metrics") or {}).get(name, {}).get(metric) for name in one.targets}
    if next(iter(found.values())) is None:
        return {}
    return {name: value for name, value in found.items() if value is not None}


def _best(several: Sequence[tuple[Entry, Mapping[str, Any]]]) -> Chosen | None:
    """The one of the highest score; None where several have none, as where sources hold nothing out."""
    scored = several if len(several) == 1 else [one for one in several if one[1]["score"] is not None]
    if not scored:
        return None
    entry, picked = max(scored, key=lambda one: one[1]["score"])
    known = (entry, picked["round"], picked["score"], picked["targets"], picked.get("warmup", 0), len(several))
    return Chosen(*known, id_test=picked.get("id_test"))
