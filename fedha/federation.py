"""The round as a plain loop: what every engine must reproduce, and the server's side that they share."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fedha import optimizers
from fedha.answers import answer_measure
from fedha.client import Client
from fedha.cohort import Member, averaging_weights, draw_cohort
from fedha.errors import FedhaError, listed
from fedha.exchange import Reply, Request, Task
from fedha.metrics.counts import nested
from fedha.metrics.values import joined
from fedha.minibatches import step_sizes
from fedha.models.check import check_batch_norm, check_parameters, check_trainable
from fedha.models.reach import unreached
from fedha.models.state import RUNNING, State, digests, state_of
from fedha.piggyback import RIDING, answer_train, riders
from fedha.privacy.client_level import private_mean
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.releasable import private_exchanges
from fedha.privacy.shape import noise_of
from fedha.privacy.site import Site
from fedha.privacy.spending import Spending
from fedha.reference import domain_means, weighted_mean
from fedha.rules import applied
from fedha.rules.rule import Answers, Cohort
from fedha.schedule import counts_steps, rate_factor, step_factors
from fedha.steps import check_steps, moving_in
from fedha.training import PARTS
from fedha.verdict import check_mean, problem, refused

Evaluated = dict[str, dict[str, dict[str, Any]]]  # by part and domain


@dataclass
class Server:
    """The server's state: the global model, and what the run's rules keep.

    Attributes:
        task: The run's task.
        parameters: The global model's trained parameters, by name; a step puts new tensors in the old ones' place.
        running: What moves beside them: running statistics that are averaged or stay with clients.
        constants: What never moves: frozen parameters, and buffers.
        kinds: What becomes of each part, in the order in which the whole is handed out; empty: all are trained.
        members: All clients as last met, in client order.
        cohort: The round's clients, in client order; who fails leaves it.
        averaging_weights: Each of its clients' weight in the averages, by client id; they sum to 1.
        states: The rules' tensors, by rule and name (`fedha.rules`).
        piggyback: Whether statistics ride along with the updates (`fedha.piggyback`).
        references: Then those of the round to come; empty where they have to be measured first.
        evaluated: What the last round's clients evaluated along with their updates, as `pool_evaluations` gives it.
        learned: What this round's answers averaged to so far: statistics as they were measured, then the update.
        spending: What the run has had released, where clients' answers are covered.
        site: Where the server's own noise comes from, if clients are protected as a whole.
        secret: What then decides who is drawn, and nobody else knows; empty: everybody does, so nothing is claimed.
        extra_shapes: Shapes of what the rules have clients answer beside their updates, by name.
    """

    task: Task
    parameters: dict[str, Tensor]
    running: dict[str, Tensor] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)
    cohort: list[Member] = field(default_factory=list)
    averaging_weights: dict[int, float] = field(default_factory=dict)
    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    piggyback: bool = False
    references: dict[str, Tensor] = field(default_factory=dict)
    evaluated: Evaluated = field(default_factory=dict)
    learned: dict[str, Tensor] = field(default_factory=dict)
    spending: Spending = field(default_factory=Spending)
    site: Site = field(default_factory=Site)
    secret: bytes = b""
    extra_shapes: Mapping[str, torch.Size] = field(init=False)
    _round: int = 0  # that is under way,
    _drawn: int = 1  # how many clients it drew,
    _sums: int = 0  # and how many sums of theirs it has disturbed

    def __post_init__(self) -> None:
        self.parameters = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.running = {name: value.detach().clone() for name, value in self.running.items()}
        check_steps(self.task.training, self.parameters)
        self.extra_shapes = applied.answer_shapes(self.task.rules, self.parameters)
        self.states = self.states or applied.begin(self.task.rules, self.parameters)

    @classmethod
    def holding(cls, task: Task, state: State, *, piggyback: bool = False) -> "Server":
        """A server that starts from a network's state."""
        return cls(task, state.trained, state.running, state.constants, state.kinds, piggyback=piggyback)

    @property
    def state(self) -> dict[str, Tensor]:
        """The whole global model, as ``load_state_dict`` takes it strictly."""
        return State(self.parameters, self.running, dict(self.constants), self.kinds).whole()

    def shown(self, *, over: bool) -> dict[str, Tensor]:
        """The whole model that is evaluated and kept: the global one, unless a rule averages those of several rounds.

        Args:
            over: Whether training is.
        """
        parameters = applied.shown(self.task.rules, self.states, self.parameters, over)
        return State(parameters, self.running, dict(self.constants), self.kinds).whole()

    @property
    def shows_another(self) -> bool:
        """Whether what is evaluated is another model than the one that is trained."""
        return any(rule.shows is not None for rule in self.task.rules)

    def hear(self, held_out: Mapping[str, Mapping[str, float]]) -> None:
        """Tell the rules, before training is over, how good the shown model is on what the domains hold out."""
        risks = [one["risk"] for one in held_out.values() if "risk" in one]
        if risks:
            self.states = applied.heard(self.task.rules, self.states, sum(risks) / len(risks))

    def gather(self, round: int, members: Sequence[Member]) -> list[Member]:
        """Draw a round's clients.

        Args:
            round: From 1.
            members: All clients, in any order.

        Raises:
            FedhaError: Two clients have one id, or more are asked for than there are.
        """
        ordered = sorted(members, key=lambda one: one.client_id)
        client_ids = [one.client_id for one in ordered]
        if len(set(client_ids)) < len(client_ids):
            twice = listed(client_id for client_id, count in Counter(client_ids).items() if count > 1)
            raise FedhaError(f"several clients have the id {twice}; give each its own partition-id in the node config")
        self.cohort = self.drawn(round, ordered)
        self.members = ordered
        weights = averaging_weights(self.task.training, self.cohort)
        self.averaging_weights = {one.client_id: weight for one, weight in zip(self.cohort, weights, strict=True)}
        self.learned = {}
        self.spending = self.spending.round(self.task, self.cohort, ordered, hidden=bool(self.secret))
        self._round, self._drawn, self._sums = round, len(self.cohort), 0
        return self.cohort

    def drawn(self, round: int, members: Sequence[Member]) -> list[Member]:
        """A round's clients. Where being drawn is to hide them, the server's secret decides; else the run's seed."""
        secret = self.secret if self.task.privacy.protect == "clients" else b""
        return draw_cohort(self.task.training, self.task.seed, round, members, secret)

    def measurements(self) -> tuple[tuple[str, ...], ...]:
        """What has to be measured before the clients can train: one tuple of statistics an exchange."""
        if self.task.privacy.protect == "examples":
            return private_exchanges(self.task.recipe)
        return () if self.references else self.task.recipe.measurements()

    def riders(self, round: int) -> tuple[str, ...]:
        """The statistics that ride along with a round's updates: the last round's would serve nobody."""
        return riders(self.task.recipe) if self.piggyback and round < self.task.training.rounds else ()

    def sent_along(self) -> dict[str, Tensor]:
        """What the rules send along with a request to train."""
        return applied.sent_along(self.task.rules, self.states)

    @property
    def weighs_updates(self) -> bool:
        """Whether the weights of the clients' updates come after them, so that nobody may add them up before."""
        return any(rule.weigh is not None for rule in self.task.rules)

    def refer(self, replies: Iterable[Reply]) -> dict[str, Tensor]:
        """Average one exchange's statistics into references; who did not answer leaves the cohort."""
        references, _ = self._mean(replies, self.averaging_weights, "statistics")
        self.learned |= references
        told, self.states = applied.referred(self.task.rules, self.states, references)
        return told

    def step(self, round: int, replies: Iterable[Reply]) -> dict[str, Any]:
        """Average one round's updates, apply them, and return the round's numbers."""
        rules, weights = self.task.rules, dict(self.averaging_weights)
        if self.weighs_updates:
            # every risk must be known before any update can be weighed
            replies = list(in_order(replies, [one.client_id for one in self.cohort]))
            weighed, self.states = applied.weighed(rules, self.states, _answering(replies, weights))
            weights = dict(weighed)
        mean, answered = self._mean(replies, weights, "update")
        self.learned |= mean
        self.references, self.states = applied.referred(rules, self.states, applied.below(mean, RIDING))
        self.evaluated = pool_evaluations(answered)
        answers = self._answers(mean, round, len(answered))
        parameters, states = applied.aggregated(rules, self.states, answers)
        if any(value.is_cuda for value in mean.values()):  # only now that the card has what to do next
            check_mean(mean, round)
        self.states = states
        self.parameters |= moving_in(self.task.training, round, parameters)
        self.running = {name: _moved(value, mean[f"{RUNNING}{name}"]) for name, value in self.running.items()}
        return {**_summary(self.task, round, answered), **self._rates(round, answers.rate)}

    def _rates(self, round: int, rate: float) -> dict[str, Any]:
        """The round's last learning rate, and that of each part of the network that has its own.

        Where local steps are counted, it is that of the client with the most examples; nothing where nobody says.
        """
        training = self.task.training
        if training.mode == "local":
            most = max((one.examples for one in self.cohort), default=0)
            if not most and counts_steps(training) and training.local.steps is None:
                return {}
            steps = len(step_sizes(self.task, max(1, most)))
            rate = training.local.learning_rate * step_factors(training, round, steps)[-1]
        parts = {part: rate * factor for part, factor in training.rates.items()}
        return {"rate": rate, **({"rates": parts} if parts else {})}

    def _answers(self, mean: Mapping[str, Tensor], round: int, answered: int) -> Answers:
        """What a round's clients answered together, as the rules see it."""
        training = self.task.training
        usual = next(rule.rate for rule in self.task.rules if rule.aggregate is not None)
        rate = usual if training.learning_rate is None else training.learning_rate
        update = {name: mean[name] for name in self.parameters}
        if training.mode == "synchronous":  # in local mode it is the clients who step: rate and gradients are theirs
            rate *= rate_factor(training, round)
            update = optimizers.clip(update, training.clip_norm)
        return Answers(
            self.parameters,
            update,
            applied.below(mean, applied.EXTRA),
            rate,
            len(self.members),
            answered,
            restart=_restarts(self.task, round),
        )

    def _mean(
        self, replies: Iterable[Reply], weights: Mapping[int, float], what: str
    ) -> tuple[dict[str, Tensor], list[Reply]]:
        """Average as replies come, and keep their numbers: no more than what is out of order stays in memory."""
        answered: list[Reply] = []
        hides = self.task.privacy.protect == "clients"

        def weighed() -> Iterator[tuple[Mapping[str, Tensor], float]]:
            for reply in in_order(replies, [one.client_id for one in self.cohort]):
                answered.append(replace(reply, tensors={}))
                if not reply.weighed:
                    yield reply.tensors, weights[reply.client_id]
                elif reply.tensors:
                    yield reply.tensors, 1.0

        mean = self._disturbed(weighed(), what) if hides else weighted_mean(weighed())
        if len(answered) < len(self.cohort):
            present = {reply.client_id for reply in answered}
            if not hides:  # the others' weights grow alike; a private mean is divided by what was drawn, whoever came
                scale = 1 / sum(weights[client_id] for client_id in present)
                mean = {name: value * scale for name, value in mean.items()}
            left = {one: weight for one, weight in self.averaging_weights.items() if one in present}
            rest = sum(self.averaging_weights[one] for one in present)
            self.averaging_weights = {one: weight / rest for one, weight in left.items()}
            self.cohort = [one for one in self.cohort if one.client_id in present]
        return mean, answered

    def _disturbed(self, replies: Iterable[tuple[Mapping[str, Tensor], float]], what: str) -> dict[str, Tensor]:
        """Clip each client's answer, sum, add noise, divide by the number that was drawn."""
        privacy, measured = self.task.privacy, what == "statistics"
        norm = privacy.statistics_clip if measured else privacy.clip
        noise = noise_of(privacy) * (privacy.statistics_noise if measured else 1.0)
        self._sums += 1
        source = self.site.source(self.task.seed, self._round, "server", what, self._sums)
        # what no client's loss can move is no part of the sum: no share of the clip, no noise, whatever is sent
        idle = set.intersection(*(set(one.unreached) for one in self.members)) if not measured else set()
        kept = ({name: value for name, value in one.items() if name not in idle} for one, _ in replies)
        mean = private_mean(kept, Mechanism(norm, noise, self._drawn), source)
        if not idle or not mean:
            return mean
        every = ((name, mean.get(name)) for name in self.parameters)
        return {name: torch.zeros_like(self.parameters[name]) if value is None else value for name, value in every}


