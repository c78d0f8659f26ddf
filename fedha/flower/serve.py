"""The server's side of a whole run, over any Grid: rounds, evaluation, checkpoints, the run folder."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from fedha import data, numerics
from fedha.cohort import Member
from fedha.config import POOLED, Config
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.errors import FedhaError
from fedha.federation import Server
from fedha.flower import budget, secure_rounds
from fedha.flower.delivery import is_simulation, never
from fedha.flower.secure_wire import settings_mark
from fedha.flower.strategy import HessianAlignment
from fedha.flower.wire import pack_tensors, unpack_tensors
from fedha.measurement import shapes
from fedha.models import SplitModel, build
from fedha.piggyback import riders
from fedha.privacy.releasable import private_exchanges
from fedha.privacy.site import Site
from fedha.privacy.spending import restore_spending
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
        target_root: In a deployment, the server's folder of the target's data; None: data.root.
    """

    config: Config
    folder: Path
    left_out: str | None = None
    target_root: Path | None = None


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


@dataclass(frozen=True)
class Setting:
    """What a server knows of the data.

    Attributes:
        names: The source domains, in client order.
        input_shape: Shape of one input.
        classes: C, the number of classes.
        targets: Domains that nobody trains on, if the server has any.
        description: One line for the report.
    """

    names: tuple[str, ...]
    input_shape: tuple[int, ...]
    classes: int
    targets: tuple[Domain, ...]
    description: str


def serve(
    job: Job,
    grid: Grid,
    listener: Listener,
    *,
    domains: DomainSet | None,
    resume: bool = False,
    stop: Callable[[], bool] = never,
    shown: Callable[[HessianAlignment], None] = lambda strategy: None,
) -> dict[str, Any]:
    """Train one run to its end and write its folder.

    Args:
        job: What to train and where to write.
        grid: Reaches the clients.
        listener: Told of every round.
        domains: The run's domains; None in a deployment, whose server has none and learns from the clients what it
            needs to know. There clients that are missing are waited for or passed over, as the config says.
        resume: Continue from the folder's checkpoint.
        stop: Asked now and then in a deployment, whether to stop.
        shown: Given the strategy before the first round, by who wants to look at what the server learns.

    Returns:
        The content of results.json.

    Raises:
        FedhaError: Bad data, a failed client, or a folder that holds another run.
        StoppedError: It was asked to.
    """
    config, seed = job.config, job.config.seed[0]
    numerics.configure(config.engine.threads)
    strategy = _strategy(config, domains)
    strategy.talk.tell, strategy.talk.stop = listener.note, stop
    strategy.talk.again = lambda kind, place: _spend_again(job, strategy.begun(), kind, place)
    strategy.clients_keep_models = domains is None
    setting = _learned(job, strategy, grid) if domains is None else _given(domains)
    model = build(config.model, setting.input_shape, setting.classes, seed)
    server = strategy.begin(dict(model.named_parameters()))
    server.site = Site("cryptographic" if domains is None else "seeded")
    shown(strategy)
    recipe = strategy.task.recipe
    sent = riders(recipe) if config.privacy.protect != "examples" else sum(private_exchanges(recipe), ())
    strategy.expected = shapes(model, setting.input_shape, sent, recipe.probes)
    runfolder.create(job.folder, config, resume=resume)
    done, pending = _continue_from(job, strategy, grid) if resume else (0, None)
    log = runfolder.MetricsLog(job.folder)
    log.truncate_after(done if pending is None else done - 1)
    records = runfolder.read_metrics(job.folder)

    listener.started(config, job.folder, done + 1)
    members = strategy.talk.meet(grid, done + 1)
    stopped = _begin_spending(job, server, members, done, resume=resume)
    for number in () if stopped else range(done + 1, config.training.rounds + 1):
        _commit(job, server, number, server.members or members)
        record = _round(strategy, grid, number, riding=() if pending is None else ("held_out",))
        done_with = [] if pending is None else [_evaluated(pending, strategy, setting)]
        pending = None
        stopped = "" if number == config.training.rounds else budget.ends_before(server, number + 1, server.members)
        last = bool(stopped) or number == config.training.rounds
        if last or number % config.evaluation.every == 0:
            record["target"] = _evaluate_targets(model, strategy, setting)
            if strategy.piggyback and not last:
                pending = record  # the clients evaluate this model with the next round
            else:
                seconds = _ask_to_evaluate(strategy, grid, number, "held_out,train" if last else "held_out")
                if strategy.talk.events:  # those of the evaluation are among them now
                    record["events"] = list(strategy.talk.events)
                record = _evaluated(record, strategy, setting, seconds)
        done_with += [record] if pending is None else []
        for one in done_with:
            log.append(one)
        if last or number % config.checkpoint.every == 0:
            _save(job, strategy, grid, number, pending)
        records += done_with
        for one in done_with:
            listener.round_done(one)
        if stopped:
            listener.note(f"training ends after round {number}: {stopped}")
            break
    if done == config.training.rounds or (
        stopped and done == len(records)
    ):  # it was stopped between the last round and the results
        _ask_to_evaluate(strategy, grid, done, "held_out,train")
    runfolder.write_model(job.folder, strategy.begun().parameters)
    results = _results(job, strategy, setting, records, stopped)
    runfolder.write_json(job.folder / (runfolder.FOLD if job.left_out else runfolder.RESULTS), results)
    listener.finished(results)
    return results


