"""Runs side by side: which ones belong into one row, and what tells the rows apart."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fedha.config import load_written, without_others
from fedha.errors import FedhaError
from fedha.runs import runfolder
from fedha.runs.divergence import divergence
from fedha.runs.files import typed

# What may differ between runs of one row: who and where, not what is computed (a run may be resumed elsewhere than its
# siblings were). The target and the sources may, because
# an experiment over several unseen domains is one row with a column for each.
_SAME_ROW = (
    "name",
    "seed",
    "data.target",
    "data.sources",
    "data.root",
    "data.cache",
    "data.download",
    "checkpoint",
    "engine.address",
    "engine.client_timeout",
    "engine.clients_per_gpu",
    "engine.name",
    "engine.threads",
    "engine.workers",
)


class Variant(NamedTuple):
    """What tells a run from others of the same recipe.

    Attributes:
        experiment: Differences outside the recipe; "" where all runs share one experiment.
        recipe: Differences in the recipe's settings; "" where there are none.
    """

    experiment: str = ""
    recipe: str = ""


@dataclass(frozen=True)
class Run:
    """A run as read from its folder.

    Attributes:
        folder: Where it lies.
        config: The content of its config.yaml.
        records: Its metrics, an object a round.
        results: Its results.json.
    """

    folder: Path
    config: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    results: Mapping[str, Any]


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[Path]]:
    """Read finished runs; also return the folders of those that have not finished.

    Raises:
        FedhaError: No run has finished, or a file is damaged.
    """
    finished, unfinished = [], []
    for folder in folders:
        if not runfolder.holds_run(folder):
            raise _foreign(folder)
        if runfolder.is_finished(folder):
            finished.append(_read(folder))
        else:
            unfinished.append(folder)
    if not finished:
        raise FedhaError(
            f"no run has finished yet in {', '.join(map(str, unfinished))}; continue with: "
            f"fedha resume {typed(unfinished[0])}"
        )
    return finished, unfinished


def variants(configs: Sequence[Mapping[str, Any]]) -> list[Variant]:
    """What tells runs apart beyond recipe and seed, one value a run; empty where nothing does.

    Args:
        configs: Contents of config.yaml files.
    """
    flat = [_flatten(without_others(config)) for config in configs]
    around = [{key: value for key, value in one.items() if not key.startswith("recipe.")} for one in flat]
    within = [{key: value for key, value in one.items() if key.startswith("recipe.")} for one in flat]
    experiments = _by_name([str(config.get("name")) for config in configs], around) or _differences(around)
    recipes = [""] * len(configs)
    for name in dict.fromkeys(one.get("recipe.name") for one in within):
        same = [place for place, one in enumerate(within) if one.get("recipe.name") == name]
        for place, difference in zip(same, _differences([within[place] for place in same]), strict=True):
            recipes[place] = difference
    return [Variant(*pair) for pair in zip(experiments, recipes, strict=True)]


def _foreign(folder: Path) -> FedhaError:
    try:
        load_written(folder / runfolder.CONFIG)
    except FedhaError as error:
        return FedhaError(f"{folder} does not hold a run of fedha: {error}")
    return FedhaError(f"{folder} does not hold a run of fedha: its {runfolder.CONFIG} was put there by something else")


def _read(folder: Path) -> Run:
    results = runfolder.read_results(folder)
    try:
        config = load_written(folder / runfolder.CONFIG).model_dump(mode="json")
    except FedhaError as error:
        raise FedhaError(f"{folder} does not hold a run of fedha: {error}") from error
    records = runfolder.read_metrics(folder)
    if wrong := results.get("diverged") or divergence(records, results):  # earlier versions did not look
        results = {**results, "diverged": wrong}
    return Run(folder, config, records, results)


def _flatten(content: Any, prefix: str = "") -> dict[str, str]:
    """Nested mappings as ``{"a.b": value in JSON}``; the list with one recipe counts as that recipe."""
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], Mapping):
        content = content[0]
    if not isinstance(content, Mapping):
        ignored = any(prefix == key or prefix.startswith(f"{key}.") for key in _SAME_ROW)
        return {} if ignored else {prefix: json.dumps(content, ensure_ascii=False, default=str)}
    pieces = (_flatten(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in content.items())
    return {key: value for piece in pieces for key, value in piece.items()}


def _by_name(names: Sequence[str], flat: Sequence[Mapping[str, str]]) -> list[str] | None:
    """The experiments' names, where each kind of experiment has one name of its own; else None."""
    kinds: dict[str, set[str]] = {}
    for name, one in zip(names, flat, strict=True):
        kinds.setdefault(json.dumps(one, sort_keys=True), set()).add(name)
    used = [name for kind in kinds.values() for name in kind]
    return list(names) if len(kinds) > 1 and len(used) == len(set(used)) == len(kinds) else None


def _differences(flat: Sequence[Mapping[str, str]]) -> list[str]:
    """``key=value`` for every key that differs among the mappings, one text each."""
    keys = dict.fromkeys(key for one in flat for key in one)
    differing = [key for key in keys if len({one.get(key) for one in flat}) > 1]
    return [", ".join(f"{key}={one[key].strip(chr(34))}" for key in differing if key in one) for one in flat]
