"""The files of a run: what they are called and what they hold."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedha import __version__, atomic
from fedha import config as configs
from fedha.atomic import finite
from fedha.config import Config
from fedha.errors import FedhaError, UnwrittenError, brief
from fedha.jsonfile import parse_json
from fedha.runs import own_files
from fedha.runs.files import (
    AUDIT,
    CONFIG,
    ERROR,
    EXPERIMENT,
    FOLD,
    FOLDS,
    METRICS,
    MODEL,
    REPORT,
    RESULTS,
    RUN,
    SPENDING,
    STATE,
    typed,
)
from fedha.runs.shapes import wrong_line, wrong_results

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "AUDIT",
    "CONFIG",
    "ERROR",
    "EXPERIMENT",
    "FOLD",
    "FOLDS",
    "METRICS",
    "MODEL",
    "REPORT",
    "RESULTS",
    "SPENDING",
    "MetricsLog",
    "check_new",
    "clear_leftovers",
    "create",
    "has_begun",
    "holds_run",
    "is_finished",
    "make_folder",
    "occupied",
    "read_changes",
    "read_metrics",
    "read_model",
    "read_results",
    "write_model",
]


_FEDHA, _FORM = "fedha", 1  # the entry of a model's metadata, and its form
_PART = 2  # the form of one that has what was trained alone, and names the file of the rest


def create(folder: Path, config: Config, *, resume: bool = False) -> None:
    """Make a run's folder and write its config.

    Args:
        folder: The run's folder; made with its parents where missing.
        config: A single run: one recipe, one seed.
        resume: Whether the folder may hold this run already; its config.yaml then stays as it is.

    Raises:
        FedhaError: The folder holds a run and resume is False, or files of others where the run would write, or it
            cannot be made.
    """
    if not holds_run(folder):
        check_new(folder)
        own_files.write_text(make_folder(folder), CONFIG, configs.to_yaml(config))
    elif resume:
        own_files.claim(folder, CONFIG)
    else:
        raise occupied(folder)


def check_new(folder: Path) -> None:
    """Whether a new run can be written into a folder, which need not be there.

    Raises:
        FedhaError: It holds a run, or something of another's that the run would write over.
    """
    if holds_run(folder):
        raise occupied(folder)
    own_files.check_free(folder, RUN)


def make_folder(folder: Path) -> Path:
    """Make a folder with its parents where missing, and return it.

    Raises:
        FedhaError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnwrittenError(f"cannot make the folder {folder}: {error.strerror}; choose another with --out") from error
    return folder


def holds_run(folder: Path) -> bool:
    """Whether fedha started a run in this folder.

    Raises:
        FedhaError: Nobody can look, such as for its name is too long; or its list of files is damaged.
    """
    try:
        has_config = (folder / CONFIG).is_file()
    except OSError as error:
        raise FedhaError(f"cannot look into the folder {folder}: {error.strerror}; choose another") from error
    return has_config and CONFIG in own_files.owned(folder)


def has_begun(folder: Path) -> bool:
    """Whether the folder's run, or one of its folds, has anything to show: a round, or what went wrong."""
    places = (folder, *(folder / FOLDS).glob("*/")) if holds_run(folder) else ()
    return any((place / name).exists() for place in places for name in (METRICS, STATE, SPENDING, ERROR, RESULTS))


def is_finished(folder: Path) -> bool:
    """Whether the folder's run came to its end."""
    return _results(folder).is_file() and holds_run(folder)


def occupied(folder: Path) -> FedhaError:
    """The error for a folder that holds a run where a new one was to go."""
    return FedhaError(
        f"{folder} already holds a run; continue it with `fedha resume {typed(folder)}`, choose another folder with "
        "--out, or replace it with --overwrite"
    )


def clear_leftovers(folder: Path) -> None:
    """Remove what writers of a run left that died in the middle of a file."""
    for place in (folder, (folder / STATE).parent):
        atomic.clear_leftovers(place, *(Path(name).name for name in RUN))


class MetricsLog:
    """The file metrics.jsonl of a run that is going on: one JSON object a line, a line a round.

    Where a run was resumed with another config, a line between two rounds says what changed.
    """

    def __init__(self, folder: Path) -> None:
        """Continue the folder's file, or start it. What a crash left of a line that was being written is removed."""
        self.path, self._claimed = folder / METRICS, False
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            self._rewrite(_read_lines(folder))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a round's line; numbers that are not finite become null.

        Raises:
            FedhaError: The file cannot be written, or is another's.
        """
        if not self._claimed:
            own_files.claim(self.path.parent, METRICS)
            self._claimed = True
        try:
            with self.path.open("ab") as file:
                file.write(_line(record).encode("utf-8"))
        except OSError as error:
            raise UnwrittenError(f"cannot write {self.path}: {error.strerror}; free some space and resume") from error

    def append_changes(self, first: int, changes: Mapping[str, Any]) -> None:
        """Add a line that says from which round on the run goes on with other settings.

        Args:
            first: That round.
            changes: By key, with dots: what it was and what it is now.
        """
        self.append({"from_round": first, "changes": changes})

    def truncate_after(self, round: int) -> None:
        """Keep the rounds up to and including this one: those after the checkpoint will be run again."""
        if self.path.exists():
            lines = _read_lines(self.path.parent)
            self._rewrite([one for one in lines if one["from_round" if "changes" in one else "round"] <= round])

    def _rewrite(self, records: list[dict[str, Any]]) -> None:
        atomic.write_text(self.path, "".join(_line(record) for record in records))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rounds of a run so far, in order; a last line without its end (a crash, or a run going on) is left out.

    Raises:
        FedhaError: A line in the middle is damaged, or the file cannot be read.
    """
    return [record for record in _read_lines(folder) if "round" in record]


