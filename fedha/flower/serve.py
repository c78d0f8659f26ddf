"""The server's side of a whole run, over any Grid: rounds, evaluation, checkpoints, the run folder."""

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from fedha import data, numerics
from fedha.cohort import Member, simulated_secret
from fedha.config import POOLED, Config, is_elsewhere
from fedha.data import splits
from fedha.data.domain import Domain, DomainSet
from fedha.data.fingerprint import fingerprint
from fedha.data.groups import groups_of
from fedha.data.partition import client_count, client_names
from fedha.errors import FedhaError, listed
from fedha.features import Keeping
from fedha.federation import Server
from fedha.flower import budget, secure_rounds
from fedha.flower.attendance import Attendance
from fedha.flower.delivery import never
from fedha.flower.judged import Judged, judged
from fedha.flower.outside import check_once
from fedha.flower.saving import Saving
from fedha.flower.secure_wire import settings_mark
from fedha.flower.strategy import HessianAlignment
from fedha.flower.targets import evaluation
from fedha.inputs import each, nested
from fedha.measurement import shapes
from fedha.models import SplitModel, build
from fedha.models.check import check_batch_norm, check_inputs, check_network, likely_form
from fedha.models.state import kinds_of, named_state
from fedha.piggyback import riders
from fedha.privacy.contract import contract_of
from fedha.privacy.releasable import private_exchanges
from fedha.privacy.site import Site
from fedha.privacy.spending import read_spending
from fedha.registry import statistic
from fedha.resolution import resolved
from fedha.runs import own_files, owner, resuming, runfolder
from fedha.runs.absences import left_out
from fedha.runs.checkpoint import read_saved
from fedha.runs.cohort_key import kept_secret
from fedha.runs.divergence import divergence
from fedha.runs.files import METRICS
from fedha.runs.listener import Listener
from fedha.runs.selection import ACCURACY, select
from fedha.runs.starting import Start, start_from
from fedha.runs.versions import versions
from fedha.runs.wording import MANY
from fedha.targets import check_weights
from fedha.unmoved import unmoved


@dataclass(frozen=True)
class Job:
    """One run as the server knows it.

    Attributes:
        config: One recipe, one seed.
        folder: The run's folder.
        left_out: A source that this run leaves out and is tested on, for leave-one-domain-out selection; or None.
        target_root: In a deployment, the server's folder of the target's data; None: data.root.
        start: In a deployment, where model.start lies among the server's runs; None: where it says.
    """

    config: Config
    folder: Path
    left_out: str | None = None
    target_root: Path | None = None
    start: Path | None = None


def load_domains(config: Config, left_out: str | None = None) -> DomainSet:
    """The run's domains; a source that is left out becomes the only target.

    Raises:
        FedhaError: The data are missing or wrong, or no source would be left.
    """
    section, told = resolved(config)
    domains = data.load(section, config.seed[0], protected=config.privacy.protect == "examples")
    domains = replace(domains, description="; ".join(filter(None, [domains.description, told])))
    if domains.released and config.privacy.protect != "nothing":
        raise FedhaError(
            f"privacy.protect is {config.privacy.protect!r}, but {config.data.name} takes from each source "
            f"{listed(domains.released, between='; ')}, which no ledger counts; declare them in the config "
            "(data.statistics), from data that need no protection"
        )
    return domains if left_out is None else leave_out(domains, left_out)


def leave_out(domains: DomainSet, name: str) -> DomainSet:
    """The domains without one source, which becomes the only target.

    Raises:
        FedhaError: There is no such source, or no other one.
    """
    names = [one.name for one in domains.sources]
    if name not in names:
        raise FedhaError(f"there is no source domain {name!r} to leave out; the sources are {listed(names)}")
    kept = tuple(one for one in domains.sources if one.name != name)
    if not kept:
        raise FedhaError(f"leaving out {name!r} leaves no source; set evaluation.leave_one_domain_out to false")
    gone = next(one for one in domains.sources if one.name == name)
    target = Domain(gone.name, gone.train.select(slice(0, 0)), gone.held_out if len(gone.held_out) else gone.train)
    return DomainSet(kept, (target,), domains.classes, domains.description)


@dataclass(frozen=True)
class Setting:
    """What a server knows of the data.

    Attributes:
        names: The source domains, in client order.
        input_shape: Shape of one input; of several, a tuple of shapes or shapes by name.
        classes: C, the number of classes.
        targets: Domains that nobody trains on, if the server has any.
        description: One line for the report.
        remarks: What the run's numbers should not be read without, a sentence each.
        made: What more must be known to make inputs of other examples, or classes of labels.
    """

    names: tuple[str, ...]
    input_shape: Any
    classes: int
    targets: tuple[Domain, ...]
    description: str
    remarks: tuple[str, ...] = ()
    made: Mapping[str, Any] = field(default_factory=dict)


