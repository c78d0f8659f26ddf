"""A client's answers where every example is protected: whatever leaves is made of clipped sums with noise.

An exchange of statistics is one release of moments, from which the statistics are computed; training pulls towards the
references from the client's own released moments, which it keeps from measuring to training; each gradient is clipped
an example at a time (`fedha.privacy.dpsgd`). Held-out accuracy is a release of other examples. docs/privacy.md says
what this covers.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fedha import statistics
from fedha.cohort import Member
from fedha.config import PrivacyConfig
from fedha.data.domain import Domain
from fedha.errors import FedhaError
from fedha.exchange import Request
from fedha.models.split import SplitModel, whole_head, with_bias
from fedha.penalty import term_value, term_weight
from fedha.pieces import in_pieces
from fedha.privacy.clipping import private_means
from fedha.privacy.dpsgd import descend, private_gradient
from fedha.privacy.loss import Loss, part
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.moments import Batch, Moment, measure
from fedha.privacy.releasable import derive, private_exchanges, required
from fedha.privacy.sampling import draw_batches
from fedha.privacy.shape import evaluation_release, local_draws, noise_of
from fedha.privacy.site import Site
from fedha.privacy.surrogate import aligned_loss, pulls, risk_loss
from fedha.recipes import Term
from fedha.reference import moving_average

RELEASED = "released/"  # before the name of a moment that a client keeps from measuring to training
_ROUND = f"{RELEASED}round"

_Value = TypeVar("_Value")
MakeOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]


class Holder(Protocol):
    """Who answers: `fedha.training.Client`."""

    index: int
    domain: Domain
    model: SplitModel
    state: dict[str, Tensor]
    site: Site

    @property
    def member(self) -> Member:
        """What the server knows of it."""


def release_statistics(client: Holder, request: Request) -> dict[str, Tensor]:
    """One exchange's statistics, from one noisy release that the client keeps until it has trained."""
    privacy, parameters = request.task.privacy, request.parameters
    examples, place = client.domain.train, (request.round, client.index)
    with torch.no_grad():
        own, most = part(parameters, "featurizer."), request.task.training.chunk
        seen = in_pieces(client.model, client.model.featurizer, own, examples.inputs, most, evaluation=False)
        features, head = with_bias(seen), whole_head(client.model, parameters)
        batch = Batch.at(head, features, examples.labels, request.references.get("gradient"))
        moments = measure(required(request.measure), batch)
    noise = noise_of(privacy) * privacy.statistics_noise
    source = client.site.source(request.task.seed, *place, f"statistics {' '.join(request.measure)}")
    mechanism = Mechanism(privacy.statistics_clip, noise, len(examples))
    exact = private_means(moments, mechanism, source, {str(name): scale for name, scale in privacy.scales.items()})
    released = {name: value.to(head.dtype) for name, value in exact.items()}
    _keep(client.state, request, released)
    offsets = _offsets(client, request)
    tensors = {name: derive(name, released, len(examples)) for name in request.measure}
    return {name: value + offsets[name] if name in offsets else value for name, value in tensors.items()}


