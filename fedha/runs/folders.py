"""Where runs lie: claiming a folder for new ones, and finding those that are there."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fedha import config as configs
from fedha.config import Config
from fedha.errors import FedhaError
from fedha.runs import own_files, owner, runfolder
from fedha.runs.files import EXPERIMENT
from fedha.runs.runfolder import holds_run, make_folder


def claim(base: Path) -> Path:
    """Make the first free one of ``base``, ``base-2``, ``base-3``, … and return it.

    Making the folder is what claims it: two commands started at the same time get two folders.

    Raises:
        FedhaError: The folder cannot be made.
    """
    make_folder(base.parent)
    folder, number = base, 1
    while folder.exists() or not _made(folder):
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def take(folder: Path, *, overwrite: bool = False) -> Path:
    """A folder that the user named, free of runs; its own are removed where that was asked for.

    Overwriting removes only what fedha listed as its own, and only the folder's own run or the runs of its own
    experiment: a folder in which somebody collects runs is never emptied. The folder need not be there.

    Raises:
        FedhaError: The folder holds runs that may not be overwritten, or is being written, or is no folder.
    """
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise FedhaError(f"{folder} is there and is no folder; choose another with --out")
        return folder
    listed = own_files.owned(folder)
    own = [folder, *(folder / name for name in listed if name.endswith("/"))]
    held = [place for place in _walk(folder) if holds_run(place) or holds_experiment(place)]
    foreign = [place for place in held if place not in own]
    if foreign:
        raise FedhaError(f"{folder} already holds other runs, such as {foreign[0]}; choose another folder with --out")
    if held and not overwrite:
        raise runfolder.occupied(folder)
    for place in own:
        owner.check_free(place)
    if held:
        own_files.remove(folder)
    return folder


def holds_experiment(folder: Path) -> bool:
    """Whether fedha keeps the config of several runs in this folder."""
    return (folder / EXPERIMENT).is_file() and EXPERIMENT in own_files.owned(folder)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders at or below some paths, each once, in the paths' order and then by name (seed2 before seed10).

    Raises:
        FedhaError: A path is no folder, or has no run at or below it.
    """
    found: dict[Path, None] = {}
    for path in paths:
        here = [folder for folder in _walk(_existing(path)) if holds_run(folder)]
        if not here:
            raise _empty(path)
        found.update(dict.fromkeys(here))
    return list(found)


def planned_runs(path: Path, overrides: Sequence[str] = ()) -> list[tuple[Config, Path]]:
    """Every run that the folders at or below a path ask for, started or not, each with its folder.

    Args:
        path: A run's folder, or one that holds runs or an experiment.
        overrides: Changes to every config, as in `fedha.config.load`.

    Raises:
        FedhaError: As in `find_runs`, or a config cannot be read.
    """
    plan: dict[Path, Config] = {}
    for folder in _walk(_existing(path)):
        if holds_run(folder):
            plan.setdefault(folder, configs.load_written(folder / runfolder.CONFIG, overrides))
        elif holds_experiment(folder):
            runs = configs.load_written(folder / EXPERIMENT, overrides).runs()
            plan.update({folder / run_name(run): run for run in runs})
    if not plan:
        raise _empty(path)
    return [(config, folder) for folder, config in plan.items()]


def change_experiments(path: Path, overrides: Sequence[str]) -> None:
    """Keep changes in the experiments at or below a path, for their runs that never began.

    Args:
        path: A folder.
        overrides: As in `fedha.config.load`.
    """
    for folder in _walk(path) if overrides else ():
        if holds_experiment(folder):
            changed = configs.load_written(folder / EXPERIMENT, overrides)
            own_files.write_text(folder, EXPERIMENT, configs.to_yaml(changed))


def run_name(config: Config) -> str:
    """What a single run's folder is called among its siblings: ``<recipe>-seed<seed>``."""
    return f"{folder_name(config.recipe[0].name)}-seed{config.seed[0]}"


def folder_name(name: str) -> str:
    """A name that is safe as one folder's name: letters, digits, ``.``, ``_`` and ``-``, no dot in front."""
    return re.sub(r"[^\w.-]+", "-", name).lstrip(".") or "experiment"


def _walk(path: Path) -> Iterator[Path]:
    """The folder and those below it in natural order; not into runs, hidden folders or links."""
    yield path
    if holds_run(path):
        return
    below = [one for one in path.iterdir() if one.is_dir() and not one.is_symlink() and not one.name.startswith(".")]
    for one in sorted(below, key=_natural):
        yield from _walk(one)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _made(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise FedhaError(f"cannot make the folder {folder}: {error.strerror}; choose another with --out") from error
    return True


def _existing(path: Path) -> Path:
    if not path.is_dir():
        raise FedhaError(f"there is no folder {path}; name a run's folder, or one that holds runs")
    return path


def _empty(path: Path) -> FedhaError:
    return FedhaError(f"there is no run in {path}: no folder at or below it has a {runfolder.CONFIG}")
