"""What of a run's config may be changed once it has begun: never what its past rounds were made with."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedha import config as configs
from fedha.config import Config, DataConfig, ModelConfig, may_change
from fedha.errors import FedhaError
from fedha.runs import own_files, runfolder
from fedha.runs.checkpoint import Saved, read_saved
from fedha.runs.files import CONFIG, FOLD, RESULTS
from fedha.schedule import schedule_of
from fedha.signature import meant

_ENDS = ("training.rounds", "training.stop", "privacy.max_epsilon")  # with another end a finished run goes on


@dataclass(frozen=True)
class Change:
    """A key of a run's config that is not what it was.

    Attributes:
        key: With dots.
        was: What the rounds so far were made with.
        now: What is asked for.
    """

    key: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} was {_text(self.was)} and is now {_text(self.now)}"


def changes(folder: Path, config: Config) -> list[Change]:
    """What is asked for that a run was not made with; nothing for one that has no checkpoint and so no past.

    Args:
        folder: The run's.
        config: What it should go on with.

    Raises:
        FedhaError: It would change the run's past, or a file is damaged.
    """
    saved = read_saved(folder)
    if saved is None and not runfolder.is_finished(folder):
        return []
    was = (
        configs.load_written(folder / CONFIG).model_dump(mode="json")
        if saved is None or not saved.config
        else saved.config
    )
    found = differences(was, config)
    refuse(str(folder), found)
    ends = [one for one in found if one.key.startswith(_ENDS)]
    if saved is None and ends:
        raise FedhaError(f"{folder} has finished and its checkpoint is gone, so it cannot go on; start a new run")
    if saved is not None:
        _check_rounds(folder, config, saved, found)
    return found


def is_done(folder: Path, config: Config) -> bool:
    """Whether a run came to its end, and no other end is asked for.

    Raises:
        FedhaError: As `changes`.
    """
    return runfolder.is_finished(folder) and not any(one.key.startswith(_ENDS) for one in changes(folder, config))


def take_up(folder: Path, config: Config, found: Sequence[Change]) -> None:
    """Make a run's folder one that goes on with another config; a finished run's results go, for they are no more its.

    Args:
        folder: The run's.
        config: The other one.
        found: What `changes` said.
    """
    if any(one.key.startswith(_ENDS) for one in found):
        for name in (RESULTS, FOLD):
            if name in own_files.owned(folder):
                (folder / name).unlink(missing_ok=True)
    if configs.load_written(folder / CONFIG) != config:
        own_files.write_text(folder, CONFIG, configs.to_yaml(config))


def differences(was: Mapping[str, Any], config: Config) -> list[Change]:
    """The keys of a single run's config that are not what they were.

    Args:
        was: The content of a config; what an earlier version did not know had its default.
        config: Another one.
    """
    before = dict(_flat(configs.without_others(was)))
    known = {**dict(_flat(_usual(config).model_dump(mode="json"))), **before}
    now = dict(_flat(config.model_dump(mode="json")))
    keys = dict.fromkeys([*now, *before])
    return [Change(key, known.get(key), now.get(key)) for key in keys if not _alike(key, known.get(key), now.get(key))]


def _usual(config: Config) -> Config:
    """The defaults of a config with this data set and network."""
    return Config(data=DataConfig(name=config.data.name), model=ModelConfig(name=config.model.name))


def _alike(key: str, was: Any, now: Any) -> bool:
    """Whether two values are one; arguments of somebody's own function are texts where a file was read."""
    return was == now or (".options." in key and meant(was) == meant(now))


def refuse(whose: str, found: Sequence[Change]) -> None:
    """Whether all of these may be changed.

    Raises:
        FedhaError: One may not; the message names each with both values.
    """
    wrong = [str(one) for one in found if not may_change(one.key)]
    if wrong:
        raise FedhaError(
            f"{whose} cannot go on as another run: {'; '.join(wrong)}; put {'it' if len(wrong) == 1 else 'them'} back, "
            "or start a new run"
        )


def _check_rounds(folder: Path, config: Config, saved: Saved, found: Sequence[Change]) -> None:
    change = next((one for one in found if one.key == "training.rounds"), None)
    if change is None:
        return
    if schedule_of(config.training).ends:
        raise FedhaError(
            f"{folder} cannot go on as another run: {change}, but training.schedule is "
            f"{schedule_of(config.training).name!r}, "
            "with which every learning rate so far depended on it; put it back, or start a new run"
        )
    if config.training.rounds < saved.round:
        raise FedhaError(f"{folder} has done {saved.round} rounds: {change}; give at least {saved.round}")


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as pairs of a key with dots and its value; the list with one recipe counts as that recipe."""
    if prefix == "recipe" and isinstance(content, list) and len(content) == 1:
        content = content[0]
    if not isinstance(content, Mapping):
        yield prefix, content
        return
    for key, value in content.items():
        yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