def serve(
    job: Job,
    grid: Grid,
    listener: Listener,
    *,
    domains: DomainSet | None,
    resume: bool = False,
    stop: Callable[[], bool] = never,
    shown: Callable[[HessianAlignment], None] = lambda strategy: None,
    attendance: Attendance | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train one run to its end and write its folder.

    Args:
        job: What to train and where to write.
        grid: Reaches the clients.
        listener: Told of every round.
        domains: The run's domains; None in a deployment, whose server has none and learns from the clients what it
            needs to know. There clients that are missing are waited for or passed over, as the config says.
        resume: Continue from the folder's checkpoint.
        stop: Asked between rounds and between messages, whether to stop.
        shown: Given the strategy before the first round, by who wants to look at what the server learns.
        attendance: The sites of a deployment; default: nobody's name is known.
        device: Where the server computes; where the clients do, if they are in this process.

    Returns:
        The content of results.json.

    Raises:
        FedhaError: Bad data, a failed client, or a folder that holds another run.
        StoppedError: It was asked to; what was done is saved.
    """
    secure_rounds.check_clients(job.config, _client_count(job.config, domains))  # a refusal leaves nothing behind
    if not resume:
        runfolder.check_new(job.folder)
    with owner.owning(runfolder.make_folder(job.folder)):
        runfolder.clear_leftovers(job.folder)
        return _serve(job, grid, listener, domains, resume, stop, shown, attendance, device)


def _serve(
    job: Job,
    grid: Grid,
    listener: Listener,
    domains: DomainSet | None,
    resume: bool,
    stop: Callable[[], bool],
    shown: Callable[[HessianAlignment], None],
    attendance: Attendance | None,
    device: str,
) -> dict[str, Any]:
    config, seed = job.config, job.config.seed[0]
    numerics.configure(config.engine.threads)
    strategy = _strategy(config, domains)
    strategy.talk.tell, strategy.talk.stop, strategy.talk.device = listener.note, stop, device
    strategy.talk.again = lambda kind, client_id: _spend_again(job, strategy.begun(), kind, client_id)
    strategy.clients_keep_models = domains is None
    if domains is not None:
        strategy.talk.attendance.domains = _domain_names(config, domains)
    elif attendance is not None:
        strategy.talk.attendance = attendance
    setting = _learned(job, strategy, grid) if domains is None else _given(config, domains)
    model = check_network(build(config.network, setting.input_shape, setting.classes, seed)).to(torch.device(device))
    form = likely_form(model, setting.input_shape)
    check_inputs(model, next(iter(setting.names), POOLED), form)
    check_batch_norm(model, config.training, config.privacy)
    check_weights(config.training, setting.classes)
    for domain in (*domains.sources, *domains.targets) if domains is not None else ():
        groups_of(domain.held_out, config.evaluation.groups or "")
    saved = read_saved(job.folder) if resume else None
    begun, warned = (None, ()) if saved is not None else _started(job, model, setting)
    start = asdict(begun) if begun is not None else None if saved is None else saved.start
    server = strategy.begin(named_state(model), kinds_of(model))
    if domains is not None:
        server.site, server.secret = Site("seeded"), simulated_secret(seed)
    shown(strategy)
    recipe = strategy.task.recipe
    idle = unmoved(recipe, model, form, strategy.talk.rules.clients, config.training)
    setting = replace(setting, remarks=(*config.model.unread, *model.remarks, *warned, *idle))
    apart = [term.statistic for term in recipe.terms if term.weight and statistic(term.statistic).representation]
    shapes(model, form, apart, recipe.probes)  # a network without what they are of is refused before the first round
    sent = riders(recipe) if config.privacy.protect != "examples" else sum(private_exchanges(recipe), ())
    strategy.expected = shapes(model, form, sent, recipe.probes)
    resumed = resume and (job.folder / METRICS).exists()
    runfolder.create(job.folder, config, resume=resume)
    if domains is None and config.privacy.protect == "clients" and config.training.clients_per_round is not None:
        server.secret = kept_secret(job.folder, server.secret)
    changed = resuming.changes(job.folder, config) if resume else []
    known = None if domains is None else fingerprint(domains)
    saving = Saving(job.folder, config, strategy, grid, stop, job.left_out, known, start)
    if begun is not None:
        saving.save_start()
    done, pending = saving.restore() if resume else (0, None)
    log = runfolder.MetricsLog(job.folder)
    if resume:
        resuming.take_up(job.folder, config, changed)
    log.truncate_after(done if pending is None else done - 1)
    if told := {one.key: {"was": one.was, "now": one.now} for one in changed if not is_elsewhere(one.key)}:
        log.append_changes(done + 1, told)
    records = runfolder.read_metrics(job.folder)

    judge = judged(job, setting.classes, recipe.weak_rounds, setting.names, fold_folder)
    strategy.asked = judge.asked
    kept = Keeping.of(config.model.features)
    evaluated = {part: evaluation(model, ones, kept, judge.asked) for part, ones in _watched(job, setting).items()}
    listener.started(config, job.folder, done + 1)
    for remark in setting.remarks:
        listener.note(remark)
    if resumed:
        listener.note(_goes_on(done, config.training.rounds))
    with saving.giving_up(done, pending):
        members = strategy.talk.meet(grid, done + 1)
    stopped = _begin_spending(job, server, members, done, resume=resume)
    early = judge.recall(records)
    ended = done == config.training.rounds or bool(stopped or early)
    if ended or (pending is not None and not strategy.piggyback):  # it was stopped before, or while, clients evaluated
        with saving.giving_up(done, pending):
            seconds = _ask_to_evaluate(strategy, grid, done, "held_out,train" if ended else "held_out", over=ended)
    if pending is not None and (ended or not strategy.piggyback):
        records.append(_evaluated(pending, strategy, setting, judge, seconds))
        log.append(records[-1])
        early = judge.after(records[-1], server.shown(over=ended), server.kinds)
        listener.round_done(records[-1])
        pending = None
        if early and not ended:
            with saving.giving_up(done, None):
                _evaluate_the_rest(strategy, grid, done)
    state = server.shown(over=False)
    for number in () if stopped or early else range(done + 1, config.training.rounds + 1):
        saving.stop_if_asked(number - 1, pending)
        _commit(job, server, number, server.members or members)
        with saving.giving_up(number - 1, pending):
            record = _round(strategy, grid, number, riding=() if pending is None else ("held_out",))
        judge.kept.each(number, lambda: server.shown(over=False), server.kinds)
        done_with = [] if pending is None else [_evaluated(pending, strategy, setting, judge)]
        for one in done_with:
            log.append(one)
            early = judge.after(one, state, server.kinds)
        pending, whole = None, number == config.training.rounds
        stopped, early = ("", "") if whole else (budget.ends_before(server, number + 1, server.members), early)
        last = bool(stopped or early) or whole
        if last or number % config.evaluation.every == 0:
            state = server.shown(over=last)
            record |= {part: judge.told(part, evaluate(state)) for part, evaluate in evaluated.items()}
            if strategy.piggyback and not last:
                pending = record  # the clients evaluate this model with the next round
            else:
                with saving.giving_up(number, record):
                    parts = "held_out,train" if last else "held_out"
                    seconds = _ask_to_evaluate(strategy, grid, number, parts, over=last)
                if strategy.talk.events:  # those of the evaluation are among them now
                    record["events"] = list(strategy.talk.events)
                record = _evaluated(record, strategy, setting, judge, seconds)
        if pending is None:
            log.append(record)
            done_with.append(record)
            if "held_out" in record and (why := judge.after(record, state, server.kinds)) and not last:
                early, last = why, True
                with saving.giving_up(number, None):
                    _evaluate_the_rest(strategy, grid, number)
        saving.save_if_due(number, pending, last=last)
        records += done_with
        for one in done_with:
            listener.round_done(deepcopy(one))  # who listens cannot change what is selected from
        if stopped or early:
            listener.note(f"training ends after round {number}: {stopped or early}")
            break
    runfolder.write_model(job.folder, server.shown(over=True), server.kinds)
    if judge.wanted and "target" not in judge.pooled:  # it was resumed after its last round
        judge.told("target", evaluated["target"](server.shown(over=True)))
    results = _results(job, strategy, setting, judge, records, stopped, early) | ({"start": start} if start else {})
    own_files.write_json(job.folder, runfolder.FOLD if job.left_out else runfolder.RESULTS, results)
    listener.finished(deepcopy(results))
    return results


def _client_count(config: Config, domains: DomainSet | None) -> int:
    if domains is not None:
        return client_count(domains, config.data, config.seed[0])
    return config.federation.clients or data.source_count(config.data) * config.data.clients_per_domain


def _strategy(config: Config, domains: DomainSet | None) -> HessianAlignment:
    federation = config.federation
    if domains is not None:
        federation = federation.model_copy(update={"on_missing": "stop"})  # nobody comes and goes in a simulation
    strategy = HessianAlignment(
        config.recipe[0],
        config.training,
        seed=config.seed[0],
        clients=_client_count(config, domains),
        federation=federation,
        on_client_error=config.engine.on_client_error,
        privacy=config.privacy,
    )
    strategy.talk.contract = contract_of(config).digest
    if strategy.secure is not None:
        strategy.secure.name_run(settings_mark(config))
    return strategy


def _goes_on(done: int, rounds: int) -> str:
    return f"goes on after round {done} of {rounds}" if done else "there is no checkpoint: it starts with round 1"


def _domain_names(config: Config, domains: DomainSet) -> dict[int, str]:
    """A simulation's clients, by client id: domain after domain."""
    return dict(enumerate(client_names(domains, config.data, config.seed[0])))


def _given(config: Config, domains: DomainSet) -> Setting:
    names = tuple(dict.fromkeys(client_names(domains, config.data, config.seed[0])))
    columns = {name: one.model_dump(exclude_unset=True) for name, one in domains.statistics.items()}
    made = {"class_names": list(domains.class_names), "statistics": columns}
    told = {name: value for name, value in made.items() if value}
    return Setting(names, domains.input_shape, domains.classes, domains.targets, domains.description, made=told)


def _learned(job: Job, strategy: HessianAlignment, grid: Grid) -> Setting:
    """What the clients say of their data when they introduce themselves; the targets are the server's."""
    config = job.config
    members = strategy.talk.meet(grid, 1)
    found = {str(one.input_shape): one for one in members}
    if len(found) > 1:
        told = listed(
            (f"client {one.client_id} ({one.domain}): {one.input_shape}" for one in found.values()), between="; "
        )
        raise FedhaError(f"the clients' inputs have different shapes: {told}; every domain must have the same one")
    names = tuple(dict.fromkeys(one.domain for one in members))
    check_once(config.data, members)
    shape = members[0].input_shape
    examples = listed((f"{one.domain} {one.examples}" for one in members), most=MANY)
    told = f"training examples: {examples}" if strategy.secure is None else "how many examples each has is secret"
    description = f"{config.data.name}, each domain at its own site; {told}"
    section, _ = resolved(config, alone=True)
    own = section if job.target_root is None else section.model_copy(update={"root": job.target_root})
    targets = data.load_targets(own, config.seed[0])
    return Setting(names, shape, data.class_count(config.data), targets, description)


def _started(job: Job, model: SplitModel, setting: Setting) -> tuple[Start | None, tuple[str, ...]]:
    """Begin with another run's model where the config says so; and what the numbers should not be read without."""
    config = job.config
    if config.model.start is None:
        return None, ()
    folder = job.start or config.model.start.run
    begun, trained = start_from(model, config.model.start, folder, head=config.model.start_head)
    seen = [one.name for one in setting.targets if one.name in trained]
    told = f"the run that it starts from, {begun.run}, was trained on {listed(seen)}, which is unseen here alone"
    spent = "what the run that it starts from released of the same examples is not in this run's epsilon"
    return begun, ((told,) if seen else ()) + ((spent,) if config.privacy.protect != "nothing" else ())


def _watched(job: Job, setting: Setting) -> dict[str, tuple[Domain, ...]]:
    """What of the unseen domains is evaluated; of a fold, the source that is left out, whole."""
    if job.left_out is not None:
        return {splits.TEST: setting.targets}
    return splits.watched(setting.targets, job.config.data, job.config.seed[0])


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
    record: dict[str, Any], strategy: HessianAlignment, setting: Setting, judge: Judged, seconds: float = 0.0
) -> dict[str, Any]:
    """A round's record with what the clients evaluated, and the seconds that this took."""
    held_out = judge.told("held_out", _held_out(strategy, setting))
    last = {"target": record["target"], "seconds": record["seconds"] + seconds}
    rest = {key: value for key, value in record.items() if key not in last}
    return {**rest, "held_out": held_out, **last}


