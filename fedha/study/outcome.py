"""What a privacy study found: its tables, and which statistic leaks most for the accuracy that it buys."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fedha.audit.attacks import ATTACKS
from fedha.recipes import row
from fedha.report.formats import Cell, Column, Summary, Table, summarized
from fedha.study.cells import Cell as StudyCell
from fedha.study.cells import noise_text
from fedha.study.points import WHOSE, Point, advantage

BASELINE = "erm"
LEAST_GAIN = 1.0  # points of accuracy over the baseline that count as a gain
SHOWN = {
    "labels": "label counts",
    "feature": "features",
    "tracing": "membership, sent",
    "membership": "membership, model",
}
"""Families of attacks as columns of the table, by what their attacks' names begin with."""

# What each attack reads beside the update, which every recipe sends.
_READS = {
    "labels_hessian": "the Hessian's diagonal",
    "labels_variance": "the gradient's variance",
    "feature_moments": "the Hessian's diagonal",
    "tracing_diagonal": "the Hessian's diagonal",
    "tracing_feature_mean": "the feature mean",
}


@dataclass(frozen=True)
class Group:
    """The runs that differ by the seed alone.

    Attributes:
        recipe: Their recipe.
        noise: Their noise multiplier; None for none.
        aggregation: plain or secure.
        points: One a seed.
    """

    recipe: str
    noise: float | None
    aggregation: str
    points: tuple[Point, ...]

    @property
    def epsilon(self) -> float:
        """The largest of any seed."""
        return max(one.epsilon for one in self.points)

    @property
    def sound(self) -> list[Point]:
        """Those whose training did not diverge."""
        return [one for one in self.points if not one.diverged]

    @property
    def accuracy(self) -> Summary | None:
        """On the target, percent."""
        return summarized([100 * one.accuracy for one in self.sound if one.accuracy is not None])

    @property
    def sources(self) -> Summary | None:
        """On what the sources hold out, percent."""
        return summarized([100 * one.sources for one in self.sound if one.sources is not None])

    def success(self, family: str, whose: str) -> Summary | None:
        """How far beyond the guess the best attack of a family comes, in points.

        Best is the attack with the highest mean over the seeds, so that no seed chooses its own.
        """
        attacks = [key for key in ATTACKS if key.startswith(f"{family}_")]
        found = [self.advantages(key, whose) for key in attacks]
        best = max((one for one in found if one), key=statistics.fmean, default=[])
        return summarized([100 * one for one in best])

    def advantages(self, attack: str, whose: str) -> list[float]:
        """One a seed on which the attack ran."""
        successes = [one.attacks.get(attack, {}).get(whose) for one in self.points]
        return [far for one in successes if one is not None and (far := advantage(attack, one)) is not None]

    @property
    def worst(self) -> tuple[float, str] | None:
        """The attack that comes furthest beyond its guess, on clients or on the aggregate, and how far: 0 to 1."""
        means = [
            (statistics.fmean(found), attack)
            for attack in ATTACKS
            for whose in WHOSE
            if (found := self.advantages(attack, whose))
        ]
        return max(means, default=None)


def grouped(points: Sequence[Point]) -> list[Group]:
    """Points by all but the seed, in the order of the first of each."""
    found: dict[tuple[str, float | None, str], list[Point]] = {}
    for one in points:
        found.setdefault((one.recipe, one.noise, one.aggregation), []).append(one)
    return [Group(*key, tuple(members)) for key, members in found.items()]


def study_table(groups: Sequence[Group], refused: Sequence[StudyCell] = ()) -> Table:
    """Every recipe, noise and aggregation in a row: accuracy, epsilon, and how far each family of attacks came."""
    columns = [Column("recipe"), Column("noise"), Column("sums"), Column("seeds", number=True)]
    columns += [Column("ε", number=True), Column("sources %", "held out", number=True)]
    columns.append(Column("target %", number=True))
    wanted: list[tuple[str, str]] = []
    for family, title in SHOWN.items():
        for whose in WHOSE:
            if any(one.success(family, whose) is not None for one in groups):
                wanted.append((family, whose))
                columns.append(Column(f"{title}: {whose}", "points beyond the guess", number=True))
    rows: list[tuple[Cell, ...]] = []
    for one in groups:
        what = (one.recipe, noise_text(one.noise), one.aggregation, str(len(one.points)))
        seen = (one.sources, one.accuracy) if one.sound else ("diverged", "diverged")
        rows.append((*what, _epsilon(one.epsilon), *seen, *(one.success(*key) for key in wanted)))
    notes = [
        "Points beyond the guess: 0 is what who reads nothing gets; of each family the attack that comes furthest. For "
        "shares and similarities the difference, for areas under a ROC curve twice it, for errors the part of the "
        "guess's error that is gone. ε: the largest that a client spent; ∞ without noise.",
        "Sources: the audit computes it from the final model, no client needs to have sent it. Read the target beside "
        "it: where noise has left a model that guesses, both are what a guess gets.",
        *_diverged(groups),
        *_left_out(refused),
    ]
    return Table(
        "Target accuracy, epsilon and what attacks gain; final round", tuple(columns), tuple(rows), tuple(notes)
    )


