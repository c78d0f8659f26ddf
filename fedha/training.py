"""A client's work: measure statistics, take a step or many, evaluate."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import functional_call

from fedha import statistics
from fedha.cohort import Member
from fedha.config import LocalConfig
from fedha.data.domain import Domain, Examples
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request
from fedha.measurement import Circumstances, HeadView, measure, view_head
from fedha.minibatches import minibatch_sizes
from fedha.models.split import SplitModel
from fedha.penalty import penalty_terms, term_weight
from fedha.privacy import answers
from fedha.privacy.site import Site
from fedha.randomness import generator
from fedha.recipes import Recipe
from fedha.reference import moving_average
from fedha.schedule import rate_factor

PARTS = ("held_out", "train")  # of a domain, that may be evaluated
_LARGE = 1e3  # inputs beyond are rarely meant


@dataclass
class Client:
    """One client: its domain, a model to compute with, and the state that must survive between rounds.

    Attributes:
        index: Its place in client order.
        domain: Its data, on the model's device and of the model's precision.
        model: Structure only; parameters come with each request.
        state: Moving averages by statistic (Fishr), what rode along (`fedha.piggyback`), and a round's released moments
            where examples are protected; mostly empty.
        site: Its own rules: where its noise comes from, what it refuses.
    """

    index: int
    domain: Domain
    model: SplitModel
    state: dict[str, Tensor] = field(default_factory=dict)
    site: Site = field(default_factory=Site)
    _forward: "Forward | None" = None

    @property
    def member(self) -> Member:
        """What the server knows of it."""
        return Member(self.index, self.domain.name, len(self.domain.train))

    def reply(
        self, tensors: Mapping[str, Tensor], metrics: Mapping[str, float] | None = None, *, weighed: bool = False
    ) -> Reply:
        """An answer in this client's name."""
        domain = self.domain
        return Reply(domain.client, domain.name, self.index, len(domain.train), tensors, metrics or {}, weighed)


@dataclass(frozen=True)
class Forward:
    """Features of a whole domain at some parameters, with their graph: kept from measuring to training."""

    parameters: dict[str, Tensor]
    view: HeadView
    features: Tensor
    labels: Tensor


def answer_measure(client: Client, request: Request) -> Reply:
    """Measure the statistics that a request asks for, on the whole domain at the global model."""
    if answers.is_private(request.task.privacy):
        with _named(client, request):
            return client.reply(answers.release_statistics(client, request))
    forward = _whole_domain(client, request)
    around = circumstances(client, request, reference=True)
    with _named(client, request), torch.no_grad(), statistics.shared():
        view = view_head(client.model, forward.parameters)
        tensors = {name: measure(name, view, forward.features, forward.labels, around) for name in request.measure}
    for name, offset in average_offsets(client, request.task.recipe).items():
        if name in tensors:
            tensors[name] = tensors[name] + offset
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise not_finite(client, request, name)
    return client.reply(tensors)


def answer_train(client: Client, request: Request) -> Reply:
    """Minimise risk plus penalty from the global model, and return the update.

    The update is what the server subtracts: the gradient in synchronous mode, the global minus the local parameters in
    local mode.
    """
    if answers.is_private(request.task.privacy):
        with _named(client, request):
            return client.reply(*answers.train_privately(client, request, lambda own: _round_optimizer(request, own)))
    train = _one_gradient if request.task.training.mode == "synchronous" else _local_steps
    with _named(client, request):
        update, metrics = train(client, request)
    client._forward = None
    if not all(bool(value.isfinite().all()) for value in update.values()):
        raise not_finite(client, request, "loss", f"risk {metrics['risk']:.4g}, ")
    return client.reply(update, metrics)


def not_finite(client: Client, request: Request, what: str, more: str = "") -> FedhaError:
    """The error for an answer that is not finite: it blames the inputs where these are large, else the training."""
    largest = float(client.domain.train.inputs.abs().max())
    scale = "scale the inputs to about 1, or " if largest > _LARGE else ""
    return FedhaError(
        f"the {what} of domain {client.domain.client!r} is not finite in round {request.round} ({more}inputs up to "
        f"{largest:.4g}); {scale}lower training.learning_rate or the recipe's weight"
    )


