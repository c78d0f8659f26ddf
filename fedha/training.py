"""A client's work: measure statistics, take a step or many, evaluate."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from fedha import cross_entropy
from fedha.client_state import ClientState
from fedha.data.domain import Domain
from fedha.data.examples import Examples, largest_number
from fedha.data.groups import groups_of
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request
from fedha.means import derived, means_of
from fedha.measurement import Circumstances, measure
from fedha.metrics.asked import NOTHING, Asked
from fedha.metrics.counts import Numbers, numbers_of
from fedha.minibatches import measured_rows, minibatches, step_sizes
from fedha.mixup import Mixing
from fedha.models.random_layers import Key, random_parts
from fedha.models.split import SplitModel
from fedha.models.state import LOCAL, RUNNING
from fedha.numerics import first_not_finite
from fedha.objective import Objective, descend
from fedha.penalty import active_terms
from fedha.pieces import Batch, in_pieces, rows_at_once, with_next
from fedha.recipes import Recipe
from fedha.reference import moving_average
from fedha.rules import applied
from fedha.rules.rule import Work
from fedha.sharpness import climbed
from fedha.steps import local_steps, moving_in
from fedha.targets import softening

Named = Mapping[str, float]

PARTS = ("held_out", "train")  # of a domain, that may be evaluated
_LARGE = 1e3  # inputs beyond are rarely meant


class Holder(Protocol):
    """Who holds the data and answers: what a client is here (`fedha.client.Client`)."""

    client_id: int
    domain: Domain
    model: SplitModel
    state: ClientState
    last_pass: object
    stays: bool

    def reply(
        self, tensors: Mapping[str, Tensor], metrics: Mapping[str, Any] | None = None, *, weighed: bool = False
    ) -> Reply:
        """An answer in this client's name; of the metrics, what are several numbers each are its sums."""


def answer_measure(client: Holder, request: Request) -> Reply:
    """Measure the statistics that a request asks for, on the round's examples at the global model."""
    batch = _measured_batch(client, request)
    with named(client, request):
        tensors = _measured(batch, request.measure, circumstances(client, request, reference=True))
    for name, offset in average_offsets(client, request.task.recipe).items():
        if name in tensors:
            tensors[name] = tensors[name] + offset
    if (wrong := first_not_finite(tensors)) is not None:
        raise not_finite(client, request, wrong)
    return client.reply(tensors)


def answer_train(client: Holder, request: Request) -> Reply:
    """Minimise risk plus penalty from the global model, and return the update.

    The update is what the server subtracts: the gradient in synchronous mode, the global minus the local parameters in
    local mode. What the run's rules ask for beside it has their names (`fedha.rules.applied`).
    """
    train = _one_gradient if request.task.training.mode == "synchronous" else _local_steps
    with as_before(client), named(client, request):
        update, metrics = train(client, request)
        client.last_pass = None
        if first_not_finite(update) is not None:
            raise not_finite(client, request, "loss", f"risk {metrics['risk']:.4g}, ")
    return client.reply(update, metrics)


@contextmanager
def as_before(client: Holder) -> Iterator[None]:
    """What was not answered has not happened: a client remembers nothing of it."""
    before = client.state
    try:
        yield
    except Exception:
        client.state = before
        raise


def not_finite(client: Holder, request: Request, what: str, more: str = "") -> FedhaError:
    """The error for an answer that is not finite: it blames the inputs where these are large, else the training."""
    largest = largest_number(client.domain.train)
    scale = "scale the inputs to about 1, or " if largest > _LARGE else ""
    return FedhaError(
        f"the {what} of domain {client.domain.client_name!r} is not finite in round {request.round} ({more}inputs up "
        f"to {largest:.4g}); {scale}lower training.learning_rate or the recipe's weight"
    )


def answer_evaluate(client: Holder, request: Request) -> Reply:
    """Evaluate the global model on the parts of the domain that a request names: held_out, train."""
    numbers: Numbers = {}
    for part in request.evaluate:
        if part not in PARTS:
            raise FedhaError(f"the server asks to evaluate {part!r}; the parts of a domain are {', '.join(PARTS)}")
        examples: Examples = getattr(client.domain, part)
        whole = {**request.parameters, **running_of(client, request)}
        for name, value in evaluate(client.model, whole, examples, request.asked).items():
            numbers[f"{part}/{name}"] = value
    return client.reply({}, numbers)


