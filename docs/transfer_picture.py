"""The picture of several sweeps' diagnoses: accuracy at the worst heads against the radius, a line a recipe.

python docs/transfer_picture.py docs/images/transferability.svg TITLE=SWEEP/TARGET...

Above the target, below the sources' mean, a column each, with the recipes of the first one, of the runs that `fedha
diagnose SWEEP --rows transfer` looked at. Published so by Zhang, Zhao, Yu and Poupart (NeurIPS 2021, figure 3).
"""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from fedha.diagnosis import record
from fedha.report.diagnosis.recipes import Curves, curves, means, plot
from fedha.sweep.found import read_found


def read(sweep: Path) -> Curves:
    """What there is of a sweep's diagnoses."""
    found = read_found([sweep])
    places = [found.places[one.name] for one in found.jobs if one.name in found.places]
    known = curves([record.read(one) for one in places if record.exists(one)])
    if known is None:
        raise SystemExit(f"{sweep} has no diagnoses of two recipes; begin with: fedha diagnose {sweep} --rows transfer")
    return known


def draw(output: Path, columns: dict[str, Path]) -> None:
    """Draw all columns, targets above and sources below."""
    mpl.rcParams.update({"svg.hashsalt": "fedha", "svg.fonttype": "none", "font.size": 11})
    size = (2.6 * len(columns) + 1.8, 5.2)
    figure, panels = plt.subplots(2, len(columns), figsize=size, sharex=True, layout="constrained", squeeze=False)
    found = {title: read(path.parent) for title, path in columns.items()}
    names = list(found[next(iter(columns))].of[next(iter(columns.values())).name])
    for (title, path), (above, below) in zip(columns.items(), panels.T, strict=True):
        known = found[title]
        for axes, kind in ((above, "target"), (below, "sources")):
            own = known.of[path.name]
            plot(axes, known, {one: means(getattr(own[one], kind)) if one in own else [] for one in names})
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
            axes.set_xticks(known.radii, [f"{one:g}" for one in known.radii])
        above.set_title(title)
    panels[0][0].set_ylabel("unseen target, %")
    panels[1][0].set_ylabel("sources' mean, %")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.supxlabel(f"radius, {known.unit}", fontsize=11)
    figure.savefig(output, format="svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), {title: Path(path) for title, _, path in (one.partition("=") for one in sys.argv[2:])})