def answer_evaluate(client: Client, request: Request) -> Reply:
    """Evaluate the global model on the parts of the domain that a request names in `measure`: held_out, train."""
    if answers.is_private(request.task.privacy):
        return client.reply({}, answers.evaluate_privately(client, request))
    numbers = {}
    for part in request.measure:
        if part not in PARTS:
            raise FedhaError(f"the server asks to evaluate {part!r}; the parts of a domain are {', '.join(PARTS)}")
        examples: Examples = getattr(client.domain, part)
        for name, value in evaluate(client.model, request.parameters, examples).items():
            numbers[f"{part}/{name}"] = value
    return client.reply({}, numbers)


def evaluate(model: SplitModel, parameters: Mapping[str, Tensor], examples: Examples) -> dict[str, float]:
    """Accuracy, risk and number of examples; no examples give no accuracy.

    Returns:
        {"accuracy": fraction, "risk": nats, "examples": count}, or {"examples": 0}.
    """
    if len(examples) == 0:
        return {"examples": 0}
    correct, total = 0.0, 0.0
    own = {name: value.clone() for name, value in parameters.items()}  # a network may write to what it is handed
    with torch.no_grad():
        for inputs, labels in zip(examples.inputs.split(16384), examples.labels.split(16384), strict=True):
            logits = functional_call(model, own, (inputs,))
            scores = logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], 1)
            correct += float((scores.argmax(1) == labels).sum())
            total += float(torch.nn.functional.cross_entropy(scores, labels, reduction="sum"))
    return {"accuracy": correct / len(examples), "risk": total / len(examples), "examples": len(examples)}