def _ask_to_evaluate(strategy: HessianAlignment, grid: Grid, number: int, parts: str, *, over: bool) -> float:
    """Let every client evaluate the model that is shown; returns the seconds that it took."""
    begun = time.perf_counter()
    questions = strategy.configure_evaluate(number, strategy.shown(over=over), ConfigRecord({"parts": parts}), grid)
    strategy.aggregate_evaluate(number, strategy.talk.deliver(grid, list(questions)))
    if not over:
        strategy.begun().hear(strategy.last_evaluation.get("held_out", {}))
    return time.perf_counter() - begun


def _held_out(strategy: HessianAlignment, setting: Setting) -> dict[str, Any]:
    """What was last counted of each source's held-out part."""
    found = strategy.last_evaluation.get("held_out", {})
    names = setting.names if strategy.secure is None else (POOLED,)
    return {name: found.get(name, {"examples": 0}) for name in names}


def _evaluate_the_rest(strategy: HessianAlignment, grid: Grid, number: int) -> None:
    """What is asked after a last round alone, where training ended for what was asked after every one."""
    if strategy.task.privacy.protect == "examples":  # held-out examples were evaluated, and no others are
        return
    known = strategy.last_evaluation
    _ask_to_evaluate(strategy, grid, number, "train", over=True)
    strategy.last_evaluation = {**known, **strategy.last_evaluation}


