"""What one finished and audited run of a study says, in a few numbers."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedha.audit import record
from fedha.audit.attacks import ATTACKS
from fedha.audit.findings import Finding
from fedha.errors import FedhaError
from fedha.report.accuracies import target_accuracy
from fedha.runs import runfolder
from fedha.study.cells import Cell

WHOSE = ("clients", "aggregate")


@dataclass(frozen=True)
class Success:
    """How one attack did on one run, means over releases.

    Attributes:
        value: In the attack's own measure.
        guess: What who reads nothing gets, measured alike; None where there is no guess.
    """

    value: float
    guess: float | None


@dataclass(frozen=True)
class Point:
    """A run of a study.

    Attributes:
        recipe: Its name.
        noise: The noise multiplier; None for none.
        aggregation: plain or secure.
        seed: The run's.
        epsilon: The largest that any client spent; infinite without noise.
        accuracy: On the target, final round, 0 to 1; None where the run has no target.
        attacks: By attack, on single clients and on the aggregate, where they ran.
        sources: Accuracy on what the sources hold out, 0 to 1; None where that is nothing or was not computed.
        diverged: Why the run's accuracies are in no mean; "" where they are.
    """

    recipe: str
    noise: float | None
    aggregation: str
    seed: int
    epsilon: float
    accuracy: float | None
    attacks: Mapping[str, Mapping[str, Success]]
    sources: float | None = None
    diverged: str = ""


def read_point(cell: Cell, folder: Path) -> Point:
    """Read a cell's run and audit.

    Raises:
        FedhaError: One is missing or damaged, or the run has noise but no account of it.
    """
    results = runfolder.read_results(folder)
    epsilon = epsilon_of(results, runfolder.read_metrics(folder))
    if cell.noise is not None and epsilon is None:
        raise FedhaError(
            f"noise {cell.noise:g} was asked for, but neither the run's results nor its rounds say what epsilon was "
            "spent, so nothing is known of its protection"
        )
    audited = record.read(folder)
    found = audited.run.found
    attacks = {key: success for key in ATTACKS if (success := _by_whose(one for one in found if one.attack == key))}
    what = (cell.recipe, cell.noise, cell.aggregation, cell.seed)
    spent = math.inf if epsilon is None else epsilon
    sources, wrong = audited.made.get("sources_accuracy"), results.get("diverged", "")
    return Point(*what, spent, target_accuracy()(results), attacks, sources, wrong)


def epsilon_of(results: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> float | None:
    """What a run has spent: the most of any client, from its results or else its last round; None: not said."""
    last = records[-1] if records else {}
    for told in ((results.get("privacy") or {}).get("epsilon"), results.get("epsilon"), last.get("epsilon")):
        values = list(told.values()) if isinstance(told, Mapping) else [told]
        numbers = [float(one) for one in values if isinstance(one, int | float)]
        if numbers:
            return max(numbers)
    return None


def advantage(attack: str, success: Success) -> float | None:
    """How far beyond a guess an attack comes, from 0 (no better) to 1; None for what has no such scale.

    A share or a similarity v with guess g has ``v - g``; an area ``2 v - 1``; an error v the share ``1 - v / g`` of the
    guess's error that it does without. Dividing by what the guess leaves, ``1 - g``, would make noise of small rests.
    """
    kind, value, guess = ATTACKS[attack], success.value, success.guess
    if guess is None or kind.unit == "dB" or not math.isfinite(value):
        return None
    if kind.lower_is_better:
        return max(0.0, 1 - value / guess) if guess > 0 else None
    return max(0.0, 2 * value - 1 if kind.measure == "AUC" else value - guess)


def _by_whose(found: Iterable[Finding]) -> dict[str, Success]:
    scored = [one for one in found if one.value is not None and math.isfinite(one.value)]
    groups = {
        "clients": [one for one in scored if one.client is not None],
        "aggregate": [one for one in scored if one.client is None],
    }
    return {whose: _mean(group) for whose, group in groups.items() if group}


def _mean(group: Sequence[Finding]) -> Success:
    guesses = [one.baseline for one in group if one.baseline is not None]
    value = statistics.fmean(one.value for one in group if one.value is not None)
    return Success(value, statistics.fmean(guesses) if guesses else None)