def objective(
    client: Client,
    request: Request,
    forward: Forward,
    offsets: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch, and its parts as numbers.

    ``(risk + L2 + w sum_k lambda_k term_k) / max(1, w)``, the division only where the recipe asks for it.
    """
    recipe, training = request.task.recipe, request.task.training
    weight = recipe.scheduled_weight(request.round)
    around = circumstances(client, request, reference=False)
    view, features, labels = forward.view, forward.features, forward.labels
    with statistics.shared():
        risk = view.functions.risk(*view.arguments, features, labels)
        terms = penalty_terms(recipe, view, features, labels, around, offsets, own, request.share)
    weights = {term.statistic: weight * term_weight(recipe, term) for term in recipe.terms}
    loss = risk
    if training.weight_decay:
        loss = loss + training.weight_decay * sum(value.square().sum() for value in forward.parameters.values())
    for name, value in terms.items():
        loss = loss + weights[name] * value
    if recipe.rescale and weight > 1 and terms:
        loss = loss / weight
    parts = {"loss": loss, "risk": risk, **{f"penalty/{name}": value for name, value in terms.items()}}
    return loss, {name: float(value.detach()) for name, value in parts.items()}


@contextmanager
def _named(client: Client, request: Request) -> Iterator[None]:
    """Say whose batch, and when, was too small for a statistic."""
    try:
        yield
    except ValueError as error:
        raise FedhaError(f"domain {client.domain.client!r} in round {request.round}: {error}") from error


def _one_gradient(client: Client, request: Request) -> tuple[dict[str, Tensor], dict[str, float]]:
    forward = _whole_domain(client, request)
    offsets, own = _at_start(client, request, forward)
    loss, metrics = objective(client, request, forward, offsets, own)
    names = list(forward.parameters)
    # zeros for what the loss does not reach: local steps leave it where it is, too
    gradients = torch.autograd.grad(loss, [forward.parameters[name] for name in names], materialize_grads=True)
    dense = {name: value.to_dense() for name, value in zip(names, gradients, strict=True)}
    return dense, {**metrics, "accuracy": _accuracy(client, forward)}


def _local_steps(client: Client, request: Request) -> tuple[dict[str, Tensor], dict[str, float]]:
    training = request.task.training
    start = _whole_domain(client, request)
    offsets, own = _at_start(client, request, start)
    first = {"risk": float(_risk(client, start)), "accuracy": _accuracy(client, start)}
    parameters = {name: value.detach().clone().requires_grad_() for name, value in request.parameters.items()}
    optimizer = _round_optimizer(request, list(parameters.values()))
    seen: list[dict[str, float]] = []
    for rows in minibatches(training.local, len(client.domain.train), request, client.index):
        forward = _forward(client, parameters, rows)
        loss, metrics = objective(client, request, forward, offsets, own)
        optimizer.zero_grad()
        loss.backward()
        for value in parameters.values():  # of an embedding a gradient may be sparse, which not every optimiser takes
            value.grad = None if value.grad is None else value.grad.to_dense()
        optimizer.step()
        seen.append(metrics)
    means = {name: sum(one[name] for one in seen) / len(seen) for name in seen[0]}
    update = {name: request.parameters[name] - value.detach() for name, value in parameters.items()}
    return update, {**means, **first}


def minibatches(local: LocalConfig, examples: int, request: Request, index: int) -> Iterator[Tensor | slice]:
    """Row indices of each local step: whole epochs in a fresh order, or steps that run through such epochs."""
    sizes = minibatch_sizes(local, examples, request.task.recipe.least_examples)
    if sizes[0] == examples:
        yield from [slice(None)] * len(sizes)
    else:
        yield from shuffled_rows(sizes, examples, request, index).split(sizes)


def shuffled_rows(sizes: Sequence[int], examples: int, request: Request, index: int) -> Tensor:
    """The rows of a client's steps of these sizes, one step after the other."""
    draws, total = generator(request.task.seed, "batches", request.round, index), sum(sizes)
    epochs = range(-(-total // examples))
    return torch.cat([torch.randperm(examples, generator=draws) for _ in epochs])[:total]


def local_optimizer(local: LocalConfig, parameters: list[Tensor]) -> torch.optim.Optimizer:
    if local.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=local.learning_rate)
    return torch.optim.SGD(parameters, lr=local.learning_rate, momentum=local.momentum)


def _round_optimizer(request: Request, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """The local steps' optimiser, at the round's learning rate."""
    optimizer = local_optimizer(request.task.training.local, parameters)
    for group in optimizer.param_groups:
        group["lr"] *= rate_factor(request.task.training, request.round)
    return optimizer


def _whole_domain(client: Client, request: Request) -> Forward:
    """The domain's features at the request's model, computed once for all exchanges of a synchronous round."""
    kept = client._forward
    if kept is not None and all(torch.equal(kept.parameters[k], v) for k, v in request.parameters.items()):
        return kept
    parameters = {name: value.detach().clone().requires_grad_() for name, value in request.parameters.items()}
    if request.task.training.mode == "synchronous":
        client._forward = _forward(client, parameters, slice(None))
        return client._forward
    with torch.no_grad():
        return _forward(client, parameters, slice(None))


def _forward(client: Client, parameters: dict[str, Tensor], rows: Tensor | slice) -> Forward:
    view = view_head(client.model, parameters)
    own = {k.removeprefix("featurizer."): v for k, v in parameters.items() if k.startswith("featurizer.")}
    features = functional_call(client.model.featurizer, own, (client.domain.train.inputs[rows],))
    return Forward(parameters, view, view.prepare(features), client.domain.train.labels[rows])


def _at_start(client: Client, request: Request, forward: Forward) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Offsets of the moving averages, and own statistics at the round's start; moves the averages on."""
    recipe = request.task.recipe
    offsets = average_offsets(client, recipe)
    around = circumstances(client, request, reference=True)
    own = {}
    with torch.no_grad():
        for term in recipe.terms:
            if term.weight and (term.target == "others" or term.client_average):
                own[term.statistic] = measure(term.statistic, forward.view, forward.features, forward.labels, around)
    for term in recipe.terms:
        if term.client_average and term.statistic in own:
            previous = client.state.get(term.statistic)
            client.state[term.statistic] = moving_average(previous, own[term.statistic], term.client_average)
    return offsets, own


def average_offsets(client: Client, recipe: Recipe) -> dict[str, Tensor]:
    """What a moving average adds to a statistic: with the published 1 / (1 - decay), decay / (1 - decay) times it."""
    return {
        term.statistic: client.state[term.statistic] * (term.client_average / (1 - term.client_average))
        for term in recipe.terms
        if term.client_average and term.statistic in client.state
    }


def circumstances(client: Client, request: Request, reference: bool) -> Circumstances:
    owner = None if reference else client.domain.client
    task = request.task
    return Circumstances(task.seed, request.round, owner, task.recipe.probes, request.references)


def _risk(client: Client, forward: Forward) -> Tensor:
    with torch.no_grad():
        value: Tensor = forward.view.functions.risk(*forward.view.arguments, forward.features, forward.labels)
    return value


def _accuracy(client: Client, forward: Forward) -> float:
    with torch.no_grad():
        view = forward.view
        return float(view.functions.accuracy(*view.arguments, forward.features, forward.labels))
