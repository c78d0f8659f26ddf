"""The accuracies of runs, and what a row of several seeds says about them."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fedha.report.formats import Summary, summarized

Results = Mapping[str, Any]  # the content of a results.json
Value = Callable[[Results], float | None]  # an accuracy of one run, a fraction

RULES: Mapping[str, str] = {
    "final": "final round",
    "training_domain_validation": "training-domain validation",
    "leave_one_domain_out": "leave-one-domain-out",
    "validation_domain": "validation domain",
    "oracle": "oracle",
}


def mean_over_domains(part: str) -> Value:
    """The plain mean over the domains of a part: "train", "sources" or "target"."""
    return lambda results: _mean(domain.get("accuracy") for domain in results.get(part, {}).values())


def worst_domain(part: str) -> Value:
    """The least accuracy of a part's domains."""
    return lambda results: min(_known(results, part), default=None)


def domain_count(part: str, results: Iterable[Results]) -> int:
    """How many domains of a part the runs have at most."""
    return max((len(_known(one, part)) for one in results), default=0)


def _known(results: Results, part: str) -> list[float]:
    found = (domain.get("accuracy") for domain in results.get(part, {}).values())
    return [value for value in found if value is not None]


def target_accuracy(name: str | None = None) -> Value:
    """A target's accuracy at the final round; without a name, that of the run's first target."""
    return lambda results: results["target"].get(name or first_target(results), {}).get("accuracy")


def selected_accuracy(rule: str) -> Value:
    """The first target's accuracy at the round that a rule selects: a key of `RULES`."""
    return lambda results: (results.get("selection", {}).get(rule) or {}).get("target_accuracy")


def first_target(results: Results) -> str:
    """The unseen domain that the run is judged by."""
    return next(iter(results["target"]), "")


def sound(runs: Iterable[Results]) -> list[Results]:
    """The runs that did not diverge: what the others ended with says nothing of their recipe."""
    return [one for one in runs if not one.get("diverged")]


def over_seeds(runs: Sequence[Results], value: Value) -> Summary | None:
    """Mean and deviation over seeds in percent; runs that share a seed are averaged first.

    Returns:
        None where no run has the value.
    """
    return summarized([100 * one for one in _by_seed(runs, value).values()])


def gain(runs: Sequence[Results], baseline: Sequence[Results]) -> Summary | None:
    """How much better the first target's accuracy at the final round is than the baseline's, in points.

    Returns:
        None where the two were not judged by the same targets; with a deviation (of the paired differences) where they
        have the same seeds.
    """
    if {first_target(one) for one in runs} != {first_target(one) for one in baseline}:
        return None
    own, other = _by_seed(runs, target_accuracy()), _by_seed(baseline, target_accuracy())
    if own.keys() == other.keys():
        found = summarized([100 * (own[seed] - other[seed]) for seed in own])
    else:
        found = summarized(
            [100 * (statistics.fmean(own.values()) - statistics.fmean(other.values()))] if own and other else []
        )
    return None if found is None else Summary(found.mean, found.deviation, signed=True)


def unbalanced(runs: Sequence[Results]) -> str:
    """What makes a row's mean misleading: a seed that counts twice, or one without a target; "" for nothing."""
    judged = [(one["seed"], first_target(one)) for one in runs]
    twice = sorted({seed for seed, target in judged if judged.count((seed, target)) > 1})
    if twice:
        return f"seed {', '.join(map(str, twice))} appears in more than one run of it and counts once, as their mean"
    by_seed = {seed: {target for other, target in judged if other == seed} for seed, _ in judged}
    return "" if len({frozenset(one) for one in by_seed.values()}) <= 1 else "not every seed was run on every target"


def _by_seed(runs: Sequence[Results], value: Value) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for one in runs:
        accuracy = value(one)
        if accuracy is not None:
            found.setdefault(one["seed"], []).append(accuracy)
    return {seed: statistics.fmean(values) for seed, values in found.items()}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
