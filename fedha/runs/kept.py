"""The models of single rounds that stay beside the last one's: those that a rule selects, or every k-th."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedha.errors import FedhaError, listed
from fedha.metrics.choice import Choice
from fedha.runs import runfolder
from fedha.runs.files import MODEL, MODELS
from fedha.runs.selection import ACCURACY, RULES, scores
from fedha.schema import nearest

if TYPE_CHECKING:
    from torch import Tensor

Record = Mapping[str, Any]

_NAME = re.compile(r"round-(\d+)\.safetensors")


@dataclass
class Kept:
    """Which rounds' models stay, as rounds go by.

    Attributes:
        folder: The run's.
        keep: As `checkpoint.keep` says.
        folds: Of each source, the rounds of the run without it.
        warmup: Rounds in which the recipe has not yet its own weight; a later one is better than all of these.
        by: What rules compare.
        constants: Where what never moves is kept for several runs, or None.
    """

    folder: Path
    keep: Literal["last", "best"] | int
    folds: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    warmup: int = 0
    by: Choice = ACCURACY
    constants: Path | None = None
    _best: dict[str, tuple[bool, float, int]] = field(default_factory=dict)  # by rule: after the warm-up, score, round

    def recall(self, records: Iterable[Record]) -> None:
        """Rounds that went by before the run was resumed; the models of later ones are removed."""
        last = 0
        for one in records:
            last = int(one["round"])
            self._takes(one)
        self._remove(one for one in rounds(self.folder) if one > last)

    def after(self, record: Record, state: "Mapping[str, Tensor]", kinds: Mapping[str, str]) -> None:
        """Keep the model of a round that was evaluated, where a rule takes it, and remove those that none takes now.

        Args:
            record: The round, with all its numbers.
            state: The whole model after it.
            kinds: What becomes of its parts.
        """
        if self._takes(record):
            self._write(record["round"], state, kinds)
            best = {number for *_, number in self._best.values()}
            self._remove(one for one in rounds(self.folder) if one not in best)

    def each(self, number: int, state: "Callable[[], Mapping[str, Tensor]]", kinds: Mapping[str, str]) -> None:
        """Keep the model of any round, where it is a k-th one; `state` gives it."""
        if isinstance(self.keep, int) and number % self.keep == 0:
            self._write(number, state(), kinds)

    def _write(self, number: int, state: "Mapping[str, Tensor]", kinds: Mapping[str, str]) -> None:
        runfolder.make_folder(self.folder / MODELS)
        runfolder.write_model(self.folder, state, kinds, name_of(number), self.constants)

    def _takes(self, record: Record) -> bool:
        """Whether a rule takes a round, for now."""
        if self.keep != "best":
            return False
        number = int(record["round"])
        found, folds = False, {name: [rows[number]] for name, rows in self._by_round.items() if number in rows}
        for rule, (score,) in ((rule, one.values()) for rule, one in scores([record], folds, self.by).items()):
            if rule == "final" or (rule == "leave_one_domain_out" and len(folds) < len(self.folds)):
                continue
            now = number > self.warmup, score
            if rule not in self._best or now > self._best[rule][:2]:
                self._best[rule], found = (*now, number), True
        return found

    @cached_property
    def _by_round(self) -> dict[str, dict[int, Record]]:
        return {name: {int(one["round"]): one for one in records} for name, records in self.folds.items()}

    def _remove(self, some: Iterable[int]) -> None:
        for one in some:
            (self.folder / name_of(one)).unlink(missing_ok=True)


def name_of(number: int) -> str:
    """What the model of a round is called in the run's folder."""
    return f"{MODELS}/round-{number:06d}.safetensors"


def rounds(folder: Path) -> list[int]:
    """The rounds whose models are in a run's folder."""
    found = (_NAME.fullmatch(path.name) for path in (folder / MODELS).glob("round-*.safetensors"))
    return sorted(int(one[1]) for one in found if one is not None)


def model_of(folder: Path, results: Record, rule: str = "final", number: int | None = None) -> str:
    """The file of a finished run's model at the round that a rule selects, or at this round.

    Args:
        folder: The run's.
        results: Its results.json.
        rule: A key of `RULES`.
        number: The round; None: the rule says.

    Raises:
        FedhaError: There is no such rule or round, or its model was not kept.
    """
    number = round_of(folder, results, rule) if number is None else number
    if not 1 <= number <= results["rounds"]:
        raise FedhaError(f"there is no round {number} in {folder}; its rounds are 1 to {results['rounds']}")
    if number == results["rounds"]:
        return MODEL
    if number not in rounds(folder):
        there = listed([*rounds(folder), results["rounds"]])
        raise FedhaError(
            f"the model of round {number} of {folder} was not kept, only of {there}; set checkpoint.keep to best, or "
            f"to a number that divides {number}, and train again"
        )
    return name_of(number)


def round_of(folder: Path, results: Record, rule: str) -> int:
    """The round of a finished run that a rule selects; arguments and errors as in `model_of`."""
    if rule not in RULES:
        raise FedhaError(f"there is no rule {rule!r}{nearest(rule, RULES)}")
    chosen = {"final": {"round": results["rounds"]}, **(results.get("selection") or {})}
    if not chosen.get(rule):
        raise FedhaError(f"the run in {folder} has no round by rule {rule!r}, only by {', '.join(chosen)}")
    return int(chosen[rule]["round"])
