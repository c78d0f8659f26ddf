"""Engines: where a run's clients live. A new one is a row of `ENGINES`."""

from collections.abc import Callable, Mapping
from typing import Any

from fedha.config import Config
from fedha.engine.flower_simulation import run_flower
from fedha.engine.inline import run_inline
from fedha.flower.serve import Job
from fedha.runs.listener import Listener

ENGINES: Mapping[str, Callable[..., dict[str, Any]]] = {"inline": run_inline, "flower": run_flower}


def choose(config: Config) -> tuple[str, str]:
    """The engine of a run, and why."""
    if config.engine.name != "auto":
        return config.engine.name, "the config says so"
    return "inline", "every client fits one process"


def run(job: Job, listener: Listener, *, resume: bool = False) -> dict[str, Any]:
    """Train one run on its engine.

    Args:
        job: What to train and where to write.
        listener: Told of every round.
        resume: Continue from the folder's checkpoint.

    Returns:
        The content of results.json.
    """
    name, _ = choose(job.config)
    return ENGINES[name](job, listener, resume=resume)
