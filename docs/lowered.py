"""What a recipe lowers: the difference of the sources' Hessians, the Hessians themselves, or both.

python docs/lowered.py SWEEP... [--than RECIPE]

At the last round of every run of a sweep: the spectral norm of the difference of the two sources' Hessians that are
farthest apart, the mean of the sources' own norms, the one over the other, and the norms of the difference's label part
and conditional part. Each run is held against that of another recipe with the same target, trial and draw, which has
the same rate and decay (and the same weight and warm-up, where the sweep draws these from the same ranges): geometric
means of the ratios, how many are below one, and the p of a sign-flip test on their logarithms. What was looked at is
kept in SWEEP/lowered.jsonl.
"""

import argparse
import json
from itertools import combinations
from math import exp, log
from pathlib import Path
from statistics import mean

import torch

from fedha.config import load_written
from fedha.diagnosis.attributes import Side, spectral_parts
from fedha.diagnosis.curvature import norms
from fedha.diagnosis.lanczos import extremes, start_vectors
from fedha.diagnosis.sample import Sample, free_dimensions
from fedha.diagnosis.subject import looked_at
from fedha.flower.serve import load_domains
from fedha.loading import load
from fedha.sweep.compared import difference
from fedha.sweep.found import read_found

NUMBERS = {
    "apart": "\\|ΔH\\|",
    "own": "\\|H\\|",
    "ratio": "\\|ΔH\\| / \\|H\\|",
    "label": "label part",
    "rest": "conditional part",
}


def numbers(run: Path) -> dict[str, float]:
    """Of one finished run."""
    config = load_written(run / "config.yaml")
    model = load(run)
    with looked_at(model, config, load_domains(config), lambda *_: None, targets=False) as subject:
        samples, shape = subject.sources, (subject.head.shape[0], subject.head.shape[1])
        pairs = norms([one.party() for one in samples], shape, seed=config.seed[0])
        farthest = max(range(len(pairs)), key=lambda place: pairs[place].lower)
        a, b = list(combinations(samples, 2))[farthest]
        label, rest = spectral_parts(Side(a.name, (a,)), Side(b.name, (b,)), config.seed[0])
        own = mean(top(one, shape) for one in samples)
        apart = pairs[farthest].lower
        return {"apart": apart, "own": own, "ratio": apart / max(own, 1e-300), "label": label, "rest": rest}


def top(sample: Sample, shape: tuple[int, int]) -> float:
    """The largest eigenvalue of a source's own Hessian."""
    return extremes(sample.directions, start_vectors(1, shape, 0, "top"), free_dimensions(shape))[0].high


def every(sweep: Path) -> dict[tuple[str, str, int, int], dict[str, float]]:
    """The numbers by recipe, target, trial and draw."""
    found, path = read_found([sweep]), sweep / "lowered.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    known = {one.pop("name"): one for one in map(json.loads, lines)}
    with path.open("a") as out:
        for entry in found.jobs:
            if entry.name in known or entry.name not in found.summaries or found.summaries[entry.name]["diverged"]:
                continue
            known[entry.name] = numbers(found.places[entry.name])
            print(json.dumps({"name": entry.name, **known[entry.name]}), file=out, flush=True)
    return {
        (one.label, one.target, one.seed, one.draw or 0): known[one.name] for one in found.jobs if one.name in known
    }


def table(known: dict[tuple[str, str, int, int], dict[str, float]], than: str) -> str:
    """The rows as Markdown."""
    lines = [f"| recipe | pairs | {' | '.join(NUMBERS.values())} |", "|---|---:|" + "---|" * len(NUMBERS)]
    base = [one for key, one in known.items() if key[0] == than]
    shown = [f"{exp(mean(log(max(one[name], 1e-300)) for one in base)):.3g}" for name in NUMBERS]
    lines.append(f"| {than}, itself | {len(base)} | {' | '.join(shown)} |")
    for recipe in dict.fromkeys(key[0] for key in known if key[0] != than):
        pairs = [
            (one, known[than, *key[1:]]) for key, one in known.items() if key[0] == recipe and (than, *key[1:]) in known
        ]
        cells = []
        for name in NUMBERS:
            ratios = [log(max(one[name], 1e-300) / max(other[name], 1e-300)) for one, other in pairs]
            lower = sum(one < 0 for one in ratios)
            cells.append(f"× {exp(mean(ratios)):.2f} ({lower} of {len(ratios)} lower, p {difference(ratios).p:.3f})")
        lines.append(f"| {recipe} | {len(pairs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", nargs="+", type=Path)
    parser.add_argument("--than", default="erm", metavar="RECIPE", help="what others are held against")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for sweep in given.sweeps:
        print(f"\n{sweep.name}, last round:\n\n{table(every(sweep), given.than)}", flush=True)


if __name__ == "__main__":
    main()
