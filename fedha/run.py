"""One run from a config to its folder: the run itself, and before it the folds of leave-one-domain-out selection."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedha import engine, progress
from fedha.config import Config, located
from fedha.data.domain import DomainSet
from fedha.errors import FedhaError
from fedha.features import ahead
from fedha.flower.apps import device
from fedha.flower.delivery import never
from fedha.flower.serve import Job, fold_folder, leave_out, load_domains
from fedha.runs import own_files, owner, resuming, runfolder
from fedha.runs.listener import Listener, Silent

__all__ = ["Listener", "execute"]


def execute(
    config: Config,
    folder: Path,
    listener: Listener,
    *,
    resume: bool = False,
    stop: Callable[[], bool] = never,
    load: Callable[[Config], DomainSet] | None = None,
    constants: Path | None = None,
) -> dict[str, Any]:
    """Train a config's only run and write its folder.

    Args:
        config: One recipe, one seed.
        folder: Where to write.
        listener: Told of every round of the run; of its folds only that they are trained.
        resume: Continue what the folder holds, to the same bits as an uninterrupted run.
        stop: Asked now and then, whether to stop.
        load: Gives the config's domains; default: `ready_domains`.
        constants: Where what of the network never moves is kept for several runs; None: in the run's own folder.

    Returns:
        The content of results.json.

    Raises:
        FedhaError: Something the user gave is wrong; nothing is half written.
        StoppedError: It was asked to stop; what was done is saved.
    """
    if len(config.runs()) != 1:
        raise FedhaError(f"the config asks for {len(config.runs())} runs; execute one of config.runs() at a time")
    if resume and resuming.is_done(folder, config):
        return runfolder.read_results(folder)
    config = located(config)
    if resume:
        resuming.changes(folder, config)  # refused before anything is loaded
    else:
        runfolder.check_new(folder)
    owner.check_free(folder)
    with progress.reporting_to(listener.note):
        domains = (load or ready_domains)(config)
    for note in domains.notes:
        listener.note(note)
    name, reason = engine.choose(config, domains)
    listener.note(f"engine {name}: {reason}")
    if config.evaluation.leave_one_domain_out:
        _train_folds(Job(config, folder, constants=constants), domains, listener, resume, stop)
        resume = True  # the folder is there since the folds began
    return engine.run(Job(config, folder, constants=constants), domains, listener, resume=resume, stop=stop)


def ready_domains(config: Config, domains: DomainSet | None = None) -> DomainSet:
    """A run's data, with the features of all of them in the cache that the config names, if it names one.

    Args:
        config: Of one run.
        domains: Its data where they are loaded.

    Raises:
        FedhaError: They are missing or wrong, or the cache cannot be written.
    """
    loaded = load_domains(config) if domains is None else domains
    if config.model.features.cache is not None:
        ahead.compute(ahead.parts_of(config, loaded, device(config)))
    return loaded


def _train_folds(whole: Job, domains: DomainSet, listener: Listener, resume: bool, stop: Callable[[], bool]) -> None:
    config, folder = whole.config, whole.folder
    places = {one.name: fold_folder(folder, one.name) for one in domains.sources}
    for place in places.values():
        if not runfolder.holds_run(place):
            runfolder.check_new(place)
    runfolder.create(folder, config, resume=resume)
    own_files.claim(folder, *(f"{place.relative_to(folder).as_posix()}/" for place in places.values()))
    for source in domains.sources:
        place = places[source.name]
        if resuming.is_done(place, config):
            continue
        listener.note(f"leave-one-domain-out: training without {source.name}")
        rest = leave_out(domains, source.name)
        job = replace(whole, folder=place, left_out=source.name)
        engine.run(job, rest, Silent(), resume=runfolder.holds_run(place), stop=stop)
