"""The server's side of a diagnosis over any Grid: clients are asked, and what they answer is measured.

A run's clients are its sources. Its unseen domains are the server's own, where it has them, or lent by volunteers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedha import data, numerics
from fedha.cohort import Member
from fedha.config import Config
from fedha.data.domain import Domain, DomainSet
from fedha.diagnosis import record
from fedha.diagnosis.diagnose import measured
from fedha.diagnosis.party import Kind, Party, Question
from fedha.diagnosis.sample import Sample
from fedha.diagnosis.scene import Scene, check_names, choose
from fedha.diagnosis.settings import Settings
from fedha.diagnosis.subject import Part, Subject, Told, check_config, learned_head, looked_at, sampled
from fedha.errors import FedhaError, listed
from fedha.exchange import DIAGNOSING, SIZES, Reply, Request
from fedha.features import Keeping, behind_trunk
from fedha.flower import questioned
from fedha.flower.attendance import Attendance
from fedha.flower.correspondence import Correspondence
from fedha.flower.delivery import never
from fedha.flower.held import digest
from fedha.flower.job import Job
from fedha.flower.strategy import HessianAlignment
from fedha.flower.wire import pack_request, pack_tensors
from fedha.models import SplitModel, build
from fedha.models.state import LOCAL, constants_name, digests, kinds_of, named_state
from fedha.models.wanted import resolved
from fedha.privacy.contract import contract_of
from fedha.runs import owner, runfolder
from fedha.runs.kept import model_of
from fedha.runs.listener import Listener

EXCHANGES, _EVERY = "exchanges with the clients", 10
_FEATURES = {"attributes", "shift"}  # rows that features are needed for


@dataclass(eq=False)
class Asker:
    """Asks clients what diagnoses ask, an exchange for all that comes at once.

    Attributes:
        talk: With the clients, who have introduced themselves.
        grid: Reaches them.
        request: What every question has alike.
        arrays: The model's.
        clients: Their ids, by domain.
        told: Told of progress.
    """

    talk: Correspondence
    grid: Grid
    request: Request
    arrays: ArrayRecord
    clients: Mapping[str, int]
    told: Told
    exchanges: int = 0

    def __call__(self, questions: Sequence[Question]) -> list[Any]:
        """Answers, in order."""
        found: dict[int, Any] = {}
        for kind in DIAGNOSING:
            places = [place for place, (_, one, _) in enumerate(questions) if one == kind]
            sent: dict[str, dict[str, Tensor]] = {}
            names: dict[int, str] = {}
            for place in places:
                own = sent.setdefault(questions[place][0].name, {})
                names[place] = str(len(own))
                own[names[place]] = questions[place][2]
            replies = self.exchange(kind, sent) if sent else {}
            for place, name in names.items():
                party, _, at = questions[place]
                found[place] = questioned.read(replies[party.name], name, kind, at)
        return [found[place] for place in range(len(questions))]

    def exchange(self, kind: str, sent: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Reply]:
        """Ask each of some domains what is its, and wait for all."""
        self.exchanges += 1
        self.told(EXCHANGES, self.exchanges, self.exchanges)
        made: dict[tuple[int, ...], RecordDict] = {}
        by_node: dict[int, RecordDict] = {}
        for name, own in sent.items():
            key = tuple(map(id, own.values()))
            if key not in made:
                asked = replace(self.request, kind=kind, sent=own)  # type: ignore[arg-type]
                packed = pack_tensors(own)
                made[key] = pack_request(asked, self.arrays, ArrayRecord(), self.talk.task, packed)
            (node,) = self.talk.nodes_of([self.clients[name]])
            by_node[node] = made[key]
        messages, round = self.talk.ask(f"query.{kind}", self.request.round, by_node), self.request.round
        answers = self.talk.deliver(self.grid, messages)
        replies = {one.domain: one for one in self.talk.replies(answers, f"query.{kind}", round)}
        if missing := [name for name in sent if name not in replies]:
            raise FedhaError(f"{listed(missing)} did not answer {kind}: {self.talk.reasons()}")
        return replies

    def parties(self) -> dict[str, Party]:
        """The domains as a diagnosis sees them, by name."""
        nothing = {SIZES: torch.zeros(0)}
        replies = self.exchange("heads", dict.fromkeys(self.clients, nothing))
        made: dict[str, Party] = {}

        def ask(name: str, kind: Kind, at: Tensor) -> Any:
            return self([(made[name], kind, at)])[0]

        for name in self.clients:
            sizes = questioned.sizes_in(replies[name])
            made[name] = Party(name, partial(ask, name, "heads"), partial(ask, name, "directions"), sizes, (), self)
        return made


def serve_diagnosis(
    job: Job,
    grid: Grid,
    listener: Listener,
    *,
    domains: DomainSet | None,
    stop: Callable[[], bool] = never,
    attendance: Attendance | None = None,
) -> dict[str, Any]:
    """Diagnose a finished run over its clients, and write the file.

    Args:
        job: The run, and what is asked about it.
        grid: Reaches the clients.
        listener: Told of how it goes on.
        domains: The run's domains, where they are here; None in a deployment.
        stop: Asked between messages, whether to stop.
        attendance: The sites of a deployment.

    Returns:
        The content of the run's results.json, which stays as it is.

    Raises:
        FedhaError: The run is not finished, cannot be diagnosed so, or a client does not answer.
    """
    if (wanted := job.diagnose) is None:
        raise FedhaError("this job asks for no diagnosis; give it what is asked")
    config, settings, told = job.config, wanted.settings, telling(listener)
    _check(config, settings, here=domains is not None)
    results = runfolder.read_results(job.folder)
    name = model_of(job.folder, results, number=wanted.round)
    numerics.configure(config.engine.threads)
    strategy = _strategy(job, domains)
    talk = strategy.talk
    talk.tell, talk.stop, talk.attendance = listener.note, stop, attendance or talk.attendance
    targets = domains.targets if domains is not None else _own_targets(job)
    names = [one.name for one in targets]
    if domains is None:
        check_names(settings.to, _known_names(config, names) or settings.to)
    sources, lent = _met(strategy, grid, config, names, settings.to if domains is None else ())
    names += [one.domain for one in lent]
    choice = choose(config, [one.domain for one in sources], names, settings)
    model = _learned(job, name, sources[0].input_shape, domains)
    with owner.owning(job.folder), _subject(model, config, domains, targets, settings, told) as (subject, samples):
        own = [one.party() for one in samples]
        parties = _asker(strategy, grid, model, [*sources, *lent], wanted.round, told, keeps=domains is None).parties()
        asked = [parties[one.domain] for one in sources], [parties[one.domain] for one in lent]
        scene = Scene(config, learned_head(model), tuple(asked[0]), (*own, *asked[1]), subject)
        found = measured(scene, choice, settings, told, round=wanted.round, rule=wanted.rule)
        record.write(job.folder, found)
    listener.finished(results)
    return results


def telling(listener: Listener) -> Told:
    """A listener told of progress: of each piece of work once, and of every tenth exchange."""
    before = [""]

    def told(doing: str, done: int, total: int) -> None:
        if doing == EXCHANGES and done % _EVERY == 0:
            listener.note(f"{done} {doing}")
        elif doing not in (before[0], EXCHANGES):
            listener.note(doing)
            before[0] = doing

    return told


def _check(config: Config, settings: Settings, *, here: bool) -> None:
    """Refuse before anybody is asked what is never answered."""
    check_config(config)
    if config.privacy.secure_aggregation:
        raise FedhaError(
            "heads and directions are answered by single clients, which privacy.secure_aggregation hides; where the "
            "data are in one place, diagnose the run without an engine"
        )
    if config.data.clients_per_domain > 1 or config.data.partition is not None:
        raise FedhaError(
            "a domain of this run is several clients (data.clients_per_domain, data.partition), and a diagnosis asks "
            "domains; diagnose the run without an engine"
        )
    if not here and (beside := sorted(_FEATURES & set(settings.rows))):
        raise FedhaError(f"--rows {','.join(beside)} reads features, which leave no site; take transfer,curvature")
    if not here and settings.method == "published":
        raise FedhaError("--method published takes minibatches of features, which leave no site; leave it out")


def _strategy(job: Job, domains: DomainSet | None) -> HessianAlignment:
    config = job.config
    count = config.federation.clients or data.source_count(config.data) if domains is None else len(domains.sources)
    federation = config.federation.model_copy(update={"on_missing": "wait" if domains is None else "stop"})
    strategy = HessianAlignment(
        config.recipe[0],
        config.training,
        seed=config.seed[0],
        clients=count,
        federation=federation,
        privacy=config.privacy,
    )
    strategy.talk.contract = contract_of(config).digest
    return strategy


def _own_targets(job: Job) -> tuple[Domain, ...]:
    """The unseen domains that a deployment's server has."""
    section, _ = resolved(job.config, alone=True)
    own = section if job.target_root is None else section.model_copy(update={"root": job.target_root})
    return data.load_targets(own, job.config.seed[0])