def evaluate(
    model: SplitModel, parameters: Mapping[str, Tensor], examples: Examples, wanted: Asked = NOTHING
) -> Numbers:
    """Accuracy, risk and number of examples, in evaluation mode; no examples give no accuracy.

    Args:
        model: The network.
        parameters: And buffers, by name; what is left out is the model's own.
        examples: Any.
        wanted: What is counted beside.

    Returns:
        {"accuracy": fraction, "risk": nats, "examples": count}, or {"examples": 0}; and as `numbers_of`.
    """
    if len(examples) == 0:
        return {"examples": 0}
    own = {name: value.clone() for name, value in parameters.items()}  # a network may write to what it is handed
    logits = in_pieces(model, model, own, examples)
    losses, hits = cross_entropy.losses(logits, examples.labels), cross_entropy.hits(logits, examples.labels)
    return numbers_of(losses, hits, logits, examples.labels, wanted, groups_of(examples, wanted.groups))


@contextmanager
def named(client: Holder, request: Request) -> Iterator[None]:
    """Say whose batch, and when, was too small for a statistic."""
    try:
        yield
    except ValueError as error:
        raise FedhaError(f"domain {client.domain.client_name!r} in round {request.round}: {error}") from error


def _one_gradient(client: Holder, request: Request) -> tuple[dict[str, Tensor], dict[str, float]]:
    batch = _measured_batch(client, request)
    objective = _at_start(client, request, batch)
    gradient, metrics = _descend(batch, objective)
    moved = how_moved(client, request, batch.moved) if request.running else {}
    moving = moving_in(request.task.training, request.round, gradient)
    gradient = {name: value if name in moving else torch.zeros_like(value) for name, value in gradient.items()}
    return gradient | moved, {**metrics, "accuracy": _mean(batch, "accuracy")}


def _local_steps(client: Holder, request: Request) -> tuple[dict[str, Tensor], dict[str, float]]:
    start = _measured_batch(client, request)
    objective = _at_start(client, request, start)
    looks = looks_at_start(request)
    first = {name: _mean(start, name) for name in ("risk", "accuracy")} if looks else {}
    parameters, running = _at_request(client, request)
    rules, seen = request.task.rules, list[dict[str, float]]()
    own = applied.client_start(rules, client.state.rule, request.parameters)
    correct = applied.correction(rules, request.parameters, request.sent, own)
    examples = len(client.domain.train)
    moving = moving_in(request.task.training, request.round, parameters)
    steps = local_steps(request.task.training, request.round, len(step_sizes(request.task, examples)), moving)
    batches = with_next(minibatches(request, examples, client.client_id))
    for step, (rows, after) in enumerate(batches, 1):
        if after is not None:
            client.domain.train.expect(after[: start.most], start.draws)
        draw_key = _draw_key(client, request, step)
        batch = replace(
            start,
            parameters=parameters,
            rows=rows,
            trained=True,
            running=running,
            draw_key=draw_key,
            mixing=_mixing(client, request, step),
        )
        gradient, metrics = _descend(batch, objective)
        seen.append(metrics if looks else {**metrics, "accuracy": _mean(batch, "accuracy")})
        gradient |= correct(
            {name: gradient[name] for name in request.parameters},
            {name: parameters[name].detach() for name in request.parameters},
        )
        steps.take({name: gradient[name] for name in moving})
        running = batch.moved
    means = {name: sum(one[name] for one in seen) / len(seen) for name in seen[0]}
    end = {name: parameters[name].detach() for name in request.parameters}
    risks = _risks(request, start, parameters, running, first)
    extra, own = applied.answered(rules, Work(request.parameters, end, len(seen), steps.rate, request.sent, own, risks))
    client.state = replace(client.state, rule=own)
    update = {name: request.parameters[name] - value for name, value in end.items()}
    moved = how_moved(client, request, {**parameters, **running}) if request.running else {}
    return update | extra | moved, {**means, **first}


