"""Do numbers of the sources alone rank runs by their accuracy on a target that nobody has seen?

python docs/predictors.py SWEEP... [--draws N] [--repeats N]

For every finished run of a sweep: `fedha.diagnosed.between_sources` at its final round and the sources' held-out
accuracy, against the target's accuracy; against `fedha.diagnosed.to_targets`, the same number between the sources' mean
and the target; and that against the accuracy. Runs are ranked within a target and a trial, over recipes and
hyperparameters; Spearman's correlation is the mean over targets and trials. Its p-value: recipes change places as a
whole, the same in every target and trial, and draws of a recipe among themselves: runs of a recipe share what it does,
and a recipe's in another trial are no new evidence, so that single runs are not exchangeable. Below, what each
predictor would select for a target and a trial of all recipes whose validation is so close to the best, beside what the
sources' validation and the target itself select. What was looked at is kept in SWEEP/predictors.jsonl and
SWEEP/targets.jsonl.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

import numpy
import torch

from fedha.config import load_written
from fedha.data.domain import DomainSet
from fedha.diagnosed import between_sources, to_targets
from fedha.flower.serve import load_domains
from fedha.sweep.compared import difference
from fedha.sweep.found import read_found
from fedha.sweep.jobs import Job
from fedha.sweep.store import Entry

SMALLER_IS_BETTER = ("hessian", "gradient", "features", "risk_gap", "measured", "bound", "excess", "excess_bound")
SLACK = (0.01, 0.05, 0.1, 0.2)  # below the best validation accuracy: the runs among which a second number may choose

Run = Mapping[str, float | str | int]


def looked_at(sweep: Path, draws: int | None) -> list[Run]:
    """Each finished run's predictors and accuracies; those that are kept are not computed again."""
    found, domains = read_found([sweep]), dict[tuple[str, int], DomainSet]()
    wanted = [
        one
        for one in found.jobs
        if one.name in found.summaries
        and not found.summaries[one.name]["diverged"]
        and (one.draw or 0) < (draws or 10**9)
    ]

    def data(entry: Entry | Job) -> DomainSet:
        key = entry.target, entry.seed
        if key not in domains:
            domains[key] = load_domains(load_written(found.places[entry.name] / "config.yaml"))
        return domains[key]

    def sources(entry: Entry | Job) -> Run:
        final = found.summaries[entry.name]["rules"]["final"]
        return {
            **{"name": entry.name, "recipe": entry.label, "target": entry.target, "seed": entry.seed},
            **{"validation": final["score"], "accuracy": mean(final["targets"].values())},
            **asdict(between_sources(found.places[entry.name], domains=data(entry))),
        }

    def targets(entry: Entry | Job) -> Run:
        seen = [asdict(one) for one in to_targets(found.places[entry.name], domains=data(entry)).values()]
        return {"name": entry.name, **{f"to {name}": mean(one[name] for one in seen) for name in seen[0]}}

    ours = _kept(sweep / "predictors.jsonl", wanted, sources)
    theirs = _kept(sweep / "targets.jsonl", wanted, targets)
    return [{**ours[one.name], **theirs[one.name]} for one in wanted]


def _kept(path: Path, wanted: Sequence[Entry | Job], made: Callable[[Entry | Job], Run]) -> dict[str, Run]:
    """A row for each run, by name; those that the file has are not made again."""
    known = {one["name"]: one for one in map(json.loads, path.read_text().splitlines() if path.exists() else [])}
    with path.open("a") as out:
        for entry in wanted:
            if entry.name not in known:
                known[entry.name] = made(entry)
                print(json.dumps(known[entry.name]), file=out, flush=True)
    return known


def ranks(values: Sequence[float]) -> numpy.ndarray:
    """Their ranks, ties sharing the mean, centred and of length one."""
    _, inverse, counts = numpy.unique(numpy.asarray(values), return_inverse=True, return_counts=True)
    own = (numpy.cumsum(counts) - (counts - 1) / 2)[inverse]
    own = own - own.mean()
    return own / max(float(numpy.linalg.norm(own)), 1e-12)


Group = tuple[object, object]  # a target and a trial
Places = Mapping[Group, numpy.ndarray]  # whose number each of its runs gets, [repeats, n]


def grouped(runs: Sequence[Run]) -> dict[Group, list[Run]]:
    """Runs by target and trial."""
    groups: dict[Group, list[Run]] = {}
    for one in runs:
        groups.setdefault((one["target"], one["seed"]), []).append(one)
    return groups


