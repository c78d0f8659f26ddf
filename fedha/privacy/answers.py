"""A client's answers where every example is protected: whatever leaves is made of clipped sums with noise.

An exchange of statistics is one release of moments, from which the statistics are computed; training pulls towards the
references from the client's own released moments, which it keeps from measuring to training; each gradient is clipped
an example at a time (`fedha.privacy.dpsgd`). Held-out accuracy is a release of other examples. docs/privacy.md says
what this covers.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedha import cross_entropy
from fedha.config import PrivacyConfig
from fedha.errors import FedhaError
from fedha.exchange import Request
from fedha.models.split import whole_head, with_bias
from fedha.objective import Objective
from fedha.penalty import active_terms
from fedha.pieces import in_pieces
from fedha.privacy.clipping import private_means
from fedha.privacy.dpsgd import descend, noisy_gradient, with_decay
from fedha.privacy.loss import Loss, part
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.moments import Batch, Moment, measure
from fedha.privacy.releasable import derive, private_exchanges, required
from fedha.privacy.sampling import draw_batches
from fedha.privacy.shape import evaluation_release, local_draws, noise_of
from fedha.privacy.site import Site
from fedha.privacy.surrogate import aligned_loss, pulls, risk_loss
from fedha.steps import local_steps
from fedha.targets import softening
from fedha.training import Holder, average_offsets, circumstances, move_averages


def release_statistics(client: Holder, site: Site, request: Request) -> dict[str, Tensor]:
    """One exchange's statistics, from one noisy release that the client keeps until it has trained."""
    privacy, parameters = request.task.privacy, request.parameters
    examples, place = client.domain.train, (request.round, client.client_id)
    with torch.no_grad():
        own, most = part(parameters, "featurizer."), request.task.training.chunk
        seen = in_pieces(client.model, client.model.featurizer, own, examples, most, evaluation=False)
        features, head = with_bias(seen), whole_head(client.model, parameters)
        targets = softening(request.task.training, client.model, examples)(examples.labels)
        batch = Batch.at(head, features, targets, request.references.get("gradient"))
        moments = measure(required(request.measure), batch)
    noise = noise_of(privacy) * privacy.statistics_noise
    source = site.source(request.task.seed, *place, f"statistics {' '.join(request.measure)}")
    mechanism = Mechanism(privacy.statistics_clip, noise, len(examples))
    exact = private_means(moments, mechanism, source, privacy.scales)
    released = {name: value.to(head.dtype) for name, value in exact.items()}
    _keep(client, request, released)
    offsets = average_offsets(client, request.task.recipe)
    tensors = {name: derive(name, released, len(examples)) for name in request.measure}
    return _finite({name: value + offsets[name] if name in offsets else value for name, value in tensors.items()})