def _risks(
    request: Request, start: Batch, parameters: dict[str, Tensor], running: Mapping[str, Tensor], first: Named
) -> dict[str, float]:
    """The risks of what a client measures that the run's rules ask for, at the models that it begins and ends with."""
    wanted = {one for rule in request.task.rules for one in rule.measures}
    found = {"start": first["risk"]} if "start" in wanted else {}
    if "end" in wanted:
        own = {name: value.detach() for name, value in parameters.items()}
        found["end"] = _mean(replace(start, parameters=own, running=running, trained=False), "risk")
    return found


def _descend(batch: Batch, objective: Objective) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The gradient of a step, at the model or up its loss as the recipe says, and the loss's parts at the model."""
    gradient, metrics = descend(batch, objective)
    radius = objective.recipe.sam_radius
    if radius:
        gradient, _ = descend(climbed(batch, gradient, radius), objective)
    return gradient, metrics


def _mixing(client: Holder, request: Request, step: int = 0) -> Mixing | None:
    """How a step's examples are mixed; step 0 is the batch that is measured."""
    alpha = request.task.recipe.mixup_alpha
    return Mixing(alpha, (request.task.seed, "mixup", request.round, client.client_id, step)) if alpha else None


def running_of(client: Holder, request: Request) -> dict[str, Tensor]:
    """What moves beside the trained parameters, at a round's start: the server's, or the client's own."""
    return {name: client.state.local.get(name, value) for name, value in request.running.items()}