def spearman(runs: Sequence[Run], name: str, other: str, places: Places, sign: float = 1.0) -> tuple[float, float]:
    """Mean over targets and trials of the correlation of two numbers, and its p-value on both sides."""
    found, by_chance = list[float](), list[numpy.ndarray]()
    for group, here in grouped(runs).items():
        ours, theirs = ranks([sign * float(one[name]) for one in here]), ranks([float(one[other]) for one in here])
        found.append(float(ours @ theirs))
        by_chance.append(theirs[places[group]] @ ours)
    beyond = int((abs(numpy.mean(by_chance, 0)) >= abs(mean(found)) - 1e-12).sum())
    return mean(found), (1 + beyond) / (1 + len(by_chance[0]))


def permuted(runs: Sequence[Run], repeats: int) -> Places:
    """Recipes change places as a whole, the same in every target and trial; there, draws of each among themselves."""
    draws = numpy.random.default_rng(0)
    recipes = list(dict.fromkeys(one["recipe"] for one in runs))
    orders = [draws.permutation(len(recipes)) for _ in range(repeats)]
    found = {}
    for group, here in grouped(runs).items():
        blocks = [numpy.array([p for p, one in enumerate(here) if one["recipe"] == own], dtype=int) for own in recipes]
        shuffled = numpy.empty((repeats, len(here)), dtype=int)
        for row, order in zip(shuffled, orders, strict=True):
            row[numpy.concatenate(blocks)] = numpy.concatenate([draws.permutation(blocks[one]) for one in order])
        found[group] = shuffled
    return found


def selected(runs: Sequence[Run], name: str, slack: float) -> list[float]:
    """Accuracies, in percent, of what a number selects of all recipes and draws, for each target and trial.

    Numbers of what is apart choose among the runs whose validation is close to the best one: a model that has learned
    nothing is alike everywhere.
    """
    chosen = []
    for group in grouped(runs).values():
        best = max(float(one["validation"]) for one in group)
        near = [one for one in group if float(one["validation"]) >= best - slack]
        if name in SMALLER_IS_BETTER:
            chosen.append(min(near, key=lambda one: float(one[name])))
        else:
            chosen.append(max(group, key=lambda one: float(one[name])))
    return [100 * float(one["accuracy"]) for one in chosen]


def told(runs: Sequence[Run], name: str, slack: float) -> str:
    """What is selected on average, and by how much that is better than what validation selects."""
    found, plain = selected(runs, name, slack), selected(runs, "validation", slack)
    less = difference([one - other for one, other in zip(found, plain, strict=True)])
    if name == "validation" or less.low is None or less.high is None:
        return f"{mean(found):.1f}"
    return f"{mean(found):.1f} ({less.mean:+.1f}, {less.low:+.1f} to {less.high:+.1f})"


def table(runs: Sequence[Run], repeats: int) -> str:
    """The rows as Markdown: how numbers rank, then what they select of all recipes for a target and a trial."""
    targets, places = len({one["target"] for one in runs}), permuted(runs, repeats)
    lines = [f"{len(runs)} runs, {targets} targets", ""]
    heads = ("between sources", "target's accuracy, Spearman", "itself to the target", "to the target, its accuracy")
    lines += [f"| {heads[0]} | {' | p | '.join(heads[1:])} | p |", "|---|" + "---|" * 6]
    for name in ("validation", *SMALLER_IS_BETTER):
        sign = -1.0 if name in SMALLER_IS_BETTER else 1.0
        found = [spearman(runs, name, "accuracy", places, sign)]
        if name in SMALLER_IS_BETTER:
            found += [
                spearman(runs, name, f"to {name}", places),
                spearman(runs, f"to {name}", "accuracy", places, sign),
            ]
        shown = " | ".join(f"{value:+.2f} | {p:.4f}" for value, p in found)
        lines.append(f"| {name} | {shown} |" + " |" * (6 - 2 * len(found)))
    heads = " | ".join(f"within {100 * one:g} points" for one in SLACK)
    lines += ["", f"| selects, target % (less validation's, 95 %) | {heads} |", "|---|" + "---|" * len(SLACK)]
    for name in ("validation", *SMALLER_IS_BETTER, "accuracy"):
        title = "the target itself" if name == "accuracy" else name
        lines.append(f"| {title} | {' | '.join(told(runs, name, one) for one in SLACK)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, help="of each recipe, target and trial; default: all")
    parser.add_argument("--repeats", type=int, default=5000, help="permutations")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for sweep in given.sweeps:
        print(f"\n{sweep.name}: {table(looked_at(sweep, given.draws), given.repeats)}", flush=True)


if __name__ == "__main__":
    main()
