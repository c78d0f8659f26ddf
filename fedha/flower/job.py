"""One run as the server knows it."""

from dataclasses import dataclass
from pathlib import Path

from fedha.config import Config
from fedha.diagnosis.settings import Asked


@dataclass(frozen=True)
class Job:
    """One run as the server knows it.

    Attributes:
        config: One recipe, one seed.
        folder: The run's folder.
        left_out: A source that this run leaves out and is tested on, for leave-one-domain-out selection; or None.
        target_root: In a deployment, the server's folder of the target's data; None: data.root.
        start: In a deployment, where model.start lies among the server's runs; None: where it says.
        diagnose: What is asked about the finished run; None: it is trained.
        constants: Where what of its network never moves is kept for several runs; None: in its own folder.
    """

    config: Config
    folder: Path
    left_out: str | None = None
    target_root: Path | None = None
    start: Path | None = None
    diagnose: Asked | None = None
    constants: Path | None = None


def fold_folder(folder: Path, left_out: str) -> Path:
    """Where the run without one source is written."""
    return folder / "folds" / left_out
