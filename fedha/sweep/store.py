"""A sweep's folder: what was asked, which jobs there are, who works on one, what became of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedha import atomic
from fedha.config import is_elsewhere
from fedha.errors import FedhaError, UnwrittenError, brief, listed
from fedha.jsonfile import parse_json
from fedha.runs import own_files, runfolder
from fedha.runs.files import CONSTANTS
from fedha.schema import shown
from fedha.sweep import summary
from fedha.sweep.jobs import Job
from fedha.sweep.space import Space

LIST, PAGE = "sweep.json", "report.html"
JOBS, CLAIMS, FAILED = "jobs", "claims", "failed"
LOCK = ".sweep.lock"  # of the list; it stays, empty
FORM = 1
_NAMED = 3


@dataclass(frozen=True)
class Entry:
    """A job as a sweep's list has it.

    Attributes:
        name: Its folder's.
        label: Its row.
        target: The unseen domain, or "".
        seed: The trial.
        draw: The draw's number, or None.
        values: What was varied, by key.
        refused: Why its config is none, or "".
    """

    name: str
    label: str
    target: str
    seed: int
    draw: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""


@dataclass(frozen=True)
class Store:
    """A sweep's folder.

    Attributes:
        folder: Where it is.
    """

    folder: Path

    def run_folder(self, name: str) -> Path:
        """The folder of a job's run."""
        return self.folder / JOBS / name

    def finished(self, name: str) -> bool:
        """Whether a job's run came to its end."""
        return runfolder.is_finished(self.run_folder(name))

    def failure(self, name: str) -> str:
        """Why a job failed the last time; "" where it did not."""
        try:
            content = parse_json((self.folder / JOBS / FAILED / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return ""
        return str(content.get("why", "")) if isinstance(content, dict) else ""

    def failed(self, name: str, why: str) -> None:
        """Keep why a job failed."""  # among names that are claimed already: several workers fail at once
        atomic.write_json(runfolder.make_folder(self.folder / JOBS / FAILED) / f"{name}.json", {"why": why})

    def succeeded(self, name: str) -> None:
        """Forget an earlier failure."""
        (self.folder / JOBS / FAILED / f"{name}.json").unlink(missing_ok=True)

    def keep_marks(self, marks: Mapping[str, str]) -> dict[str, str]:
        """Keep what tells the data of some jobs from others, where nothing is kept of them yet.

        Returns:
            What is kept of these jobs.
        """
        with _alone(self.folder):
            content = _read(self.folder)
            known = content.get("data") or {}
            if fresh := {name: mark for name, mark in marks.items() if name not in known}:
                atomic.write_json(self.folder / LIST, {**content, "data": {**known, **fresh}})
            return {name: known.get(name, mark) for name, mark in marks.items()}

    @contextmanager
    def claimed(self, name: str, seconds: float = 0.0) -> Iterator[bool]:
        """Be the only one who works on a job for as long as the block lasts; yields False where another one does.

        The lock is the kernel's: a worker that is killed loses it.

        Args:
            name: The job's.
            seconds: To wait for who has it.
        """
        lock = FileLock(self.folder / CLAIMS / f"{name}.lock")
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise _unwritten(self.folder, error) from error
        try:
            yield True
        finally:
            lock.release()


def open_sweep(folder: Path, space: Space, jobs: Sequence[Job]) -> Store:
    """Make a sweep's folder, or add to the sweep that is there; what has run stays.

    Args:
        folder: The sweep's.
        space: What is asked for now.
        jobs: Its jobs.

    Raises:
        FedhaError: The folder holds something else, or a sweep of another config.
    """
    _check_ours(folder)
    with _alone(runfolder.make_folder(folder)):
        return _opened(folder, space, jobs)


def _check_ours(folder: Path) -> None:
    """Whether a folder is empty or a sweep's, one that somebody is just making included."""
    there = {one.name for one in folder.iterdir()} if folder.is_dir() else set()
    if there - {own_files.MARKER} and LOCK not in there and LIST not in own_files.owned(folder):
        raise FedhaError(f"{folder} is not empty and holds no sweep; choose another folder with --out")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only one who makes a sweep or adds to it; others wait, as the workers of an array begin at once."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire()
    except OSError as error:
        raise _unwritten(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _opened(folder: Path, space: Space, jobs: Sequence[Job]) -> Store:
    store, fixed, before, known = Store(folder), _fixed(space), {}, {}
    recipes = {label: _plain(one.fixed) for label, one in zip(space.labels, space.recipes, strict=True)}
    if holds_sweep(folder):
        before = _read(folder)
        _check_same(folder, before["fixed"], fixed)
        _check_recipes(folder, before.get("recipes", {}), recipes)
        recipes = {**before.get("recipes", {}), **recipes}
        known = {one["name"]: one for one in before["jobs"]}
    fresh = [job for job in jobs if job.name not in known]
    if fresh or not known:
        own_files.claim(folder, LIST, PAGE, f"{CLAIMS}/", f"{JOBS}/", f"{CONSTANTS}/")
        runfolder.make_folder(folder / CLAIMS)
        own_files.claim(runfolder.make_folder(folder / JOBS), *(f"{one.name}/" for one in fresh), f"{FAILED}/")
        own_files.claim(runfolder.make_folder(folder / JOBS / FAILED), *(f"{one.name}.json" for one in fresh))
        told = [*known.values(), *(job.told for job in fresh)]
        atomic.write_json(folder / LIST, {**before, "form": FORM, "fixed": fixed, "recipes": recipes, "jobs": told})
    else:
        own_files.claim(folder, f"{CONSTANTS}/")  # a sweep of an earlier version has none
    return store


def _unwritten(folder: Path, error: OSError) -> UnwrittenError:
    return UnwrittenError(f"cannot write in {folder}: {error.strerror}; choose a folder that you may write")


def holds_sweep(folder: Path) -> bool:
    """Whether fedha keeps a sweep in this folder."""
    return (folder / LIST).is_file() and LIST in own_files.owned(folder)


def entries(folder: Path) -> list[Entry]:
    """All jobs of the sweep in a folder, in the order they were asked for.

    Raises:
        FedhaError: There is no sweep, or its list is damaged.
    """
    if not holds_sweep(folder):
        raise FedhaError(f"{folder} holds no sweep; make one with: fedha sweep CONFIG --out {folder}")
    try:
        return [Entry(**one) for one in _read(folder)["jobs"]]
    except TypeError as error:
        raise FedhaError(
            f"{folder / LIST} is damaged ({brief(error)}); start the sweep again to write it anew"
        ) from error


def settings(folder: Path) -> dict[str, Any]:
    """What all jobs of a sweep share, by key with dots; errors as in `entries`."""
    return dict(_read(folder).get("fixed", {}))


def summaries(store: Store, jobs: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """What is kept of the finished runs among some jobs, by name."""
    found = {one.name: summary.read(store.run_folder(one.name)) for one in jobs}
    for name, content in found.items():
        if content is None and store.finished(name):  # its worker died between the two
            found[name] = summary.write(store.run_folder(name), warmup_of(store.run_folder(name)))
    return {name: content for name, content in found.items() if content is not None}


def warmup_of(place: Path) -> int:
    """The rounds in which a run's recipe has not yet its own weight."""
    from fedha.config import load_written

    return load_written(place / runfolder.CONFIG).recipe[0].resolve().weak_rounds


def _read(folder: Path) -> dict[str, Any]:
    path = folder / LIST
    try:
        content = parse_json(path.read_bytes())
        if not isinstance(content, dict) or not isinstance(content.get("jobs"), list):
            raise ValueError("it has no list of jobs")
    except (OSError, ValueError) as error:
        raise FedhaError(f"cannot read {path} ({brief(error)}); put it back, or take another folder") from error
    if content.get("form") != FORM:
        raise FedhaError(f"{path} was written by another version of fedha; install that one, or take another folder")
    return content


def _fixed(space: Space) -> dict[str, Any]:
    """What all jobs share, flat; what says where they run is no part of it."""
    flat: dict[str, Any] = {f"{key} varied": True for key in (*space.common.grid, *space.common.drawn)}

    def walk(part: Mapping[str, Any], path: str) -> None:
        for key, value in part.items():
            name = f"{path}{key}"
            if isinstance(value, Mapping):
                walk(value, f"{name}.")
            elif name != "name" and not is_elsewhere(name) and not name.startswith("checkpoint."):
                flat[name] = _plain(value)

    walk(space.common.fixed, "")
    return flat


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


def _check_recipes(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Whether a recipe is what it was: two of one name would be chosen among as if nobody had changed anything."""
    for label in before.keys() & now.keys():
        was, given = before[label], now[label]
        if key := next((key for key in was.keys() & given.keys() if was[key] != given[key]), None):
            raise FedhaError(
                f"{folder} holds a sweep whose recipe {label!r} has {key} {shown(was[key])}, and now it is "
                f"{shown(given[key])}; give both values as a list, so that tables tell them apart, or take another "
                "folder (--out)"
            )


def _check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    nothing = "not there"
    keys = [key for key in {**before, **now} if before.get(key, nothing) != now.get(key, nothing)]
    if keys:
        told = [f"{key} was {shown(before.get(key, nothing))} and is {shown(now.get(key, nothing))}" for key in keys]
        raise FedhaError(
            f"{folder} holds a sweep of another config ({listed(told[:_NAMED], between='; ')}); more recipes, values, "
            "draws, targets and seeds can be added to it, anything else belongs into another folder (--out)"
        )
