"""Leave one domain out: every recipe on every target, with weights that the sources alone choose.

python docs/leave_one_out.py CONFIG [KEY=VALUE]... --targets 0,75 --weights 1,30,1000 --out FOLDER

For each target the first seed trains every recipe with every weight; the weight whose sources' held-out examples come
out best in the final round is taken with the other seeds too. The target has no say, and no target's choice looks at
another's. Runs that are in FOLDER are not made again: the same command goes on.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedha.cli.launch import find_config
from fedha.config import Config
from fedha.run import execute
from fedha.runs.listener import Silent
from fedha.runs.runfolder import holds_run, is_finished, read_results

RULE = "training_domain_validation"


def trained(config: Config, folder: Path) -> dict[str, Any]:
    """A run's results; it is made where it is not there, and goes on where it was stopped."""
    if not is_finished(folder):
        execute(config, folder, Silent(), resume=holds_run(folder))
    return read_results(folder)


def single(config: Config, recipe: str, weight: float | None, seed: int) -> Config:
    """One run of a config."""
    own = next(one for one in config.recipe if one.name == recipe)
    chosen = own if weight is None else own.model_copy(update={"weight": weight})
    return config.model_copy(update={"recipe": [chosen], "seed": [seed]})


def validated(results: dict[str, Any]) -> float:
    """The sources' mean held-out accuracy in the final round."""
    return statistics.mean(one["accuracy"] for one in results["sources"].values())


def row(
    config: Config, recipe: str, weights: Sequence[float], folder: Path
) -> tuple[float | None, list[dict[str, Any]]]:
    """The weight that the sources choose, and the results of every seed with it."""
    first, *others = config.seed
    tried: dict[float | None, dict[str, Any]] = {
        weight: trained(single(config, recipe, weight, first), folder / f"{recipe}-{weight or 0:g}-{first}")
        for weight in ([None] if recipe == "erm" else weights)
    }
    best = max(tried, key=lambda weight: validated(tried[weight]))
    rest = [trained(single(config, recipe, best, seed), folder / f"{recipe}-{best or 0:g}-{seed}") for seed in others]
    return best, [tried[best], *rest]


def told(values: Sequence[float]) -> str:
    """Mean and sample standard deviation of accuracies."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def main() -> None:
    """Train what is missing, and print the table of final rounds and that of rounds that the sources choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--targets", required=True)
    parser.add_argument("--weights", default="1,30,1000")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_intermixed_args()
    targets, weights = given.targets.split(","), [float(one) for one in given.weights.split(",")]
    found: dict[tuple[str, str], tuple[float | None, list[dict[str, Any]]]] = {}
    for target in targets:
        config = find_config(given.config, [*given.overrides, f"data.target='{target}'"])
        for recipe in config.recipe:
            found[recipe.name, target] = row(config, recipe.name, weights, given.out / target)
            sys.stderr.write(f"target {target}: {recipe.name}\n")
    for title, rule in (("final round", None), ("training-domain validation", RULE)):
        sys.stdout.write(f"\n| {title} | {' | '.join(targets)} | mean |\n|{'---|' * (len(targets) + 2)}\n")
        for name in dict.fromkeys(recipe for recipe, _ in found):
            cells, runs = [], []
            for target in targets:
                weight, results = found[name, target]
                accuracies = [accuracy(one, target, rule) for one in results]
                cells.append(told(accuracies) + ("" if weight is None or rule else f" ({weight:g})"))
                runs.append(accuracies)
            means = [statistics.mean(seed) for seed in zip(*runs, strict=True)]
            sys.stdout.write(f"| {name} | {' | '.join(cells)} | **{told(means)}** |\n")


def accuracy(results: dict[str, Any], target: str, rule: str | None) -> float:
    """The target's, of the last round or of a selected one, 0 to 1."""
    chosen = results["target"][target]["accuracy"] if rule is None else results["selection"][rule]["target_accuracy"]
    return float(chosen)


if __name__ == "__main__":
    main()
