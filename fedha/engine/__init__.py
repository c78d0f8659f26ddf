"""Engines: where a run's clients live. A new one is a row of `ENGINES`."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from fedha.config import Config
from fedha.data.domain import DomainSet
from fedha.flower.delivery import never
from fedha.flower.serve import Job
from fedha.runs.listener import Listener

# Where each engine's function is; imported when it is needed, for Ray and Flower's simulation are slow to import.
ENGINES: Mapping[str, tuple[str, str]] = {
    "inline": ("fedha.engine.inline", "run_inline"),
    "ray": ("fedha.engine.ray_engine", "run_ray"),
    "flower": ("fedha.engine.flower_simulation", "run_flower"),
}


def choose(config: Config, domains: DomainSet) -> tuple[str, str]:
    """The engine of a run, and why."""
    if config.engine.name != "auto":
        return config.engine.name, "the config says so"
    from fedha.data.partition import client_count
    from fedha.engine import estimate, machine, plan

    clients = client_count(domains, config.data, config.seed[0])
    return plan.choose(config, clients, machine.look(), estimate.run_operations(config, domains))


def run(
    job: Job, domains: DomainSet, listener: Listener, *, resume: bool = False, stop: Callable[[], bool] = never
) -> dict[str, Any]:
    """Train one run on its engine.

    Args:
        job: What to train and where to write.
        domains: The run's domains.
        listener: Told of every round.
        resume: Continue from the folder's checkpoint.
        stop: Asked now and then, whether to stop.

    Returns:
        The content of results.json.

    Raises:
        StoppedError: It was asked to stop; what was done is saved.
    """
    module, function = ENGINES[choose(job.config, domains)[0]]
    results: dict[str, Any] = getattr(import_module(module), function)(job, domains, listener, resume=resume, stop=stop)
    return results
