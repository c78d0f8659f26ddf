"""From a config to a sweep's folder with its jobs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedha.config import Config
from fedha.data.domain import DomainSet
from fedha.errors import FedhaError
from fedha.flower.serve import check_run
from fedha.recipes import row
from fedha.sweep import halving
from fedha.sweep.jobs import Job, make_jobs
from fedha.sweep.ranges import with_ranges
from fedha.sweep.settings import SECTION, settings_of
from fedha.sweep.space import Space, expand, read_space
from fedha.sweep.store import Store, holds_sweep, open_sweep
from fedha.sweep.targets import check_targets, with_targets


@dataclass(frozen=True)
class Asked:
    """What a command asks of a sweep, before what its config says.

    Attributes:
        draws: Of the distributions, for each recipe, target and seed.
        ranges: The name of published ones.
        halving: One of so many runs goes on after each rung.
    """

    draws: int | None = None
    ranges: str | None = None
    halving: int | None = None

    def before(self, content: Mapping[str, Any]) -> "Asked":
        """With what a config says where the command says nothing; errors as in `settings_of`."""
        said = settings_of(content)
        return Asked(
            self.draws or said.get("draws"), self.ranges or said.get("ranges"), self.halving or said.get("halving")
        )


def open_jobs(
    content: Mapping[str, Any], folder: Path, asked: Asked, load: Callable[[Config], DomainSet]
) -> tuple[Store, list[Job]]:
    """Make a sweep's folder, or add to the sweep that is there.

    Args:
        content: The config, as YAML gives it.
        folder: The sweep's.
        asked: Its draws, ranges and halving.
        load: Gives a run's data.

    Raises:
        FedhaError: Something of the config fits nothing, or the folder holds something else; said before the first run.
    """
    space, jobs = jobs_of(content, asked)
    if asked.halving is not None:
        halving.check(jobs)
    check_targets(jobs)
    if not holds_sweep(folder):
        _check_first(jobs, load)
    return open_sweep(folder, space, jobs), jobs


def jobs_of(content: Mapping[str, Any], asked: Asked) -> tuple[Space, list[Job]]:
    """All runs of a config; arguments and errors as in `open_jobs`, before any data."""
    rest = {key: value for key, value in content.items() if key != SECTION}
    space = read_space(with_ranges(with_targets(rest), asked.ranges), draws=asked.draws)
    jobs = make_jobs(list(expand(space, asked.draws)))
    _check_names(space, jobs)
    return space, jobs


def _check_names(space: Space, jobs: Sequence[Job]) -> None:
    """A recipe that is no row, or has a key that is none, is a slip of the pen, and told before the first run.

    A value that the schema refuses is one run's failure, which a table tells when all others are done.
    """
    names = [one.fixed.get("name") for one in space.recipes]
    for label, name in zip(space.labels, names, strict=True):
        refused = [one.refused for one in jobs if one.label == label]
        no_row = isinstance(name, str) and row(name) is None
        if refused and all(one and (no_row or one.startswith("unknown key")) for one in refused):
            raise FedhaError(refused[0])


def _check_first(jobs: Sequence[Job], load: Callable[[Config], DomainSet]) -> None:
    """Whether any recipe's first run can begin: what all of them would be refused for is wrong in the config.

    Raises:
        FedhaError: Why the first cannot; nothing is written yet.
    """
    firsts = {job.label: job.config for job in reversed(jobs) if job.config is not None}
    refused: list[FedhaError] = []
    for config in reversed(firsts.values()):
        try:
            check_run(config, load(config))
        except FedhaError as error:
            refused.append(error)
        else:
            return
    raise refused[0]
