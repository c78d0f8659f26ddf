"""What fedha 0.1.0 wrote: it left no list of its files, so they are known by what is in them."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from fedha import config as configs
from fedha.errors import FedhaError
from fedha.jsonfile import parse_json
from fedha.runs import files

_PAGE = b"fedha</title>"  # near the beginning of every page
_LOOK_BYTES = 65_536


def names(folder: Path) -> Iterator[str]:
    """The files in a folder that version 0.1.0 made there, by their paths in it; a run of its own ends with a slash."""
    run = _is_run(folder)
    for name, is_ours in _FORMATS.items():
        if (folder / name).is_file() and (run or name not in _OF_RUNS) and is_ours(folder / name):
            yield name
    if _is_written(folder / files.ASKED):  # it made studies in empty folders alone, so these are its own
        yield from (name for name in (files.MARKDOWN, files.CSV, files.FIGURE) if (folder / name).is_file())
    for path in sorted((folder / files.SENT).glob("round-*.safetensors")):
        if re.fullmatch(r"round-\d{6}\.safetensors", path.name) and "sent" in _metadata(path):
            yield f"{files.SENT}/{path.name}"
    below = [folder / files.FOLDS] if run else [folder] if _is_written(folder / files.EXPERIMENT) else []
    expected = None if run else _planned(folder)
    for place in (one for above in below if above.is_dir() for one in sorted(above.iterdir())):
        if (expected is None or place.name in expected) and _is_run(place):
            yield f"{place.relative_to(folder).as_posix()}/"


def is_page(path: Path) -> bool:
    """Whether a file is a page that fedha wrote, in any version."""
    try:
        with path.open("rb") as file:
            return _PAGE in file.read(_LOOK_BYTES)
    except OSError:
        return False


def _is_run(folder: Path) -> bool:
    """Whether a config.yaml that parses lies beside a metrics.jsonl."""
    if not ((folder / files.CONFIG).is_file() and (folder / files.METRICS).is_file()):
        return False
    try:
        configs.load_written(folder / files.CONFIG)
    except FedhaError:
        return False
    return True


def _planned(folder: Path) -> set[str]:
    """What an experiment's runs are called."""
    from fedha.runs.folders import run_name

    if not _is_written(folder / files.EXPERIMENT):
        return set()
    return {run_name(run) for run in configs.load_written(folder / files.EXPERIMENT).runs()}


def _is_written(path: Path) -> bool:
    """Whether a config was written by fedha, and not by a person: all of it, without a comment."""
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        configs.load_written(path)
    except (OSError, ValueError, yaml.YAMLError, FedhaError):
        return False
    whole = isinstance(content, dict) and {"name", "data", "model", "recipe", "seed", "training"} <= content.keys()
    return whole and yaml.safe_dump(content, sort_keys=False, allow_unicode=True) == text


def _json_with(*keys: str) -> Callable[[Path], bool]:
    """Tells whether a file is a JSON object with all of these keys."""

    def holds(path: Path) -> bool:
        try:
            content = parse_json(path.read_bytes())
        except (OSError, ValueError):
            return False
        return isinstance(content, dict) and set(keys) <= content.keys()

    return holds


def _is_log(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            first = file.readline()
        return first == b"" or not first.endswith(b"\n") or "round" in parse_json(first)
    except (OSError, ValueError, TypeError):
        return False


def _metadata(path: Path) -> Mapping[str, Any]:
    """The metadata of a safetensors file; nothing of what is none."""
    return dict(_header(path).get("__metadata__", {}))


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(size)) if 2 <= size <= 100_000_000 else {}
    except (OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


def _is_trace(path: Path) -> bool:
    try:
        return b"Traceback (most recent call last)" in path.read_bytes()
    except OSError:
        return False


_FORMATS: Mapping[str, Callable[[Path], bool]] = {
    files.CONFIG: lambda path: True,  # it parses, or this would be no run
    files.EXPERIMENT: _is_written,
    files.METRICS: _is_log,
    files.MODEL: lambda path: bool(_header(path)),
    files.RESULTS: _json_with("recipe", "seed", "rounds"),
    files.FOLD: _json_with("recipe", "seed", "rounds"),
    files.REPORT: is_page,
    files.AUDIT: _json_with("form", "made", "run"),
    files.ADVERSARY: _json_with("form", "made", "played"),
    files.SPENDING: _json_with("train", "held_out"),
    files.ERROR: _is_trace,
    files.STATE: lambda path: "state" in _metadata(path),
    files.ASKED: _is_written,
    files.FOUND: _json_with("form", "runs"),
}
_OF_RUNS = {*files.RUN} - {files.REPORT}