def _results(
    job: Job,
    strategy: HessianAlignment,
    setting: Setting,
    judge: Judged,
    records: list[dict[str, Any]],
    stopped: str,
    early: str,
) -> dict[str, Any]:
    config, privacy = job.config, budget.report(strategy.begun(), stopped)
    folds, absences = {}, left_out(records)
    if config.evaluation.leave_one_domain_out and job.left_out is None:
        folds = {name: runfolder.read_metrics(fold_folder(job.folder, name)) for name in setting.names}
    results = {
        "name": config.name,
        "recipe": config.recipe[0].name,
        "seed": config.seed[0],
        "rounds": records[-1]["round"] if stopped or early else config.training.rounds,
        "seconds": sum(record["seconds"] for record in records),
        "target": judge.with_intervals("target", judge.pooled["target"]) if judge.wanted else records[-1]["target"],
        "sources": judge.with_intervals("held_out", _held_out(strategy, setting))
        if judge.wanted
        else records[-1]["held_out"],
        "train": judge.told("train", strategy.last_evaluation.get("train", {})),
        "selection": select(records, folds, judge.warmup, judge.kept.by, config.evaluation.metrics),
        **({} if judge.kept.by == ACCURACY else {"select_by": asdict(judge.kept.by)}),
        **({"stopped": early} if early else {}),
        **({"left_out": absences} if absences else {}),
        "data": setting.description,
        **({"remarks": list(setting.remarks)} if setting.remarks else {}),
        "expects": {"input_shape": _written(setting.input_shape), "classes": setting.classes, **setting.made},
        **({"changes": changes} if (changes := runfolder.read_changes(job.folder)) else {}),
        **({"privacy": privacy} if privacy else {}),
        "versions": versions(),
    }
    wrong = divergence(records, results)
    return {**results, "diverged": wrong} if wrong else results