def _known_names(config: Config, own: Sequence[str]) -> tuple[str, ...]:
    """Every domain that can have a part in a deployed run, as far as that is known before anybody is met; else none."""
    named, sources = (*config.data.targets, *own), config.data.sources
    if named and sources:
        return tuple(dict.fromkeys((*named, *sources)))
    try:  # of a data set whose domains do not lie in files, of which a server has its own alone
        return data.domain_names(config.data.model_copy(update={"root": None}))
    except FedhaError:
        return ()


def _met(
    strategy: HessianAlignment, grid: Grid, config: Config, own: Sequence[str], asked: Sequence[str]
) -> tuple[list[Member], list[Member]]:
    """The sources' clients, and those of domains that are lent.

    Args:
        strategy: Has the conversation.
        grid: Reaches the nodes.
        config: Of the run.
        own: Unseen domains that are here.
        asked: Domains whose volunteers are waited for, if they are unseen; of others those who are there will do.

    Raises:
        FedhaError: Some are missing, or two have one domain.
    """
    talk, count = strategy.talk, strategy.talk.rules.clients
    talk.lent = tuple(one for one in dict.fromkeys((*asked, *config.data.targets)) if one not in own)

    def meet(clients: int) -> tuple[list[Member], list[Member]]:
        talk.rules = replace(talk.rules, clients=clients)
        members = talk.meet(grid, 1)
        lent = [one for one in members if one.client_id in talk.lenders]
        return [one for one in members if one not in lent], lent

    sources, lent = meet(count)
    if len(sources) < count:
        sources, lent = meet(count + len(lent))
    there = {one.domain for one in (*sources, *lent)} | set(own)
    known = config.data.targets or asked  # a name that is none of the run's is refused, not waited for
    if missing := [one for one in asked if one in known and one not in there]:
        sources, lent = meet(len(sources) + len(lent) + len(missing))
    holders: dict[str, Member] = {}
    for one in (*sources, *lent):
        if (other := holders.setdefault(one.domain, one)) is not one:
            raise FedhaError(f"{other.who} and {one.who} hold one domain, and a diagnosis asks domains; leave one out")
    return sources, lent


