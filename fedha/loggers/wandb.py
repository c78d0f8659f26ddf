"""Weights & Biases: offline, in each run's folder, unless ``WANDB_MODE`` says otherwise; ``wandb sync`` sends it."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from fedha.config import Config
from fedha.loggers.numbers import chosen, scalars
from fedha.runs import folders, own_files
from fedha.runs.wording import run_title

FOLDER = "wandb"


class WeightsAndBiases:
    """Writes what ``wandb sync`` sends, or sends it where ``WANDB_MODE=online``."""

    def __init__(self) -> None:
        self._run: Any = None
        self._round = 0

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        """Begin a run of the project that the config names; one that goes on has the same number."""
        self.close()
        own_files.claim(folder, f"{FOLDER}/")
        self._run = wandb.init(
            project=folders.folder_name(config.name),
            name=run_title(config),
            id=hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16],
            resume="allow" if first_round > 1 else None,
            dir=folder,
            config=config.model_dump(mode="json"),
            mode=None if "WANDB_MODE" in os.environ else "offline",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
        )

    def round_done(self, record: Mapping[str, Any]) -> None:
        """Log a round's numbers."""
        self._round = int(record["round"])
        if self._run is not None:
            self._run.log(scalars(record), step=self._round)

    def finished(self, results: Mapping[str, Any]) -> None:
        """Keep what the rules chose in the run's summary, and end it."""
        if self._run is not None:
            self._run.summary.update(chosen(results))
            self._run.finish(exit_code=0)
        self._run = None

    def note(self, text: str) -> None:
        """Keep the last one in the run's summary."""
        if self._run is not None:
            self._run.summary["note"] = text

    def close(self) -> None:
        """End a run that was stopped."""
        if self._run is not None:
            self._run.finish(exit_code=1)
        self._run = None