def _written(shape: Any) -> Any:
    """A shape as JSON holds it."""
    return each(list, shape) if nested(shape) else list(shape)


def fold_folder(folder: Path, left_out: str) -> Path:
    """Where the run without one source is written."""
    return folder / "folds" / left_out


def _begin_spending(job: Job, server: Server, members: Sequence[Member], done: int, *, resume: bool) -> str:
    """Take up what was released before; why training has ended already, or "".

    Raises:
        FedhaError: Not even one round fits the budget.
    """
    path = job.folder / runfolder.SPENDING
    server.members = list(members)
    if resume and path.exists():  # rounds after the checkpoint were released too, with noise that nobody can draw again
        server.spending = read_spending(path)
    if not done:
        budget.check_first(server, members)
        return ""
    return budget.ends_before(server, done + 1, members) if done < job.config.training.rounds else ""


def _commit(job: Job, server: Server, round: int, members: Sequence[Member]) -> None:
    """Write what a round is about to release, where its noise is never the same again."""
    noise = {server.site.randomness} if server.task.privacy.protect == "clients" else {one.noise for one in members}
    if server.task.privacy.protect == "nothing" or "cryptographic" not in noise:
        return
    after = budget.after_round(server, round, members)
    own_files.write_json(job.folder, runfolder.SPENDING, after.state())


def _spend_again(job: Job, server: Server, kind: str, client_id: int) -> None:
    """Count what a client that is asked once more releases once more, before it is asked."""
    before = server.spending
    server.spending = before.again(server.task, kind, client_id, server.members)
    if server.spending is not before:
        own_files.write_json(job.folder, runfolder.SPENDING, server.spending.state())