def _learned(job: Job, name: str, shape: Any, domains: DomainSet | None) -> SplitModel:
    """The network with the weights of a file of the run."""
    config = job.config
    classes = data.class_count(config.data) if domains is None else domains.classes
    shape = shape if domains is None else domains.input_shape
    model = build(config.network, shape, classes, config.seed[0], bare=True)
    if LOCAL in kinds_of(model).values():
        raise FedhaError(
            "model.batch_norm is local: each client's network is another, so they answer nothing about one head; "
            "diagnose the run without an engine, where the server's network is looked at"
        )
    try:
        model.load_state_dict(runfolder.read_model(job.folder, name))
    except RuntimeError as error:
        raise FedhaError(f"the weights in {job.folder} are of another network than its config's") from error
    model.eval()
    return model


def _asker(
    strategy: HessianAlignment,
    grid: Grid,
    model: SplitModel,
    members: Sequence[Member],
    round: int,
    told: Told,
    *,
    keeps: bool,
) -> Asker:
    server, talk = strategy.begin(named_state(model), kinds_of(model)), strategy.talk
    if keeps:
        talk.held.model = digest(server.parameters)
    request = Request(
        strategy.task,
        round,
        server.parameters,
        running=server.running,
        constants=constants_name(digests(server.constants)),
        contract=talk.contract,
    )
    clients = {one.domain: one.client_id for one in members}
    return Asker(talk, grid, request, pack_tensors(server.parameters), clients, told)


@contextmanager
def _subject(
    model: SplitModel,
    config: Config,
    domains: DomainSet | None,
    targets: Sequence[Domain],
    settings: Settings,
    told: Told,
) -> Iterator[tuple[Subject | None, Sequence[Sample]]]:
    """Features of all domains where rows need them, and of the unseen ones that are here in any case."""
    if domains is not None and (_FEATURES & set(settings.rows) or settings.method == "published"):
        with looked_at(model, config, domains, told) as subject:
            yield subject, subject.targets
        return
    if not targets:
        yield None, []
        return
    keeping = Keeping.of(config.model.features)
    parts = [Part(one.name, *behind_trunk(model, one.held_out, keeping, one.name)) for one in targets]
    with sampled(parts, {}, 2, told) as samples:
        yield None, samples