def how_moved(client: Holder, request: Request, now: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the server subtracts of the parts that are running, and what the client keeps of them for itself.

    Args:
        client: Its state has its own afterwards, where they stay with it.
        request: Of the round.
        now: These parts after the round, by name, beside others.
    """
    if client.model.batch_norm == LOCAL:
        own = {name: now[name].detach().clone() for name in request.running}
        client.state = replace(client.state, local=own)
    precision = next(iter(request.parameters.values())).dtype
    return {f"{RUNNING}{name}": (was - now[name].detach()).to(precision) for name, was in request.running.items()}


def looks_at_start(request: Request) -> bool:
    """Whether local steps begin with a look at what is measured: risk and accuracy are then of the global model.

    Where nothing is measured they are those of the steps, and no pass is made for them.
    """
    recipe = request.task.recipe
    asked = any(rule.weigh or "start" in rule.measures for rule in request.task.rules)
    return asked or bool(active_terms(recipe, request.averaging_weight))


def _measured_batch(client: Holder, request: Request) -> Batch:
    """What the client measures in a round, at the request's model: what is computed of it serves all exchanges."""
    rows, draw_key = measured_rows(request, len(client.domain.train), client.client_id), _draw_key(client, request)
    kept = client.last_pass
    mixing = _mixing(client, request)
    if isinstance(kept, Batch) and (kept.draw_key, kept.mixing, _same(kept.rows, rows)) == (draw_key, mixing, True):
        known, given = {**kept.parameters, **kept.running}, {**request.parameters, **running_of(client, request)}
        if known.keys() == given.keys() and all(_same(known[name], value) for name, value in given.items()):
            return kept
    parameters, running = _at_request(client, request)
    most, trained = rows_of_a_piece(client, request), request.task.training.mode == "synchronous"
    draws = (request.task.seed, request.round, client.client_id)
    soften = softening(request.task.training, client.model, client.domain.train, always=mixing is not None)
    train = client.domain.train
    fresh = Batch(client.model, parameters, train, rows, most, trained, draws, running, draw_key, soften, mixing)
    client.last_pass = fresh
    expect_next(client, request, most)
    return fresh


def expect_next(client: Holder, request: Request, most: int) -> None:
    """Let the data begin with what the next round takes first, while this one is computed.

    Args:
        client: Of a process that will answer again.
        request: Of this round.
        most: Rows that go through the network at once.
    """
    task, train = request.task, client.domain.train
    surely = task.training.clients_per_round is None and request.round < task.training.rounds
    if not client.stays or not surely or train.in_memory or task.privacy.protect == "examples":
        return
    later = replace(request, round=request.round + 1)
    measures = task.training.mode == "synchronous" or looks_at_start(later)
    first = measured_rows if measures else lambda *given: next(minibatches(*given))
    rows = first(later, len(train), client.client_id)
    draws = (task.seed, later.round, client.client_id)
    train.expect(slice(most) if rows is None else rows[:most], draws)


def _at_request(client: Holder, request: Request) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Leaves of what is trained at the request's model, and the running statistics there."""
    weights, trained, running = set[str](), dict(request.parameters), running_of(client, request)
    if running:
        weights = {name for name, _ in client.model.named_parameters()}
        trained |= {name: value for name, value in running.items() if name in weights}
    leaves = {name: value.detach().clone().requires_grad_() for name, value in trained.items()}
    return leaves, {name: value for name, value in running.items() if name not in weights}


def _draw_key(client: Holder, request: Request, step: int = 0) -> Key | None:
    """By what a step's forward passes draw; step 0 is the one that is measured. None: the network draws nothing."""
    if not any(random_parts(client.model, client.domain.train.form)):
        return None
    return (request.task.seed, "chance", request.round, client.client_id, step)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def rows_of_a_piece(client: Holder, request: Request, pieces: int = 1) -> int:
    """Rows that go through the network at once; unless `training.chunk` says so, in the memory of so many pieces."""
    recipe, training = request.task.recipe, request.task.training
    wanted = [term.statistic for term in recipe.terms]
    form = client.domain.train.form
    return training.chunk or rows_at_once(client.model, form, wanted, recipe.probes, pieces)


def _measured(batch: Batch, names: Sequence[str], around: Circumstances) -> dict[str, Tensor]:
    """Statistics of a batch by name, without a graph."""
    if not batch.whole:
        return derived(names, means_of(batch, names, around), batch.size)
    (seen,) = batch.measured()
    with torch.no_grad(), cross_entropy.shared():
        return {name: measure(name, seen.view, seen.features, seen.labels, around) for name in names}


def _mean(batch: Batch, name: str) -> float:
    """Risk or accuracy of a batch."""
    with torch.no_grad():
        values = [
            seen.fraction * getattr(seen.view.functions, name)(*seen.view.arguments, seen.features, seen.labels)
            for seen in batch.measured()
        ]
    return float(torch.stack(values).sum())


def _at_start(client: Holder, request: Request, batch: Batch) -> Objective:
    """The round's loss, with what the client measures at its start; moves the moving averages on."""
    recipe = request.task.recipe
    offsets, known = average_offsets(client, recipe), known_at_start(recipe)
    own = _measured(batch, known, circumstances(client, request, reference=True)) if known else {}
    move_averages(client, recipe, own)
    return objective_of(client, request, own, offsets)


def known_at_start(recipe: Recipe) -> tuple[str, ...]:
    """The statistics of its own that a client must know at a round's start."""
    return tuple(
        term.statistic for term in recipe.terms if term.weight and (term.target == "others" or term.client_average)
    )


def objective_of(
    client: Holder, request: Request, own: Mapping[str, Tensor], offsets: Mapping[str, Tensor]
) -> Objective:
    """The round's loss of a client.

    Args:
        client: Whose signs are taken.
        request: Of the round.
        own: Its statistics at the round's start (`known_at_start`).
        offsets: What moving averages add (`average_offsets`).
    """
    recipe, averaging_weight = request.task.recipe, request.averaging_weight
    around, terms = circumstances(client, request, reference=False), active_terms(recipe, averaging_weight)
    training = request.task.training
    return Objective(
        recipe,
        request.round,
        terms,
        training.weight_decay,
        around,
        offsets,
        own,
        averaging_weight,
        decay=training.decay,
    )


def move_averages(client: Holder, recipe: Recipe, own: Mapping[str, Tensor]) -> None:
    """Move the moving averages of a client on by what it measured of itself."""
    for term in recipe.terms:
        if term.client_average and term.statistic in own:
            averages = client.state.averages
            moved = moving_average(averages.get(term.statistic), own[term.statistic], term.client_average)
            client.state = replace(client.state, averages={**averages, term.statistic: moved})


def average_offsets(client: Holder, recipe: Recipe) -> dict[str, Tensor]:
    """What a moving average adds to a statistic: with the published 1 / (1 - decay), decay / (1 - decay) times it."""
    return {
        term.statistic: client.state.averages[term.statistic] * (term.client_average / (1 - term.client_average))
        for term in recipe.terms
        if term.client_average and term.statistic in client.state.averages
    }


def circumstances(client: Holder, request: Request, reference: bool) -> Circumstances:
    owner = None if reference else client.domain.client_name
    task = request.task
    return Circumstances(task.seed, request.round, owner, task.recipe.probes, request.references)