def _strategy(config: Config, domains: DomainSet | None) -> HessianAlignment:
    federation = config.federation
    if domains is None:
        clients = federation.clients or data.source_count(config.data) * config.data.clients_per_domain
        secure_rounds.check_clients(config, clients)
    else:
        clients = len(domains.sources) * config.data.clients_per_domain
        secure_rounds.check_clients(config, clients)
        federation = federation.model_copy(update={"on_missing": "stop"})  # nobody comes and goes in a simulation
    strategy = HessianAlignment(
        config.recipe[0],
        config.training,
        seed=config.seed[0],
        clients=clients,
        federation=federation,
        on_client_error=config.engine.on_client_error,
        privacy=config.privacy,
    )
    if strategy.secure is not None:
        strategy.secure.name_run(settings_mark(config))
    return strategy


def _given(domains: DomainSet) -> Setting:
    names = tuple(one.name for one in domains.sources)
    return Setting(names, domains.input_shape, domains.classes, domains.targets, domains.description)


def _learned(job: Job, strategy: HessianAlignment, grid: Grid) -> Setting:
    """What the clients say of their data when they introduce themselves; the targets are the server's."""
    config = job.config
    members = strategy.talk.meet(grid, 1)
    found = {one.input_shape: one for one in members}
    if len(found) > 1:
        told = "; ".join(f"client {one.index} ({one.domain}): {shape}" for shape, one in found.items())
        raise FedhaError(f"the clients' inputs have different shapes: {told}; every domain must have the same one")
    names = tuple(dict.fromkeys(one.domain for one in members))
    (shape,) = found
    examples = ", ".join(f"{one.domain} {one.examples}" for one in members)
    told = f"training examples: {examples}" if strategy.secure is None else "how many examples each has is secret"
    description = f"{config.data.name}, each domain at its own site; {told}"
    own = config.data if job.target_root is None else config.data.model_copy(update={"root": job.target_root})
    targets = data.load_targets(own, config.seed[0])
    return Setting(names, shape, data.class_count(config.data), targets, description)


def _round(strategy: HessianAlignment, grid: Grid, number: int, riding: tuple[str, ...]) -> dict[str, Any]:
    talk = strategy.talk
    begun, down, up = time.perf_counter(), talk.bytes_down, talk.bytes_up
    strategy.parts = riding
    messages = list(strategy.configure_train(number, strategy.arrays, ConfigRecord(), grid))
    strategy.aggregate_train(number, talk.deliver(grid, messages))
    record = {**strategy.last_round, "bytes_down": talk.bytes_down - down, "bytes_up": talk.bytes_up - up}
    if talk.events:
        record["events"] = list(talk.events)
    return {**record, **budget.round_numbers(strategy.begun()), "seconds": time.perf_counter() - begun}


def _evaluated(
    record: dict[str, Any], strategy: HessianAlignment, setting: Setting, seconds: float = 0.0
) -> dict[str, Any]:
    """A round's record with what the clients evaluated, and the seconds that this took."""
    found = strategy.last_evaluation.get("held_out", {})
    names = setting.names if strategy.secure is None else (POOLED,)
    held_out = {name: found.get(name, {"examples": 0}) for name in names}
    last = {"target": record["target"], "seconds": record["seconds"] + seconds}
    rest = {key: value for key, value in record.items() if key not in last}
    return {**rest, "held_out": held_out, **last}


def _evaluate_targets(model: SplitModel, strategy: HessianAlignment, setting: Setting) -> dict[str, Any]:
    parameters = strategy.begun().parameters
    return {one.name: evaluate(model, parameters, _as(one.held_out, model)) for one in setting.targets}