def _restarts(task: Task, round: int) -> bool:
    """Whether the server's optimiser begins afresh: a warm-up has ended, or the head is no longer trained alone."""
    recipe, probed = task.recipe, task.training.head_rounds
    warmed = bool(recipe.reset_optimizer and recipe.warmup_rounds and round == recipe.warmup_rounds + 1)
    return warmed or bool(probed and round == probed + 1)


def _moved(value: Tensor, by: Tensor) -> Tensor:
    """A running part after a round; counts stay whole."""
    after = value - by if value.is_floating_point() else (value.double() - by.double()).round()
    return after.to(value.dtype)


def in_order(replies: Iterable[Reply], client_ids: Sequence[int]) -> Iterator[Reply]:
    """Replies in client order, each as soon as all before it have come; one that is missing holds up to the end.

    Args:
        replies: In order of arrival.
        client_ids: Whose replies are expected, ascending.

    Raises:
        FedhaError: Two replies from one client id, or one from an id that was not asked.
    """
    waiting: dict[int, Reply] = {}
    expected = list(client_ids)
    asked, heard, upto = set(client_ids), set(), 0
    for reply in replies:
        if reply.client_id in heard or reply.client_id not in asked:
            raise FedhaError(
                f"a client replied as client {reply.client_id}, which "
                f"{'another one has' if reply.client_id in heard else 'was not asked'}; "
                "each must have its own id, so check partition-id in their node config"
            )
        heard.add(reply.client_id)
        waiting[reply.client_id] = reply
        while upto < len(expected) and expected[upto] in waiting:
            yield waiting.pop(expected[upto])
            upto += 1
    yield from (waiting[client_id] for client_id in sorted(waiting))


