"""TensorBoard: a folder ``tensorboard`` in each run's own; ``tensorboard --logdir runs`` shows them side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from fedha.config import Config, to_yaml
from fedha.loggers.numbers import chosen, scalars
from fedha.runs import own_files

FOLDER = "tensorboard"


class TensorBoard:
    """Writes event files."""

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None
        self._round = 0

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        """Open the run's event file; what an earlier start wrote beyond this round is not drawn."""
        self.close()
        own_files.claim(folder, f"{FOLDER}/")
        self._writer = SummaryWriter(folder / FOLDER, purge_step=first_round if first_round > 1 else None)
        self._writer.add_text("config", f"```yaml\n{to_yaml(config)}```")
        self._writer.flush()

    def round_done(self, record: Mapping[str, Any]) -> None:
        """Draw a round's numbers."""
        self._round = int(record["round"])
        self._add(scalars(record))

    def finished(self, results: Mapping[str, Any]) -> None:
        """Draw what the rules chose, at the last round."""
        self._add(chosen(results))
        self.close()

    def note(self, text: str) -> None:
        """Keep it as a text."""
        if self._writer is not None:
            self._writer.add_text("notes", text, self._round)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def _add(self, numbers: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, self._round)
            self._writer.flush()