def read_changes(folder: Path) -> list[dict[str, Any]]:
    """With which other settings a run was resumed, in order: ``{"from_round": …, "changes": {key: {was, now}}}``.

    Raises:
        FedhaError: As in `read_metrics`.
    """
    return [record for record in _read_lines(folder) if "changes" in record]


def _read_lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / METRICS
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise FedhaError(f"cannot read {path}: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = parse_json(line)
            if wrong := wrong_line(record):
                raise ValueError(wrong)
            records.append(record)
        except ValueError as error:
            raise FedhaError(
                f"line {number} of {path} is no record of a round ({brief(error)}); remove the line"
            ) from error
    return records


def read_results(folder: Path) -> dict[str, Any]:
    """The final numbers of a run.

    Raises:
        FedhaError: The run has not finished, or its results.json is damaged.
    """
    path = _results(folder)
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise FedhaError(
            f"the run in {folder} has not finished; continue it with: fedha resume {typed(folder)}"
        ) from error
    except (OSError, ValueError) as error:
        raise FedhaError(f"cannot read {path} ({brief(error)}); delete it and resume the run") from error
    if not isinstance(content, dict):
        raise FedhaError(f"{path} holds a {type(content).__name__}, not an object; delete it and resume the run")
    if wrong := wrong_results(content):
        raise FedhaError(
            f"{folder} does not hold a run of fedha: its {path.name} is foreign or damaged ({wrong}); delete it and "
            "resume the run"
        )
    return content


def _results(folder: Path) -> Path:
    return folder / (FOLD if (folder / FOLD).is_file() else RESULTS)


def write_model(
    folder: Path,
    state: "Mapping[str, Tensor]",
    kinds: Mapping[str, str] | None = None,
    name: str = MODEL,
    constants: Path | None = None,
) -> None:
    """Write a network's state as the run's model.safetensors, or as that of one of its rounds.

    Args:
        folder: The run's.
        state: All of it, by name.
        kinds: What became of each part in a round, for the file's metadata (`fedha.models.state`).
        name: The file's.
        constants: Where what never moves is kept for several runs (`fedha.runs.constants`); None: in the file.
    """
    from safetensors.torch import save

    from fedha.models.state import divided
    from fedha.runs.constants import keep

    told = {"form": _FORM, "version": __version__, "kinds": dict(kinds or {})}
    parts = divided(state, kinds or {})
    if (elsewhere := keep(constants, folder, parts.constants)) is not None:
        state = {**parts.trained, **parts.running}
        told |= {"form": _PART, "constants": elsewhere}
    own = {name: one.detach().cpu().contiguous().clone() for name, one in state.items()}
    own_files.write_bytes(folder, name, save(own, {_FEDHA: json.dumps(told)}))


def read_model(folder: Path, name: str = MODEL) -> "dict[str, Tensor]":
    """Read what `write_model` wrote; an earlier version wrote parameters alone.

    Raises:
        FedhaError: The file is missing, is no safetensors file, or was written by a later version.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / name
    try:
        if not path.is_file():
            path.read_bytes()  # says what is wrong
        with safe_open(path, framework="pt") as file:
            told = parse_json((file.metadata() or {}).get(_FEDHA, "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except OSError as error:
        raise FedhaError(f"cannot read the model {path}: {error.strerror}; has the run finished?") from error
    except (SafetensorError, ValueError) as error:
        raise FedhaError(f"{path} is no safetensors file ({brief(error)}); resume or repeat the run") from error
    if not isinstance(told, dict) or told.get("form", _FORM) not in (_FORM, _PART):
        raise FedhaError(f"{path} was written by another version of fedha ({str(told)[:80]}); install that one")
    if told.get("form") == _PART:
        from fedha.models.state import whole
        from fedha.runs import constants

        return whole(state | constants.read(path, folder, told.get("constants")), told["kinds"])
    order = [name for name in told.get("kinds", ()) if name in state]
    return {name: state[name] for name in dict.fromkeys([*order, *state])}


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n"