def by_domain(replies: Sequence[Reply], metric: str) -> dict[str, float]:
    """A number of each domain that sent it: its only client's, or the mean over its clients' examples."""
    return domain_means((one.domain, one.metrics[metric], one.examples) for one in replies if metric in one.metrics)


def pool_evaluations(replies: Sequence[Reply]) -> Evaluated:
    """Evaluations by part and domain, ``{part: {domain: {accuracy, risk, examples}}}``, over the domain's clients.

    What was counted beside has its name there, and what is of one group stands in ``groups``, by its name.
    """
    numbers: Evaluated = {}
    for reply in sorted(replies, key=lambda one: one.client_id):
        own: dict[str, dict[str, Any]] = {}
        for key, value in {**reply.metrics, **reply.sums}.items():
            part, _, name = key.partition("/")
            if part in PARTS:
                own.setdefault(part, {})[name] = value
        for part, measured in own.items():
            domains = numbers.setdefault(part, {})
            domains[reply.domain] = joined(domains.get(reply.domain, {"examples": 0}), nested(measured))
    return numbers


def run_round(
    server: Server,
    clients: Sequence[Client],
    round: int,
    *,
    on_client_error: Literal["stop", "skip"] = "stop",
) -> dict[str, Any]:
    """One round over clients in this process: measure, refer, train, aggregate.

    Args:
        server: Changed in place.
        clients: In client order.
        round: From 1.
        on_client_error: Whether a client that fails, or whose answer does not count, ends the run or is left out.

    Returns:
        The round's numbers: loss, risk and accuracy by domain, penalty by term, weight; and the events, if there were.

    Raises:
        FedhaError: A client fails, or none is left.
    """
    constants = digests(server.constants)
    for model in {id(client.model): client.model for client in clients}.values():
        check_trainable(model)
        check_batch_norm(model, server.task.training, server.task.privacy)
        check_parameters(model, {name: value.shape for name, value in server.state.items()})
        state = state_of(model)
        if state.trained.keys() != server.parameters.keys() or state.running.keys() != server.running.keys():
            raise FedhaError(
                "the server trains other parameters than the clients; make it with Server.holding(task, "
                "state_of(model))"
            )
        if constants and digests(state.constants) != constants:
            raise FedhaError("a client's frozen parameters or buffers are not the server's; let both have one network")
    references, left_out = dict(server.references), dict[int, dict[str, Any]]()
    cohort = {one.client_id for one in server.gather(round, [_met(client, server.task) for client in clients])}

    def ask(what: Literal["measure", "train"], measure: tuple[str, ...]) -> list[Reply]:
        replies, weights, sent = [], server.averaging_weights, server.sent_along() if what == "train" else {}
        asked = Request(
            server.task, round, server.parameters, references, measure, sent=sent, kind=what, running=server.running
        )
        for client in (one for one in clients if one.client_id in cohort - left_out.keys()):
            try:
                replies.append(_answer(client, replace(asked, averaging_weight=weights[client.client_id])))
            except FedhaError as error:
                if on_client_error == "stop":
                    raise
                event = {"event": "refused", "client": client.member.who, "exchange": what, "reason": str(error)}
                left_out[client.client_id] = event
        if not replies:
            reasons = "; ".join(one["reason"] for one in left_out.values())
            raise FedhaError(f"no client is left in round {round}: {reasons}")
        return replies

    for measure in server.measurements():
        references |= server.refer(ask("measure", measure))
    record = server.step(round, ask("train", server.riders(round)))
    return {**record, **({"events": list(left_out.values())} if left_out else {})}


