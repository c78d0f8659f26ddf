"""Whether the data of a sweep are still those that its runs were trained with."""

from collections.abc import Callable, Sequence

from fedha.config import Config
from fedha.data.domain import DomainSet
from fedha.data.fingerprint import fingerprint
from fedha.errors import FedhaError
from fedha.sweep.jobs import Job
from fedha.sweep.store import Store

_LOOKED_AT = 2  # of two targets: the sources of both together are all domains


def check_data(store: Store, jobs: Sequence[Job], load: Callable[[Config], DomainSet]) -> None:
    """Compare the data of a first run, and of one with another target, with what the sweep's list says of them.

    Where they cannot be loaded nothing is compared: the runs say why.

    Args:
        store: The sweep's.
        jobs: All.
        load: Gives a run's data.

    Raises:
        FedhaError: They are others.
    """
    chosen = {job.target: job for job in reversed(jobs) if job.config is not None}
    marks: dict[str, str] = {}
    for job in list(reversed(chosen.values()))[:_LOOKED_AT]:
        if job.config is None:
            continue
        try:
            marks[job.name] = fingerprint(load(job.config))
        except FedhaError:
            return
    kept = store.keep_marks(marks)
    if any(kept[name] != mark for name, mark in marks.items()):
        raise FedhaError(
            f"the data are not those that the sweep in {store.folder} was trained with: examples, labels, their order "
            "or who is held out differ; put them back (data.root?), or take another folder (--out)"
        )
