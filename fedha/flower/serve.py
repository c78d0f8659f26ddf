"""The server's side of a whole run, over any Grid: what must be known and agree, the rounds, the run folder."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid

from fedha import data, numerics
from fedha.cohort import cohort_size, simulated_secret
from fedha.config import POOLED, Config, is_elsewhere
from fedha.data.domain import DomainSet
from fedha.data.fingerprint import fingerprint
from fedha.data.groups import groups_of
from fedha.data.partition import client_count, client_names
from fedha.diagnosis.watch import watch
from fedha.errors import FedhaError, listed
from fedha.features import Keeping, ahead
from fedha.flower import booking, secure_rounds
from fedha.flower.attendance import Attendance
from fedha.flower.delivery import never
from fedha.flower.job import Job, fold_folder
from fedha.flower.judged import judged
from fedha.flower.results import results_of
from fedha.flower.rounds import Rounds
from fedha.flower.saving import Saving
from fedha.flower.secure_wire import settings_mark
from fedha.flower.setting import Setting, given, learned, leave_out, load_domains, watched
from fedha.flower.strategy import HessianAlignment
from fedha.flower.targets import evaluation
from fedha.inputs import Form
from fedha.measurement import shapes
from fedha.models import SplitModel, build
from fedha.models.check import check_batch_norm, check_inputs, check_network, likely_form
from fedha.models.state import kinds_of, named_state
from fedha.piggyback import riders
from fedha.privacy.contract import contract_of
from fedha.privacy.releasable import private_exchanges
from fedha.privacy.site import Site
from fedha.recipes import Recipe
from fedha.registry import statistic
from fedha.runs import own_files, owner, resuming, runfolder
from fedha.runs.checkpoint import read_saved
from fedha.runs.cohort_key import kept_secret
from fedha.runs.files import METRICS
from fedha.runs.listener import Listener
from fedha.runs.starting import Start, start_from
from fedha.targets import check_weights
from fedha.unmoved import unmoved

__all__ = ["Job", "check_run", "fold_folder", "leave_out", "load_domains", "serve"]


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
    """Train one run to its end and write its folder; or diagnose it, where the job says so.

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
    if job.diagnose is not None:
        from fedha.flower.diagnosing import serve_diagnosis  # nothing that a run needs

        return serve_diagnosis(job, grid, listener, domains=domains, stop=stop, attendance=attendance)
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
    strategy.talk.again = lambda kind, client_id: booking.enter_again(job, strategy.begun(), kind, client_id)
    strategy.clients_keep_models = domains is None
    if domains is not None:
        strategy.talk.attendance.domains = _domain_names(config, domains)
    elif attendance is not None:
        strategy.talk.attendance = attendance
    setting = learned(job, strategy, grid) if domains is None else given(config, domains)
    model, form = _network(config, setting, domains, device)
    asked = config.evaluation.diagnose_every is not None and job.left_out is None
    looking = watch(model, config, domains) if asked else None
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
    strategy.expected = _expected(config, recipe, model, form)
    resumed = resume and (job.folder / METRICS).exists()
    runfolder.create(job.folder, config, resume=resume)
    if domains is None and config.privacy.protect == "clients" and config.training.clients_per_round is not None:
        server.secret = kept_secret(job.folder, server.secret)
    changed = resuming.changes(job.folder, config) if resume else []
    known = None if domains is None else fingerprint(domains)
    saving = Saving(job.folder, config, strategy, grid, stop, job.left_out, known, start, job.constants)
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
    looks = {part: evaluation(model, ones, kept, judge.asked) for part, ones in watched(job, setting).items()}
    listener.started(config, job.folder, done + 1)
    for remark in setting.remarks:
        listener.note(remark)
    if resumed:
        listener.note(_goes_on(done, config.training.rounds))
    with saving.giving_up(done, pending):
        members = strategy.talk.meet(grid, done + 1)
    stopped = booking.take_up(job, server, members, done, resume=resume)
    rounds = Rounds(
        job,
        strategy,
        grid,
        listener,
        judge,
        saving,
        log,
        looks,
        setting.names,
        records,
        pending,
        stopped=stopped,
        watch=looking,
    )
    rounds.run(done)
    runfolder.write_model(job.folder, server.shown(over=True), server.kinds, constants=job.constants)
    if judge.wanted and "target" not in judge.pooled:  # it was resumed after its last round
        judge.recorded("target", looks["target"](server.shown(over=True)))
    results = results_of(job, rounds, setting) | ({"start": start} if start else {})
    own_files.write_json(job.folder, runfolder.FOLD if job.left_out else runfolder.RESULTS, results)
    listener.finished(deepcopy(results))
    return results


def check_run(config: Config, domains: DomainSet) -> None:
    """Whether a run on these data can have a first round.

    Args:
        config: One recipe, one seed.
        domains: Its data.

    Raises:
        FedhaError: What `serve` would refuse it for.
    """
    clients = _client_count(config, domains)
    secure_rounds.check_clients(config, clients)
    cohort_size(config.training, clients)
    numerics.configure(config.engine.threads)
    strategy, setting = _strategy(config, domains), given(config, domains)
    model, form = _network(config, setting, domains, "cpu")
    strategy.begin(named_state(model), kinds_of(model))
    _started(Job(config, Path()), model, setting)
    recipe = strategy.task.recipe
    _expected(config, recipe, model, form)
    if config.model.features.cache is not None:
        ahead.frozen_part(config, model, form)
    judged(Job(config, Path()), setting.classes, recipe.weak_rounds, setting.names, fold_folder)


def _network(config: Config, setting: Setting, domains: DomainSet | None, device: str) -> tuple[SplitModel, Form]:
    """The run's network, which fits its data, and how inputs reach it."""
    made = build(config.network, setting.input_shape, setting.classes, config.seed[0])
    model = check_network(made).to(torch.device(device))
    form = likely_form(model, setting.input_shape)
    told_apart = check_inputs(model, next(iter(setting.names), POOLED), form)
    if told_apart < setting.classes:
        raise FedhaError(
            f"the network tells {told_apart} classes apart but the data have {setting.classes}; give its head so many "
            "outputs (a function that makes it may take `classes`)"
        )
    if told_apart > setting.classes:  # a pretrained head of 1,000, say: it trains, and its guesses may be no class
        model.remarks += (
            f"the network tells {told_apart:,} classes apart but the data have {setting.classes}: nothing is of the "
            f"other {told_apart - setting.classes:,}, and predictions may be; where that is not meant, give its head "
            f"{setting.classes} outputs (a function that makes it may take `classes`), or set data.classes",
        )
    check_batch_norm(model, config.training, config.privacy)
    check_weights(config.training, setting.classes)
    for domain in (*domains.sources, *domains.targets) if domains is not None else ():
        groups_of(domain.held_out, config.evaluation.groups or "")
    return model, form


def _expected(config: Config, recipe: Recipe, model: SplitModel, form: Form) -> dict[str, torch.Size]:
    """Shapes of what clients will send; a network without what a statistic is of is refused."""
    apart = [term.statistic for term in recipe.terms if term.weight and statistic(term.statistic).representation]
    shapes(model, form, apart, recipe.probes)
    sent = riders(recipe) if config.privacy.protect != "examples" else sum(private_exchanges(recipe), ())
    return shapes(model, form, sent, recipe.probes)


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
