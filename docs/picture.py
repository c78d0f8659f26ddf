"""The README's picture: accuracy over rounds of the quickstart's two recipes, mean and spread over seeds.

python docs/picture.py runs/quickstart docs/images/quickstart.svg
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from fedha.runs.runfolder import read_metrics

TITLES = {"erm": "FedAvg (ERM)", "hgp": "Hessian alignment (HGP)"}
CURVES = {"sources, held out": "#4878a8", "unseen target": "#c44e34"}


def curve(records: list[dict[str, Any]], part: str) -> list[float]:
    """Mean accuracy over a part's domains, in percent, each evaluated round."""
    chosen = [record[part].values() for record in records if part in record]
    return [100 * sum(one["accuracy"] for one in domains) / len(domains) for domains in chosen]


def draw(runs: Path, output: Path) -> None:
    """Draw every run below a folder, a panel a recipe."""
    mpl.rcParams.update({"svg.hashsalt": "fedha", "svg.fonttype": "none", "font.size": 11})
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for panel, (recipe, title) in zip(panels, TITLES.items(), strict=True):
        seeds = [read_metrics(folder) for folder in sorted(runs.glob(f"{recipe}-seed*"))]
        rounds = [record["round"] for record in seeds[0] if "target" in record]
        for (label, color), part in zip(CURVES.items(), ("held_out", "target"), strict=True):
            values = np.array([curve(records, part) for records in seeds])
            mean, spread = values.mean(0), values.std(0, ddof=1)
            panel.plot(rounds, mean, color=color, linewidth=2.2)
            panel.fill_between(rounds, mean - spread, mean + spread, color=color, alpha=0.18, linewidth=0)
            panel.text(rounds[-1] + 3, mean[-1], f"{mean[-1]:.0f} %\n{label}", color=color, va="center", fontsize=10)
        panel.set(
            title=title, xlabel="round", xlim=(0, rounds[-1] * 1.42), ylim=(0, 100), xticks=range(0, rounds[-1] + 1, 50)
        )
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.25)
    panels[0].set_ylabel("accuracy, %")
    figure.savefig(output, format="svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
