"""From a config to a sweep's folder with its jobs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedha.sweep import halving
from fedha.sweep.jobs import Job, make_jobs
from fedha.sweep.ranges import with_ranges
from fedha.sweep.settings import SECTION, settings_of
from fedha.sweep.space import expand, read_space
from fedha.sweep.store import Store, open_sweep
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


def open_jobs(content: Mapping[str, Any], folder: Path, asked: Asked) -> tuple[Store, list[Job]]:
    """Make a sweep's folder, or add to the sweep that is there.

    Args:
        content: The config, as YAML gives it.
        folder: The sweep's.
        asked: Its draws, ranges and halving.

    Raises:
        FedhaError: Something of the config fits nothing, or the folder holds something else; said before the first run.
    """
    rest = {key: value for key, value in content.items() if key != SECTION}
    space = read_space(with_ranges(with_targets(rest), asked.ranges), draws=asked.draws)
    jobs = make_jobs(list(expand(space, asked.draws)))
    if asked.halving is not None:
        halving.check(jobs)
    check_targets(jobs)
    return open_sweep(folder, space, jobs), jobs