def train_privately(client: Holder, site: Site, request: Request) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The update of clipped and noisy gradients, and what can be said of the round from its releases.

    Args:
        client: Its state has the moments that this round released, and moves its moving averages on.
        site: Where its noise comes from.
        request: Of a training exchange.

    Raises:
        FedhaError: The round's statistics were not released before.
    """
    task, examples = request.task, client.domain.train
    released = _released(client, request)
    loss, factor, metrics = _loss(client, request, released)
    sampling, steps = local_draws(task.training, task.privacy, len(examples))
    mechanism = Mechanism(task.privacy.clip, noise_of(task.privacy), sampling.batch)
    place, decay = (request.round, client.client_id), task.training.weight_decay / factor
    noise = site.source(task.seed, *place, "update")
    if task.training.mode == "synchronous":
        start = dict(request.parameters)
        gradient = noisy_gradient(loss, start, examples, mechanism, noise, most=len(examples))
        return _finite(with_decay(gradient, start, decay, task.training.decay)), metrics
    leaves = {name: value.detach().clone().requires_grad_() for name, value in request.parameters.items()}
    draws = draw_batches(sampling, steps, site.source(task.seed, *place, "batches"))
    batches = (examples.select(rows) for rows in draws)
    taken = local_steps(task.training, request.round, steps, leaves)
    descend(loss, taken, batches, mechanism, noise, decay, task.training.decay, most=len(examples))
    return _finite({name: request.parameters[name] - value.detach() for name, value in leaves.items()}), metrics


def evaluate_privately(client: Holder, site: Site, request: Request) -> dict[str, float]:
    """Held-out accuracy with noise, cut to [0, 1]; the risk, which has no bound, is not sent.

    Raises:
        FedhaError: The run does not evaluate held-out examples, or others were asked for.
    """
    examples = client.domain.held_out
    if request.evaluate != ("held_out",):
        raise FedhaError("only held-out examples are evaluated where every example is protected")
    if not len(examples):
        return {"held_out/examples": 0}
    release = evaluation_release(request.task.privacy, len(examples))
    with torch.no_grad():
        logits = in_pieces(client.model, client.model, request.parameters, examples, request.task.training.chunk)
        hits = cross_entropy.hits(logits, examples.labels).to(torch.float64)[:, None]
    source = site.source(request.task.seed, request.round, client.client_id, "evaluation")
    moments = {"accuracy": Moment(hits, torch.ones_like(hits))}
    mean = private_means(moments, Mechanism(1.0, release.noise_multiplier, len(examples)), source)["accuracy"]
    return {"held_out/accuracy": min(1.0, max(0.0, float(mean))), "held_out/examples": len(examples)}


def _finite(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What may leave: nothing else would be covered, if a bound failed; noise by itself is finite.

    Raises:
        FedhaError: A number is not finite. It was made of releases, and what is made of them tells no more than they.
    """
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise FedhaError(
                f"{name} with its noise is not finite, so it is not sent; lower training.learning_rate, the recipe's "
                "weight, or the noise"
            )
    return tensors


def _keep(client: Holder, request: Request, released: Mapping[str, Tensor]) -> None:
    """Keep a release with those of its round; the first exchange of a round forgets all others."""
    begun = bool(request.references) and client.state.released_in == request.round
    kept = client.state.released if begun else {}
    client.state = replace(client.state, released={**kept, **released}, released_in=request.round)


def _released(client: Holder, request: Request) -> dict[str, Tensor]:
    """The moments that this round's exchanges released."""
    wanted = required(name for group in private_exchanges(request.task.recipe) for name in group)
    kept = client.state.released
    missing = [name for name in wanted if name not in kept]
    if wanted and (client.state.released_in != request.round or missing):
        raise FedhaError(
            f"round {request.round} was to be trained without its statistics ({', '.join(missing or wanted)}), which "
            "must be released first; measuring them now would be a release that nobody accounts for"
        )
    return {name: kept[name] for name in wanted}


def _loss(client: Holder, request: Request, released: Mapping[str, Tensor]) -> tuple[Loss, float, dict[str, float]]:
    """The loss of one example, what it was divided by, and the round's numbers, all from what was released."""
    recipe, examples = request.task.recipe, len(client.domain.train)
    terms, offsets = active_terms(recipe, request.averaging_weight), average_offsets(client, recipe)
    start = {term.statistic: derive(term.statistic, released, examples) for term in terms}
    around = circumstances(client, request, reference=False)
    objective = Objective(recipe, request.round, terms, 0.0, around, offsets, start, request.averaging_weight)
    metrics = {f"penalty/{name}": float(value) for name, value in objective.penalties(start).items()}
    if "risk" in released:
        metrics["risk"] = float(released["risk"])
    metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
    move_averages(client, recipe, start)
    soften = softening(request.task.training, client.model, client.domain.train)
    if not terms:
        return risk_loss(client.model, soften), 1.0, metrics

    def penalty(means: dict[str, Tensor]) -> Tensor:
        values = {name: derive(name, means, examples) for name in start}
        return objective.weighed(next(iter(means.values())).new_zeros(()), objective.penalties(values))

    directions = pulls(penalty, {name: released[name] for name in required(start)})
    loss = aligned_loss(client.model, directions, request.references.get("gradient"), soften)
    return loss.over(objective.divisor), objective.divisor, metrics


def is_private(privacy: PrivacyConfig) -> bool:
    """Whether clients answer with what stands here."""
    return privacy.protect == "examples"
