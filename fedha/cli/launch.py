"""One experiment from the command line: its folders, its runs one after the other, its reports."""

import sys
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
from fedha.errors import FedhaError, StoppedError, UnwrittenError, listed
from fedha.exhausted import out_of_memory
from fedha.runs import folders, own_files, runfolder
from fedha.runs.files import typed
from fedha.runs.listener import Listener
from fedha.runs.wording import run_title

RUNS = Path("runs")
_NAMED = 3  # keys in an error

Plan = Sequence[tuple[Config, Path]]  # single runs and where each is written


def find_config(
    name: str,
    overrides: Sequence[str] = (),
    engine: str | None = None,
    *,
    elsewhere: bool = False,
    first_of_sweep: bool = False,
) -> Config:
    """Read a config: a file or, where there is no such file, one that fedha ships, by its bare name.

    Args:
        name: A path, or a name such as ``quickstart``.
        overrides: Changes as ``key.key=value``.
        engine: Shorthand for the override ``engine.name=…``.
        elsewhere: Whether it is for other machines, whose paths stay as they are given; else they are made absolute.
        first_of_sweep: Whether the config of a sweep stands for its first run; else it is refused.

    Raises:
        FedhaError: There is neither, or the content does not fit the schema.
    """
    changes = [*overrides, *([f"engine.name={engine}"] if engine else [])]
    path = config_path(name)
    try:
        found = configs.load(path, changes)
    except FedhaError as error:
        found = _of_sweep(path, changes, error, first=first_of_sweep)
    if first_of_sweep and found.data.target == "all":
        from fedha.sweep.space import example  # torch: slow to import
        from fedha.sweep.targets import with_targets

        found = configs.parse(example(with_targets(configs.read_content(path, changes))), str(path))
    return found if elsewhere else configs.located(found)


def _of_sweep(path: Path, changes: Sequence[str], error: FedhaError, *, first: bool) -> Config:
    """The first run of a config that is no single run's.

    Args:
        path: The config's.
        changes: As ``key.key=value``.
        error: Why it is none.
        first: Whether its first run is asked for.

    Raises:
        FedhaError: It is no sweep's either, or its first run is not asked for.
    """
    from fedha.sweep.settings import SECTION  # torch: slow to import
    from fedha.sweep.space import example, many
    from fedha.sweep.targets import with_targets

    content = configs.read_content(path, changes)
    try:
        keys = many(content)
    except FedhaError:
        raise error from None  # which says what is wrong with it as a run
    if not first and SECTION not in content and keys:
        raise FedhaError(
            f"{path}: {listed(keys, most=_NAMED)} {'has' if len(keys) == 1 else 'have'} several values, which is a "
            f"sweep of many runs; train them with: fedha sweep {typed(path)}, or give one value"
        ) from error
    if not first or not (keys or SECTION in content):
        raise error
    return configs.parse(example(with_targets(content)), str(path))


def config_path(name: str) -> Path:
    """The file of a config: a path, or the name of one that fedha ships.

    Raises:
        FedhaError: There is neither.
    """
    shipped = shipped_configs()
    path = Path(name)
    if name in shipped and (path.is_dir() or not path.exists()):
        return shipped[name]
    if not path.exists() and path.name == name:
        raise FedhaError(f"there is no file {name}, and fedha ships no config of that name, only {', '.join(shipped)}")
    if path.is_dir():
        raise FedhaError(f"{name} is a folder; name a YAML file, or one of {', '.join(shipped)}")
    return path


def shipped_configs() -> dict[str, Path]:
    """The configs that come with fedha, by name: those in the wheel, or those of the source folder."""
    package = Path(str(files("fedha")))
    inside = package / "configs"
    folder = inside if inside.is_dir() else package.parent / "configs"
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}
    return dict(sorted(found.items(), key=lambda one: "/" in one[0]))  # those in folders last


_NEED_FILES = ("arrays", "colored_mnist", "folder", "heart", "hub", "rotated_mnist", "table")


def look_at_data(config: Config) -> str:
    """Load a config's data, build its networks, and say in a few words what the data are; or why nobody looked at them.

    Raises:
        FedhaError: A run would be refused for them.
    """
    data = config.data
    if data.download:
        return "the data were not looked at: a run may download them"
    if data.root is None and data.manifest is None and data.name in _NEED_FILES:
        return f"the data were not looked at: data.root does not say where {data.name} is"
    from fedha.flower.serve import check_run, load_domains

    domains = load_domains(config)
    for one in config.model_copy(update={"seed": config.seed[:1]}).runs():
        check_run(one, domains)
    return f"data: {domains.description}"


