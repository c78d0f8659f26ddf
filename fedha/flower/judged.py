"""How a run is judged round by round: its records' metrics, whether training ends for them, and which models stay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedha.config import Config
from fedha.metrics.asked import asked
from fedha.metrics.values import as_recorded
from fedha.runs import runfolder
from fedha.runs.kept import Kept
from fedha.runs.stopping import Patience

Record = dict[str, Any]


@dataclass
class Judged:
    """What the server makes of evaluations.

    Attributes:
        config: One recipe, one seed.
        classes: C.
        warmup: Rounds in which the recipe has not yet its own weight.
        kept: Which models stay.
        patience: Whether training goes on.
        pooled: What was last counted of each part's domains: what intervals are made of.
    """

    config: Config
    classes: int
    warmup: int
    kept: Kept
    patience: Patience
    pooled: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        evaluation = self.config.evaluation
        self.wanted = bool(evaluation.metrics or evaluation.groups)
        self.asked = asked(evaluation.metrics, evaluation.groups or "", self.classes)

    def recorded(self, part: str, domains: Mapping[str, Any]) -> dict[str, Any]:
        """The domains of a part as a record has them.

        Args:
            part: target, held_out or train.
            domains: What was counted of each.
        """
        self.pooled[part] = domains
        return {name: as_recorded(one, self.config.evaluation.metrics) for name, one in domains.items()}

    def with_intervals(self, part: str, domains: Mapping[str, Any]) -> dict[str, Any]:
        """The same as results have it: with intervals where metrics are asked for, and no noise is on the numbers."""
        metrics, noisy = self.config.evaluation.metrics, self.config.privacy.protect == "examples"
        seed = None if not metrics or (noisy and part == "held_out") else self.config.seed[0]
        return {name: as_recorded(one, metrics, seed=seed) for name, one in domains.items()}

    def recall(self, records: Sequence[Record]) -> str:
        """The rounds before a run was resumed; why training ended with them, or ""."""
        self.kept.recall(records)
        for one in records:
            self.patience = self.patience.after(one)
        return self.patience.ended

    def after(self, record: Record, state: Mapping[str, Any], kinds: Mapping[str, str]) -> str:
        """A round that has been evaluated: its model stays or not. Why training ends with it, or "".

        Args:
            record: With all its numbers.
            state: The model after it.
            kinds: What becomes of its parts.
        """
        self.kept.after(record, state, kinds)
        self.patience = self.patience.after(record)
        return self.patience.ended


def judged(job: Any, classes: int, warmup: int, names: Sequence[str], fold_folder: Any) -> Judged:
    """How a run is judged.

    Args:
        job: The run; the model of a fold is nobody's.
        classes: C.
        warmup: As in `Judged`.
        names: Of the sources.
        fold_folder: Where the run without one of them is, by the run's folder and the source.
    """
    config: Config = job.config
    keep = config.checkpoint.keep if job.left_out is None else "last"
    folds: dict[str, list[dict[str, Any]]] = {}
    if keep == "best" and config.evaluation.leave_one_domain_out:
        folds = {name: runfolder.read_metrics(fold_folder(job.folder, name)) for name in names}
    kept = Kept(job.folder, keep, folds, warmup, config.evaluation.select_by.choice, job.constants)
    return Judged(config, classes, warmup, kept, Patience(config.training.stop, warmup))
