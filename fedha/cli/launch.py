"""One experiment from the command line: its folders, its runs one after the other, its reports."""

import shlex
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Protocol

from rich.console import Console

from fedha import config as configs
from fedha.cli import display, publish, stopping
from fedha.cli.exits import FAILED, EndedError, one_line
from fedha.config import Config
from fedha.errors import FedhaError, StoppedError
from fedha.runs import folders, runfolder
from fedha.runs.listener import Listener
from fedha.runs.wording import run_title

RUNS = Path("runs")

Plan = Sequence[tuple[Config, Path]]  # single runs and where each is written


def find_config(name: str, overrides: Sequence[str] = (), engine: str | None = None) -> Config:
    """Read a config: a file or, where there is no such file, one that fedha ships, by its bare name.

    Args:
        name: A path, or a name such as ``quickstart``.
        overrides: Changes as ``key.key=value``.
        engine: Shorthand for the override ``engine.name=…``.

    Raises:
        FedhaError: There is neither, or the content does not fit the schema.
    """
    changes = [*overrides, *([f"engine.name={engine}"] if engine else [])]
    shipped = shipped_configs()
    if not Path(name).exists() and name in shipped:
        return configs.load(shipped[name], changes)
    if not Path(name).exists() and Path(name).name == name:
        raise FedhaError(f"there is no file {name}, and fedha ships no config of that name, only {', '.join(shipped)}")
    return configs.load(Path(name), changes)


def shipped_configs() -> dict[str, Path]:
    """The configs that come with fedha, by name: those in the wheel, or those of the source folder."""
    package = Path(str(files("fedha")))
    inside = package / "configs"
    folder = inside if inside.is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def plan_new(config: Config, out: Path | None, *, overwrite: bool = False) -> tuple[Path, Plan]:
    """Choose and make the folder of an experiment; say which runs go where.

    A single run is the folder; several make a folder each in it, ``<recipe>-seed<seed>``, and the folder then holds the
    experiment's whole config, so that `fedha resume` also knows the runs that never started.

    Args:
        config: One run or several.
        out: Where the user wants it; default: ``runs/<name>``, or the next free ``runs/<name>-2``, ….
        overwrite: Whether runs that are in `out` may be replaced.

    Returns:
        The folder, and the runs.

    Raises:
        FedhaError: The folder holds a run, or two runs would share a folder.
    """
    runs = config.runs()
    names = [folders.run_name(run) for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise FedhaError(
            f"two runs of this config would both be called {twice}; give each recipe and seed once "
            "(the same recipe with other settings belongs into a config of its own)"
        )
    base = RUNS / folders.folder_name(config.name)
    folder = folders.claim(base) if out is None else folders.take(out, overwrite=overwrite)
    if len(runs) == 1:
        return folder, [(runs[0], folder)]
    runfolder.write_text(folder / runfolder.EXPERIMENT, configs.to_yaml(config))
    return folder, [(run, folder / name) for run, name in zip(runs, names, strict=True)]


class Execute(Protocol):
    """What trains a run: `fedha.run.execute`, or another place's."""

    def __call__(
        self, config: Config, folder: Path, listener: Listener, *, resume: bool, stop: Callable[[], bool]
    ) -> object:
        """Train it to its end, or until it is asked to stop, and write its folder."""


def train(
    plan: Plan,
    console: Console,
    *,
    quiet: bool,
    common: Path,
    execute: Execute | None = None,
    again: str = "fedha resume",
) -> None:
    """Train the runs of a plan that have not finished, one after the other; each of several gets its own report.

    Args:
        plan: Single runs and where each is written.
        console: Where progress is shown.
        quiet: Whether none is.
        common: The folder of them all, or of the only one.
        execute: What trains a run; default: `fedha.run.execute`.
        again: The command that continues.

    Raises:
        EndedError: A signal, or an error that nobody expected; the runs can be resumed.
        FedhaError: Something the user gave is wrong.
    """
    pending = [(config, folder) for config, folder in plan if not runfolder.is_finished(folder)]
    with stopping.patiently(), display.choose(console, len(pending), quiet=quiet) as listener:
        for number, (config, folder) in enumerate(pending, 1):
            with _stops_well(folder, common, again):
                stopping.check(f"stopped before {run_title(config, number, len(pending))} began")
                resume = runfolder.holds_run(folder)
                (execute or _here)(config, folder, listener, resume=resume, stop=stopping.asked)
                if folder != common:
                    publish.write([folder], folder / runfolder.REPORT)


def _here(config: Config, folder: Path, listener: Listener, *, resume: bool, stop: Callable[[], bool]) -> object:
    from fedha.run import execute  # torch and Flower: slow to import, and only needed here

    return execute(config, folder, listener, resume=resume, stop=stop)


@contextmanager
def _stops_well(folder: Path, common: Path, command: str) -> Iterator[None]:
    """Turn what ends a run early into a sentence and an exit code; keep the traceback of what nobody expected."""
    again = f"{command} {shlex.quote(str(common))}"
    (folder / runfolder.ERROR).unlink(missing_ok=True)
    try:
        yield
    except StoppedError as error:
        raise EndedError(f"{error}; continue with: {again}", stopping.exit_code()) from error
    except KeyboardInterrupt as error:
        raise EndedError(f"stopped; continue with: {again}", stopping.exit_code()) from error
    except FedhaError:
        if folder.parent == RUNS and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # nothing was written to the folder that was claimed: leave none behind
        raise
    except Exception as error:
        place = runfolder.make_folder(folder) / runfolder.ERROR
        runfolder.write_text(place, traceback.format_exc())
        message = f"failed with {one_line(error)} (traceback: {place}); continue with: {again}"
        raise EndedError(message, FAILED) from error