def train_privately(
    client: Holder, request: Request, optimizer: MakeOptimizer
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The update of clipped and noisy gradients, and what can be said of the round from its releases.

    Args:
        client: Its state has the moments that this round released, and moves its moving averages on.
        request: Of a training exchange.
        optimizer: Makes the local steps' optimiser, its rate that of the round.

    Raises:
        FedhaError: The round's statistics were not released before.
    """
    task, examples = request.task, client.domain.train
    released = _released(client, request)
    loss, factor, metrics = _objective(client, request, released)
    sampling, steps = local_draws(task.training, task.privacy, len(examples))
    mechanism = Mechanism(task.privacy.clip, noise_of(task.privacy), sampling.batch)
    place, decay = (request.round, client.index), task.training.weight_decay / factor
    noise = client.site.source(task.seed, *place, "update")
    if task.training.mode == "synchronous":
        start = dict(request.parameters)
        gradient = private_gradient(loss, start, examples.inputs, examples.labels, mechanism, noise)
        return {name: value + 2 * decay * start[name] for name, value in gradient.items()}, metrics
    leaves = {name: value.detach().clone().requires_grad_() for name, value in request.parameters.items()}
    draws = draw_batches(sampling, steps, client.site.source(task.seed, *place, "batches"))
    batches = ((examples.inputs[rows], examples.labels[rows]) for rows in draws)
    descend(loss, leaves, optimizer(list(leaves.values())), batches, mechanism, noise, decay)
    return {name: request.parameters[name] - value.detach() for name, value in leaves.items()}, metrics


def evaluate_privately(client: Holder, request: Request) -> dict[str, float]:
    """Held-out accuracy with noise, cut to [0, 1]; the risk, which has no bound, is not sent.

    Raises:
        FedhaError: The run does not evaluate held-out examples, or others were asked for.
    """
    examples = client.domain.held_out
    if request.measure != ("held_out",):
        raise FedhaError("only held-out examples are evaluated where every example is protected")
    if not len(examples):
        return {"held_out/examples": 0}
    release = evaluation_release(request.task.privacy, len(examples))
    with torch.no_grad():
        logits = in_pieces(client.model, client.model, request.parameters, examples.inputs, request.task.training.chunk)
        hits = statistics.hits(logits, examples.labels).to(torch.float64)[:, None]
    source = client.site.source(request.task.seed, request.round, client.index, "evaluation")
    moments = {"accuracy": Moment(hits, torch.ones_like(hits))}
    mean = private_means(moments, Mechanism(1.0, release.noise_multiplier, len(examples)), source)["accuracy"]
    return {"held_out/accuracy": min(1.0, max(0.0, float(mean))), "held_out/examples": len(examples)}


def remembered(state: Mapping[str, _Value]) -> dict[str, _Value]:
    """What of a client's state must outlive its round: all but the round's released moments."""
    return {name: value for name, value in state.items() if not name.startswith(RELEASED)}


def _keep(state: dict[str, Tensor], request: Request, released: Mapping[str, Tensor]) -> None:
    """Keep a release with those of its round; the first exchange of a round forgets all others."""
    if not request.references or int(state.get(_ROUND, torch.tensor(-1))) != request.round:
        for name in [name for name in state if name.startswith(RELEASED)]:
            del state[name]
    state[_ROUND] = torch.tensor(request.round)
    state |= {f"{RELEASED}{name}": value for name, value in released.items()}


def _released(client: Holder, request: Request) -> dict[str, Tensor]:
    """The moments that this round's exchanges released."""
    wanted = required(name for group in private_exchanges(request.task.recipe) for name in group)
    kept = int(client.state.get(_ROUND, torch.tensor(-1)))
    missing = [name for name in wanted if f"{RELEASED}{name}" not in client.state]
    if wanted and (kept != request.round or missing):
        raise FedhaError(
            f"round {request.round} was to be trained without its statistics ({', '.join(missing or wanted)}), which "
            "must be released first; measuring them now would be a release that nobody accounts for"
        )
    return {name: client.state[f"{RELEASED}{name}"] for name in wanted}


def _objective(
    client: Holder, request: Request, released: Mapping[str, Tensor]
) -> tuple[Loss, float, dict[str, float]]:
    """The loss of one example, what it was divided by, and the round's numbers, all from what was released."""
    recipe, examples = request.task.recipe, len(client.domain.train)
    weight, terms = recipe.scheduled_weight(request.round), _active(request)
    offsets = _offsets(client, request)
    start = {term.statistic: derive(term.statistic, released, examples) for term in terms}

    def value(term: Term, means: Mapping[str, Tensor]) -> Tensor:
        statistic = derive(term.statistic, means, examples)
        if term.statistic in offsets:
            statistic = statistic + offsets[term.statistic]
        return term_value(term, statistic, request.references, start, request.share)

    metrics = {f"penalty/{term.statistic}": float(value(term, released)) for term in terms}
    if "risk" in released:
        metrics["risk"] = float(released["risk"])
    for term in terms:
        if term.client_average:
            previous = client.state.get(term.statistic)
            client.state[term.statistic] = moving_average(previous, start[term.statistic], term.client_average)
    if not terms:
        return risk_loss(client.model), 1.0, metrics

    def penalty(means: dict[str, Tensor]) -> Tensor:
        parts = [weight * term_weight(recipe, term) * value(term, means) for term in terms]
        return torch.stack(parts).sum()

    used = required(term.statistic for term in terms)
    directions = pulls(penalty, {name: released[name] for name in used})
    loss = aligned_loss(client.model, directions, request.references.get("gradient"))
    factor = weight if recipe.rescale and weight > 1 else 1.0
    return loss.over(factor), factor, metrics


def _active(request: Request) -> list[Term]:
    terms = request.task.recipe.terms
    return [term for term in terms if term.weight > 0 and not (term.target == "others" and request.share >= 1)]


def _offsets(client: Holder, request: Request) -> dict[str, Tensor]:
    """What a moving average of released statistics adds, as in `fedha.training.average_offsets`."""
    return {
        term.statistic: client.state[term.statistic] * (term.client_average / (1 - term.client_average))
        for term in request.task.recipe.terms
        if term.client_average and term.statistic in client.state
    }


def is_private(privacy: PrivacyConfig) -> bool:
    """Whether clients answer with what stands here."""
    return privacy.protect == "examples"
