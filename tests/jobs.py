"""Runs a job with the domains that its config names."""

from typing import Any

from fedha import engine
from fedha.flower.serve import Job, load_domains
from fedha.runs.listener import Listener


def run_job(job: Job, listener: Listener, *, resume: bool = False) -> dict[str, Any]:
    """Train a job on its engine."""
    return engine.run(job, load_domains(job.config, job.left_out), listener, resume=resume)
