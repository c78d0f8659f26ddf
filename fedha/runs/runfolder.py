"""The files of a run: what they are called and what they hold."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedha import config as configs
from fedha.atomic import finite, write_bytes, write_json, write_text
from fedha.config import Config
from fedha.errors import FedhaError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "MetricsLog",
    "create",
    "holds_run",
    "is_finished",
    "make_folder",
    "occupied",
    "read_metrics",
    "read_model",
    "read_results",
    "write_bytes",
    "write_json",
    "write_model",
    "write_text",
]

CONFIG = "config.yaml"
EXPERIMENT = "experiment.yaml"  # in the common folder of several runs: the config that makes them all
METRICS = "metrics.jsonl"
MODEL = "model.safetensors"
RESULTS = "results.json"
FOLD = "fold.json"  # in its place where a source was left out: its target is no target
REPORT = "report.html"
AUDIT = "audit.json"  # made by `fedha audit`
SPENDING = "privacy.json"  # what was released, where noise is never the same again: a checkpoint would forget rounds
ERROR = "error.txt"  # the traceback, after an error that nobody expected
CHECKPOINT = "checkpoint"  # a folder
SENT = "sent"  # a folder: what was sent, where `fedha audit --keep` left it
FOLDS = "folds"  # a folder: the runs without one source each, for leave-one-domain-out selection
FILES = (CONFIG, EXPERIMENT, METRICS, MODEL, RESULTS, FOLD, REPORT, AUDIT, ERROR, SPENDING)


def create(folder: Path, config: Config, *, resume: bool = False) -> None:
    """Make a run's folder and write its config.

    Args:
        folder: The run's folder; made with its parents where missing.
        config: A single run: one recipe, one seed.
        resume: Whether the folder may hold this run already; its config.yaml then stays as it is.

    Raises:
        FedhaError: The folder holds a run and resume is False, or it cannot be made.
    """
    if not holds_run(folder):
        write_text(make_folder(folder) / CONFIG, configs.to_yaml(config))
    elif not resume:
        raise occupied(folder)


def make_folder(folder: Path) -> Path:
    """Make a folder with its parents where missing, and return it.

    Raises:
        FedhaError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FedhaError(f"cannot make the folder {folder}: {error.strerror}; choose another with --out") from error
    return folder


def holds_run(folder: Path) -> bool:
    """Whether a run was started in this folder."""
    return (folder / CONFIG).is_file()


def is_finished(folder: Path) -> bool:
    """Whether the folder's run came to its end."""
    return _results(folder).is_file()


def occupied(folder: Path) -> FedhaError:
    """The error for a folder that holds a run where a new one was to go."""
    return FedhaError(
        f"{folder} already holds a run; continue it with `fedha resume {folder}`, choose another folder with --out, "
        "or replace it with --overwrite"
    )


class MetricsLog:
    """The file metrics.jsonl of a run that is going on: one JSON object a line, a line a round."""

    def __init__(self, folder: Path) -> None:
        """Continue the folder's file, or start it. What a crash left of a line that was being written is removed."""
        self.path = folder / METRICS
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            self._rewrite(read_metrics(folder))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a round's line; numbers that are not finite become null.

        Raises:
            FedhaError: The file cannot be written.
        """
        try:
            with self.path.open("ab") as file:
                file.write(_line(record).encode("utf-8"))
        except OSError as error:
            raise FedhaError(f"cannot write {self.path}: {error.strerror}; free some space and resume") from error

    def truncate_after(self, round: int) -> None:
        """Keep the rounds up to and including this one: those after the checkpoint will be run again."""
        if self.path.exists():
            self._rewrite([record for record in read_metrics(self.path.parent) if record["round"] <= round])

    def _rewrite(self, records: list[dict[str, Any]]) -> None:
        write_text(self.path, "".join(_line(record) for record in records))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rounds of a run so far, in order; a last line without its end (a crash, or a run going on) is left out.

    Raises:
        FedhaError: A line in the middle is damaged, or the file cannot be read.
    """
    path = folder / METRICS
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise FedhaError(f"cannot read {path}: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            records.append({**record, "round": int(record["round"])})
        except (ValueError, KeyError, TypeError) as error:
            raise FedhaError(f"line {number} of {path} is no record of a round ({error}); remove the line") from error
    return records


def read_results(folder: Path) -> dict[str, Any]:
    """The final numbers of a run.

    Raises:
        FedhaError: The run has not finished, or its results.json is damaged.
    """
    path = _results(folder)
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise FedhaError(f"the run in {folder} has not finished; continue it with: fedha resume {folder}") from error
    except (OSError, ValueError) as error:
        raise FedhaError(f"cannot read {path} ({error}); delete it and resume the run") from error
    if not isinstance(content, dict):
        raise FedhaError(f"{path} holds a {type(content).__name__}, not an object; delete it and resume the run")
    return content


def _results(folder: Path) -> Path:
    return folder / (FOLD if (folder / FOLD).is_file() else RESULTS)


def write_model(folder: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write named tensors as the run's model.safetensors."""
    from safetensors.torch import save

    write_bytes(folder / MODEL, save({name: one.detach().cpu().contiguous().clone() for name, one in tensors.items()}))


def read_model(folder: Path) -> "dict[str, Tensor]":
    """Read what `write_model` wrote.

    Raises:
        FedhaError: The file is missing or is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / MODEL
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise FedhaError(f"cannot read the model {path}: {error.strerror}; has the run finished?") from error
    except SafetensorError as error:
        raise FedhaError(f"{path} is no safetensors file ({error}); resume or repeat the run") from error


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n"
