"""Runs a job with the domains that its config names."""

from collections.abc import Callable
from typing import Any

from fedha import engine
from fedha.flower.delivery import never
from fedha.flower.serve import Job, load_domains
from fedha.runs.listener import Listener


def run_job(job: Job, listener: Listener, *, resume: bool = False, stop: Callable[[], bool] = never) -> dict[str, Any]:
    """Train a job on its engine."""
    return engine.run(job, load_domains(job.config, job.left_out), listener, resume=resume, stop=stop)


class Stop:
    """Asks to stop from the n-th time on that it is asked.

    Args:
        after: How often it says no.
    """

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0
