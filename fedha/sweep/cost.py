"""What a sweep will cost: its runs, and hours, by the clock of those that have run or of a first one."""

import time
from collections.abc import Callable, Sequence

from fedha.errors import FedhaError
from fedha.progress import duration
from fedha.sweep import summary
from fedha.sweep.halving import whole_runs
from fedha.sweep.jobs import Job, Task
from fedha.sweep.work import DONE, Worker, in_order


def estimate(worker: Worker, wanted: Sequence[Job], factor: int | None, many: int, tell: Callable[[str], None]) -> str:
    """Say what a sweep will cost; where none of its runs has ended the first is trained, and counts.

    Data and features are made before that run, and are no part of its time: they are made once.

    Args:
        worker: Who trains the first one.
        wanted: All runs.
        factor: As in `fedha.sweep.halving.Plan`.
        many: Runs side by side.
        tell: Told what takes time.

    Raises:
        FedhaError: The first run fails.
    """
    finished = [one for one in wanted if worker.store.finished(one.name)]
    seconds = _mean_seconds(worker, finished) if finished else _first_seconds(worker, wanted, tell)
    left = len(wanted) - max(1, len(finished))
    whole = left if factor is None else left * whole_runs(wanted, factor) / len(wanted)
    halved = "" if factor is None else f" (as much as {whole:.1f} whole ones, with --halving {factor})"
    refused = sum(one.config is None for one in wanted)
    told = f"; {refused} are refused by the schema" if refused else ""
    took, alone, shared = (duration(one) for one in (seconds, whole * seconds, whole * seconds / many))
    return (
        f"{len(wanted)} runs, {left} of them to do{halved}{told}; a run takes about {took}, so all take about {shared} "
        f"with {many} side by side ({alone} of one process)."
    )


def _first_seconds(worker: Worker, wanted: Sequence[Job], tell: Callable[[str], None]) -> float:
    first, config = next((one, one.config) for one in in_order(wanted) if one.config is not None)
    begun = time.perf_counter()
    worker.ready(config)
    made = time.perf_counter() - begun
    kept = " and features" if config.model.features.cache is not None else ""
    tell(f"Data{kept} of the first run were made ready in {duration(made)}, which is no part of what a run takes.")
    tell(f"Training the first of {len(wanted)} runs; it counts: {first.name}")
    begun = time.perf_counter()
    outcome = worker.work(Task(first))
    if outcome.state != DONE:
        raise FedhaError(f"the first run has not ended: {outcome.why or outcome.state}")
    return time.perf_counter() - begun


def _mean_seconds(worker: Worker, finished: Sequence[Job]) -> float:
    """Of runs that have ended, as they took them."""
    known = [found for one in finished if (found := summary.read(worker.store.run_folder(one.name))) is not None]
    return sum(float(one["seconds"]) for one in known) / max(1, len(known))
