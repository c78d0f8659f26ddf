"""The server's side of a whole run, over any Grid: rounds, evaluation, checkpoints, the run folder."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from fedha import data, numerics
from fedha.config import Config
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.errors import FedhaError
from fedha.flower.strategy import HessianAlignment
from fedha.flower.wire import pack_tensors, unpack_tensors
from fedha.models import SplitModel, build
from fedha.runs import runfolder
from fedha.runs.checkpoint import load_checkpoint, save_checkpoint
from fedha.runs.listener import Listener
from fedha.runs.selection import select
from fedha.runs.versions import versions
from fedha.training import evaluate


@runtime_checkable
class RemembersStates(Protocol):
    """A grid whose clients live with it, so that a checkpoint can hold what they remember."""

    def save_states(self) -> list[ArrayRecord | None]:
        """What each client must remember, in client order."""

    def restore_states(self, states: list[ArrayRecord | None]) -> None:
        """Give it back."""


@dataclass(frozen=True)
class Job:
    """One run as the server knows it.

    Attributes:
        config: One recipe, one seed.
        folder: The run's folder.
        left_out: A source that this run leaves out and is tested on, for leave-one-domain-out selection; or None.
    """

    config: Config
    folder: Path
    left_out: str | None = None


def load_domains(config: Config, left_out: str | None = None) -> DomainSet:
    """The run's domains; a source that is left out becomes the only target.

    Raises:
        FedhaError: The data are missing or wrong, or no source would be left.
    """
    domains = data.load(config.data, config.seed[0])
    return domains if left_out is None else leave_out(domains, left_out)


def leave_out(domains: DomainSet, name: str) -> DomainSet:
    """The domains without one source, which becomes the only target.

    Raises:
        FedhaError: There is no such source, or no other one.
    """
    names = [one.name for one in domains.sources]
    if name not in names:
        raise FedhaError(f"there is no source domain {name!r} to leave out; the sources are {', '.join(names)}")
    kept = tuple(one for one in domains.sources if one.name != name)
    if not kept:
        raise FedhaError(f"leaving out {name!r} leaves no source; set evaluation.leave_one_domain_out to false")
    gone = next(one for one in domains.sources if one.name == name)
    nothing = Examples(gone.train.inputs[:0], gone.train.labels[:0])
    target = Domain(gone.name, nothing, gone.held_out if len(gone.held_out) else gone.train)
    return DomainSet(kept, (target,), domains.classes, domains.description)


def serve(job: Job, grid: Grid, listener: Listener, *, domains: DomainSet, resume: bool = False) -> dict[str, Any]:
    """Train one run to its end and write its folder.

    Args:
        job: What to train and where to write.
        grid: Reaches the clients.
        listener: Told of every round.
        domains: The run's domains.
        resume: Continue from the folder's checkpoint.

    Returns:
        The content of results.json.

    Raises:
        FedhaError: Bad data, a failed client, or a folder that holds another run.
    """
    config, seed = job.config, job.config.seed[0]
    numerics.configure(config.engine.threads)
    model = build(config.model, domains.input_shape, domains.classes, seed)
    strategy = HessianAlignment(
        config.recipe[0],
        config.training,
        seed=seed,
        clients=len(domains.sources) * config.data.clients_per_domain,
        on_client_error=config.engine.on_client_error,
    )
    server = strategy.begin(dict(model.named_parameters()))
    runfolder.create(job.folder, config, resume=resume)
    done = _continue_from(job, strategy, grid) if resume else 0
    log = runfolder.MetricsLog(job.folder)
    log.truncate_after(done)
    records = runfolder.read_metrics(job.folder)
    listener.started(config, job.folder, done + 1)
    strategy.meet(grid, done + 1)
    for number in range(done + 1, config.training.rounds + 1):
        record = _round(job, strategy, grid, model, domains, number)
        log.append(record)
        records.append(record)
        if number % config.checkpoint.every == 0 or number == config.training.rounds:
            states = grid.save_states() if isinstance(grid, RemembersStates) else []
            save_checkpoint(job.folder, number, server, [unpack_tensors(s) if s else {} for s in states])
        listener.round_done(record)
    if done == config.training.rounds:  # it was stopped between the last round and the results
        _evaluate_sources(strategy, grid, done, "held_out,train")
    runfolder.write_model(job.folder, server.parameters)
    results = _results(job, strategy, domains, records)
    runfolder.write_json(job.folder / (runfolder.FOLD if job.left_out else runfolder.RESULTS), results)
    listener.finished(results)
    return results


def _round(
    job: Job, strategy: HessianAlignment, grid: Grid, model: SplitModel, domains: DomainSet, number: int
) -> dict[str, Any]:
    begun, down, up = time.perf_counter(), strategy.bytes_down, strategy.bytes_up
    messages = strategy.configure_train(number, strategy.arrays, ConfigRecord(), grid)
    strategy.aggregate_train(number, grid.send_and_receive(messages, timeout=strategy.timeout))
    sent = {"bytes_down": strategy.bytes_down - down, "bytes_up": strategy.bytes_up - up}
    record = {**strategy.last_round, **sent}
    last = number == job.config.training.rounds
    if last or number % job.config.evaluation.every == 0:
        _evaluate_sources(strategy, grid, number, "held_out,train" if last else "held_out")
        evaluated = strategy.last_evaluation.get("held_out", {})
        record["held_out"] = {one.name: evaluated.get(one.name, {"examples": 0}) for one in domains.sources}
        record["target"] = {
            domain.name: evaluate(model, strategy.begun().parameters, _as(domain.held_out, model))
            for domain in domains.targets
        }
    if strategy.skipped:
        record["skipped"] = dict(strategy.skipped)
    return {**record, "seconds": time.perf_counter() - begun}


def _evaluate_sources(strategy: HessianAlignment, grid: Grid, number: int, parts: str) -> None:
    questions = strategy.configure_evaluate(number, strategy.arrays, ConfigRecord({"parts": parts}), grid)
    strategy.aggregate_evaluate(number, grid.send_and_receive(questions, timeout=strategy.timeout))


def _results(job: Job, strategy: HessianAlignment, domains: DomainSet, records: list[dict[str, Any]]) -> dict[str, Any]:
    config = job.config
    folds = {}
    if config.evaluation.leave_one_domain_out and job.left_out is None:
        folds = {one.name: runfolder.read_metrics(fold_folder(job.folder, one.name)) for one in domains.sources}
    return {
        "name": config.name,
        "recipe": config.recipe[0].name,
        "seed": config.seed[0],
        "rounds": config.training.rounds,
        "seconds": sum(record["seconds"] for record in records),
        "target": records[-1]["target"],
        "sources": records[-1]["held_out"],
        "train": strategy.last_evaluation.get("train", {}),
        "selection": select(records, folds),
        "data": domains.description,
        "versions": versions(),
    }


def fold_folder(folder: Path, left_out: str) -> Path:
    """Where the run without one source is written."""
    return folder / "folds" / left_out


def _continue_from(job: Job, strategy: HessianAlignment, grid: Grid) -> int:
    done, states = load_checkpoint(job.folder, strategy.begun())
    if isinstance(grid, RemembersStates) and states:
        grid.restore_states([pack_tensors(state) if state else None for state in states])
    elif any(term.client_average for term in strategy.task.recipe.terms) and done:
        raise FedhaError(
            f"recipe {strategy.task.recipe.name!r} keeps moving averages at the clients, which this engine "
            "forgets; resume it with --engine inline, or start a new run"
        )
    return done


def _as(examples: Examples, model: SplitModel) -> Examples:
    kind = next(model.parameters())
    return Examples(examples.inputs.to(kind.device, kind.dtype), examples.labels.to(kind.device))
