"""The picture of several sweeps: each recipe's target accuracy less ERM's, with its 95 % interval, a panel a sweep.

python docs/sweeps_picture.py docs/images/sweeps.svg TITLE=SWEEP...

Runs and rounds are selected by training-domain validation; pairs are of one target and trial.
"""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from fedha.sweep.compared import Difference, difference
from fedha.sweep.found import read_found
from fedha.sweep.selection import choose

RULE, BASELINE = "training_domain_validation", "erm"
BETTER, WORSE, SAME = "#3b7d4f", "#c44e34", "#70747c"


def differences(sweep: Path) -> dict[str, Difference]:
    """Each recipe less ERM, in points."""
    found, pairs = read_found([sweep]), dict[str, list[float]]()
    chosen = choose(RULE, found.jobs, found.summaries)
    for (row, target, seed), one in chosen.items():
        other = chosen.get(((row[0], BASELINE), target, seed))
        if row[1] != BASELINE and other is not None:
            pairs.setdefault(row[1], []).append(100 * (one.accuracy - other.accuracy))
    return {name: difference(values) for name, values in pairs.items()}


def draw(output: Path, sweeps: dict[str, Path]) -> None:
    """Draw all panels over one axis of recipes."""
    mpl.rcParams.update({"svg.hashsalt": "fedha", "svg.fonttype": "none", "font.size": 11})
    found = {title: differences(path) for title, path in sweeps.items()}
    names = list(dict.fromkeys(name for one in found.values() for name in one))[::-1]
    figure, panels = plt.subplots(
        1, len(found), figsize=(2.6 * len(found) + 1, 0.3 * len(names) + 1.2), sharey=True, layout="constrained"
    )
    for panel, (title, rows) in zip(panels, found.items(), strict=True):
        panel.axvline(0, color="#303338", linewidth=1)
        for place, name in enumerate(names):
            if (one := rows.get(name)) is None:
                continue
            low, high = one.low or one.mean, one.high or one.mean
            color = BETTER if low > 0 else WORSE if high < 0 else SAME
            panel.plot([low, high], [place, place], color=color, linewidth=2)
            panel.plot(one.mean, place, "o", color=color, markersize=5)
        panel.set(title=title, yticks=range(len(names)), yticklabels=names)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", alpha=0.25)
    figure.supxlabel("unseen target: points more than ERM", fontsize=11)
    figure.savefig(output, format="svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), {title: Path(path) for title, _, path in (one.partition("=") for one in sys.argv[2:])})