def _answer(client: Client, request: Request) -> Reply:
    """A client's answer, if it may enter an average."""
    reply = (answer_measure if request.kind == "measure" else answer_train)(client, request)
    if (wrong := problem(reply, {})) is not None:
        raise refused(client.member.who, request.kind, request.round, wrong)
    return reply


def _met(client: Client, task: Task) -> Member:
    """A client as it would introduce itself."""
    if task.privacy.protect != "clients":
        return client.member
    return replace(client.member, unreached=unreached(client.model, client.domain.train.form))


def _answering(replies: Sequence[Reply], weights: Mapping[int, float]) -> Cohort:
    return Cohort(
        weights,
        {one.client_id: one.domain for one in replies},
        {one.client_id: one.metrics["risk"] for one in replies if "risk" in one.metrics},
        {one.client_id: one.examples for one in replies},
        {one.client_id: one.tensors for one in replies},
    )


def _summary(task: Task, round: int, replies: Sequence[Reply]) -> dict[str, Any]:
    terms = [key for key in replies[0].metrics if key.startswith("penalty/")]
    losses = [reply.metrics["loss"] for reply in replies if "loss" in reply.metrics]  # not sent where it is not covered
    return {
        "round": round,
        **({"loss": sum(losses) / len(replies)} if len(losses) == len(replies) else {}),
        "risk": by_domain(replies, "risk"),
        "accuracy": by_domain(replies, "accuracy"),
        "penalty": {
            key.removeprefix("penalty/"): sum(reply.metrics[key] for reply in replies) / len(replies) for key in terms
        },
        "weight": task.recipe.scheduled_weight(round),
        "clients": len(replies),
    }