def _diverged(groups: Sequence[Group]) -> list[str]:
    """A sentence a run."""
    return [
        f"{run.recipe} (noise {noise_text(run.noise)}, {run.aggregation}), seed {run.seed}: diverged and is in no mean "
        f"of accuracies: {run.diverged}."
        for group in groups
        for run in group.points
        if run.diverged
    ]


def _left_out(refused: Sequence[StudyCell]) -> list[str]:
    """A sentence a reason."""
    reasons: dict[str, dict[str, None]] = {}
    for one in refused:
        whose = f"{one.recipe} (noise {noise_text(one.noise)}, {one.aggregation})"
        reasons.setdefault(one.refused, {})[whose] = None
    return [f"Left out, because {reason}: {', '.join(whose)}." for reason, whose in reasons.items()]


def leak_table(groups: Sequence[Group]) -> Table | None:
    """What each recipe's statistics give away beyond ERM's update, beside the accuracy that they buy; None without ERM.

    Of runs without noise and with plain sums: what protects comes after what leaks.
    """
    plain = {one.recipe: one for one in groups if one.noise is None and one.aggregation == "plain"}
    base = plain.pop(BASELINE, None)
    if base is None or base.accuracy is None or not plain:
        return None
    found = []
    for one in plain.values():
        if one.accuracy is None:
            continue
        gain = one.accuracy.mean - base.accuracy.mean
        leak, attack = _furthest(one, base)
        found.append((leak / gain if gain >= LEAST_GAIN else math.inf, one.recipe, gain, leak, attack))
    if not found:
        return None
    heads = ("recipe", "sends beside the update", "target, points over erm", "leaks most through", "points of leak")
    columns = tuple(Column(head, number="point" in head) for head in (*heads, "leak a point of gain"))
    rows: list[tuple[Cell, ...]] = [
        (
            recipe,
            _sent(recipe),
            f"{gain:+.1f}",
            f"{ATTACKS[attack].title} ({_READS.get(attack, 'the gradient or the update')})" if attack else None,
            f"{leak:+.1f}",
            f"{rate:.2f}" if math.isfinite(rate) else None,
        )
        for rate, recipe, gain, leak, attack in sorted(found, key=lambda one: -one[0])
    ]
    said = _said(found)
    notes = ("Points of leak: how much further beyond its guess an attack on single clients comes than on erm.", said)
    return Table("What leaks most for the generalization it buys", columns, tuple(rows), notes)


def _furthest(one: Group, base: Group) -> tuple[float, str]:
    """The attack on clients that gains the most over the same family's on ERM, in points."""
    found = []
    for attack in ATTACKS:
        own = one.advantages(attack, "clients")
        if own:
            before = base.success(attack.partition("_")[0], "clients")
            found.append((100 * statistics.fmean(own) - (before.mean if before else 0.0), attack))
    return max(found, default=(0.0, ""))


def _said(found: Sequence[tuple[float, str, float, float, str]]) -> str:
    buying = [one for one in found if math.isfinite(one[0])]
    if not buying:
        return f"No recipe gained {LEAST_GAIN:g} point on the target here, so no leak bought anything."
    _, recipe, gain, leak, _ = max(buying)
    return f"Among those that gain, {recipe} leaks most for it: {leak:+.1f} points for {gain:+.1f} points of accuracy."


def _sent(recipe: str) -> str:
    found = row(recipe)
    names = [] if found is None else [name for group in found.measurements() for name in group]
    return ", ".join(name.replace("_", " ") for name in names) or "–"


def _epsilon(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.3g}"