def named_runs(config: Config) -> tuple[list[Config], list[str]]:
    """The runs of a config, and their names.

    Raises:
        FedhaError: Two would share a folder.
    """
    runs = config.runs()
    names = [folders.run_name(run) for run in runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise FedhaError(
            f"two runs of this config would both be called {twice}; give each recipe and seed once "
            "(the same recipe with other settings belongs into a config of its own)"
        )
    return runs, names


def plan_new(config: Config, out: Path | None, *, overwrite: bool = False) -> tuple[Path, Plan]:
    """Choose the folder of an experiment; say which runs go where.

    A single run is the folder; several make a folder each in it, ``<recipe>-seed<seed>``, and the folder then holds the
    experiment's whole config, so that `fedha resume` also knows the runs that never started.

    Args:
        config: One run or several.
        out: Where the user wants it; default: ``runs/<name>``, or the next free ``runs/<name>-2``, ….
        overwrite: Whether runs that are in `out` may be replaced.

    Returns:
        The folder, and the runs.

    Raises:
        FedhaError: The folder holds a run, or something of another's that would be written over, or two runs would
            share a folder.
    """
    runs, names = named_runs(config)
    base = RUNS / folders.folder_name(config.name)
    folder = folders.claim(base) if out is None else folders.take(out, overwrite=overwrite)
    if len(runs) == 1:
        runfolder.check_new(folder)
        return folder, [(runs[0], folder)]
    own_files.check_free(folder, (runfolder.EXPERIMENT, runfolder.REPORT))
    plan = [(run, folder / name) for run, name in zip(runs, names, strict=True)]
    for _, place in plan:
        runfolder.check_new(place)
    own_files.claim(runfolder.make_folder(folder), *(f"{name}/" for name in names))
    own_files.write_text(folder, runfolder.EXPERIMENT, configs.to_yaml(config))
    return folder, plan


def plan_again(path: Path, overrides: Sequence[str], console: Console) -> Plan:
    """The runs at or below a path, as they go on; says so where there is nothing to do.

    Args:
        path: A run's folder, or one that holds runs or an experiment.
        overrides: Changes as ``key.key=value``, kept for the runs of an experiment that never began.
        console: Where that is said.

    Raises:
        FedhaError: There is no run, or a change would touch what a run has done.
    """
    from fedha.runs import resuming  # torch: slow to import, and only needed here

    plan = folders.planned_runs(path, overrides)
    before = {place: own for own, place in folders.planned_runs(path)}
    if before.keys() != {place for _, place in plan}:
        raise FedhaError(f"{path} would hold other runs than {', '.join(map(str, before))}; leave recipes and seeds")
    for config, place in plan:
        own = before[place]
        resuming.refuse(str(place), resuming.differences(own.model_dump(mode="json"), config))
        if runfolder.holds_run(place):
            resuming.changes(place, config)
    folders.change_experiments(path, overrides)
    if all(resuming.is_done(place, config) for config, place in plan):
        publish.say("Nothing to continue: every run has finished.", console)
    return plan


@contextmanager
def leaving_nothing(out: Path | None) -> Iterator[list[Path]]:
    """Where new runs are refused before any of them has begun, what was made for them goes again.

    Args:
        out: Where the user wants them; None: in `RUNS`.

    Yields:
        A list for the folders that are made: that of all, then those of the runs.
    """
    base = RUNS if out is None else out
    there = {one for one in (base, *base.parents) if one.exists()}
    made: list[Path] = []
    try:
        yield made
    except FedhaError:
        if not any(runfolder.has_begun(place) for place in made):
            for place in made:
                own_files.remove(place)
            for place in (*reversed(made), base, *base.parents):
                if place not in there and place.is_dir() and not any(place.iterdir()):
                    place.rmdir()
        raise


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
    log: Sequence[str] = (),
) -> None:
    """Train the runs of a plan that have not finished, one after the other; each of several gets its own report.

    Args:
        plan: Single runs and where each is written.
        console: Where progress is shown.
        quiet: Whether none is.
        common: The folder of them all, or of the only one.
        execute: What trains a run; default: `fedha.run.execute`.
        again: The command that continues.
        log: Trackers that hear of the runs too, by name.

    Raises:
        EndedError: A signal, or an error that nobody expected; the runs can be resumed.
        FedhaError: Something the user gave is wrong.
    """
    from fedha.loggers import with_loggers
    from fedha.runs.resuming import is_done  # torch: slow to import, and only needed here

    pending = [(config, folder) for config, folder in plan if not is_done(folder, config)]
    with (
        stopping.patiently(),
        display.choose(console, len(pending), quiet=quiet) as shown,
        with_loggers(shown, log) as listener,
    ):
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
    resume = f"continue with: {command} {typed(common)}"
    if runfolder.ERROR in own_files.owned(folder):
        (folder / runfolder.ERROR).unlink(missing_ok=True)
    try:
        yield
    except StoppedError as error:
        raise EndedError(f"{error}; {resume}", stopping.exit_code()) from error
    except KeyboardInterrupt as error:
        raise EndedError(f"stopped; {resume}", stopping.exit_code()) from error
    except FedhaError:
        raise  # a sentence already
    except Exception as error:
        if exhausted := out_of_memory(error):
            raise FedhaError(exhausted) from error
        trace = traceback.format_exc()
        try:
            own_files.write_text(runfolder.make_folder(folder), runfolder.ERROR, trace)
            told = f"traceback: {folder / runfolder.ERROR}"
        except UnwrittenError as unwritten:
            sys.stderr.write(trace)
            told = f"the traceback is above: {unwritten}"
        kept = runfolder.holds_run(folder) or folders.holds_experiment(common)
        further = resume if kept else "it had not begun: start it again"
        message = f"failed with {one_line(error)} ({told}); {further}"
        raise EndedError(message, FAILED) from error