def _ask_to_evaluate(strategy: HessianAlignment, grid: Grid, number: int, parts: str) -> float:
    """Let every client evaluate the global model; returns the seconds that it took."""
    begun, server = time.perf_counter(), strategy.begun()
    strategy.last_evaluation = {}
    if not budget.may_evaluate(server):
        return time.perf_counter() - begun
    if server.task.privacy.protect == "examples":
        parts = "held_out"  # an evaluation of the training examples would be one more release of them
    server.spending = server.spending.evaluation(server.task, server.members)
    questions = strategy.configure_evaluate(number, strategy.arrays, ConfigRecord({"parts": parts}), grid)
    strategy.aggregate_evaluate(number, strategy.talk.deliver(grid, list(questions)))
    return time.perf_counter() - begun


def _results(
    job: Job, strategy: HessianAlignment, setting: Setting, records: list[dict[str, Any]], stopped: str
) -> dict[str, Any]:
    config, privacy = job.config, budget.report(strategy.begun(), stopped)
    folds = {}
    if config.evaluation.leave_one_domain_out and job.left_out is None:
        folds = {name: runfolder.read_metrics(fold_folder(job.folder, name)) for name in setting.names}
    return {
        "name": config.name,
        "recipe": config.recipe[0].name,
        "seed": config.seed[0],
        "rounds": records[-1]["round"] if stopped else config.training.rounds,
        "seconds": sum(record["seconds"] for record in records),
        "target": records[-1]["target"],
        "sources": records[-1]["held_out"],
        "train": strategy.last_evaluation.get("train", {}),
        "selection": select(records, folds),
        "data": setting.description,
        **({"privacy": privacy} if privacy else {}),
        "versions": versions(),
    }


def fold_folder(folder: Path, left_out: str) -> Path:
    """Where the run without one source is written."""
    return folder / "folds" / left_out


def _save(job: Job, strategy: HessianAlignment, grid: Grid, number: int, pending: dict[str, Any] | None) -> None:
    states = grid.save_states() if isinstance(grid, RemembersStates) else []
    clients = [unpack_tensors(state) if state else {} for state in states]
    save_checkpoint(job.folder, number, strategy.begun(), clients, pending)


def _continue_from(job: Job, strategy: HessianAlignment, grid: Grid) -> tuple[int, dict[str, Any] | None]:
    """The round that a checkpoint was made after, and the record that then lacked the clients' evaluation."""
    done, states, pending = load_checkpoint(job.folder, strategy.begun())
    if isinstance(grid, RemembersStates) and states:
        grid.restore_states([pack_tensors(state) if state else None for state in states])
    elif is_simulation(grid) and done and _clients_remember(strategy):
        raise FedhaError(
            f"recipe {strategy.task.recipe.name!r} keeps statistics at the clients, which this engine forgets; "
            "resume it with --engine inline, or start a new run"
        )
    return done, pending


def _clients_remember(strategy: HessianAlignment) -> bool:
    recipe = strategy.task.recipe
    return any(term.client_average for term in recipe.terms) or (strategy.piggyback and bool(riders(recipe)))


def _begin_spending(job: Job, server: Server, members: Sequence[Member], done: int, *, resume: bool) -> str:
    """Take up what was released before; why training has ended already, or "".

    Raises:
        FedhaError: Not even one round fits the budget.
    """
    path = job.folder / runfolder.SPENDING
    server.members = list(members)
    if resume and path.exists():  # rounds after the checkpoint were released too, with noise that nobody can draw again
        server.spending = restore_spending(json.loads(path.read_text(encoding="utf-8")))
    if not done:
        budget.check_first(server, members)
        return ""
    return budget.ends_before(server, done + 1, members) if done < job.config.training.rounds else ""


def _commit(job: Job, server: Server, round: int, members: Sequence[Member]) -> None:
    """Write what a round is about to release, where its noise is never the same again."""
    noise = {server.site.chance} if server.task.privacy.protect == "clients" else {one.noise for one in members}
    if server.task.privacy.protect == "nothing" or "cryptographic" not in noise:
        return
    after = budget.after_round(server, round, members)
    runfolder.write_json(job.folder / runfolder.SPENDING, after.state())


def _spend_again(job: Job, server: Server, kind: str, place: int) -> None:
    """Count what a client that is asked once more releases once more, before it is asked."""
    before = server.spending
    server.spending = before.again(server.task, kind, place, server.members)
    if server.spending is not before:
        runfolder.write_json(job.folder / runfolder.SPENDING, server.spending.state())


def _as(examples: Examples, model: SplitModel) -> Examples:
    kind = next(model.parameters())
    return Examples(examples.inputs.to(kind.device, kind.dtype), examples.labels.to(kind.device))
