"""What a client minimises on a batch: the risk and the penalty. Its gradient is exact, in pieces of any size.

Where the batch is one piece, autograd goes through the statistics. Where it is several, one pass without a graph gives
the means that the statistics are made of, and with them the pull ``dP / d means``, a few small constants; a second pass
adds up the derivatives of ``<pull, means>``, piece by piece (`fedha.means`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedha import statistics
from fedha.means import Piece, curvature_along, derived, means_of
from fedha.measurement import Circumstances, measure
from fedha.penalty import active_terms, loss_divisor, penalty_terms, term_weight
from fedha.pieces import Batch
from fedha.recipes import Recipe, Term

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """The loss of one client in one round.

    Attributes:
        recipe: What is aligned.
        round: From 1.
        weight_decay: Adds this times the squared norm of all parameters.
        around: Signs, and this round's references.
        offsets: What a moving average adds to a client's statistic, by statistic.
        own: The client's statistics at the round's start, for terms that look at the other clients.
        share: The client's weight in the references.
    """

    recipe: Recipe
    round: int
    weight_decay: float
    around: Circumstances
    offsets: Mapping[str, Tensor]
    own: Mapping[str, Tensor]
    share: float

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """Those that enter the loss."""
        return active_terms(self.recipe, self.share)

    @cached_property
    def divisor(self) -> float:
        """What the whole loss is divided by."""
        return loss_divisor(self.recipe, self.round, self.share)

    def parts(self, risk: Tensor, measured: Mapping[str, Tensor], norms: Tensor | float) -> Named:
        """``(risk + L2 + w sum_k lambda_k term_k) / divisor`` as ``loss``, and its parts.

        Args:
            risk: Of the batch.
            measured: The terms' statistics of the batch.
            norms: Squared norm of all parameters, times the weight decay.
        """
        values = {
            name: value + self.offsets[name] if name in self.offsets else value for name, value in measured.items()
        }
        terms = penalty_terms(self.terms, values, self.around.references, self.own, self.share)
        weight = self.recipe.scheduled_weight(self.round)
        loss = risk + norms if self.weight_decay else risk
        for term in self.terms:
            loss = loss + weight * term_weight(self.recipe, term) * terms[term.statistic]
        if self.divisor != 1:
            loss = loss / self.divisor
        return {"loss": loss, "risk": risk, **{f"penalty/{name}": value for name, value in terms.items()}}


def descend(batch: Batch, objective: Objective) -> tuple[Named, dict[str, float]]:
    """The gradient of the loss on a batch, and the loss's parts as numbers.

    Args:
        batch: Its parameters are leaves.
        objective: Of the round.

    Raises:
        ValueError: The batch is too small for a statistic.
        FedhaError: A statistic is too large for the head, or for a batch in pieces.
    """
    parts, gradients = (_at_once if batch.whole else _in_pieces)(batch, objective)
    return gradients, {name: float(value.detach()) for name, value in parts.items()}


def _at_once(batch: Batch, objective: Objective) -> tuple[Named, Named]:
    seen = batch.live()
    with statistics.shared():
        risk = seen.view.functions.risk(*seen.view.arguments, seen.features, seen.labels)
        measured = {
            term.statistic: measure(term.statistic, seen.view, seen.features, seen.labels, objective.around)
            for term in objective.terms
        }
        parts = objective.parts(risk, measured, _squared_norms(batch, objective))
    return parts, _derivatives(parts["loss"], batch.parameters)


def _in_pieces(batch: Batch, objective: Objective) -> tuple[Named, Named]:
    names = [term.statistic for term in objective.terms]
    means = {
        name: value.requires_grad_() for name, value in means_of(batch, ["risk", *names], objective.around).items()
    }
    norms = _squared_norms(batch, objective)
    parts = objective.parts(means["risk"], derived(names, means, batch.size), norms)
    pulls = _derivatives(parts["loss"], means)
    if "gradient_hessian_product" in pulls:
        pulls["gradient"] += curvature_along(batch, pulls["gradient_hessian_product"], objective.around)
    total = {name: torch.zeros_like(value) for name, value in batch.parameters.items()}
    directions = {name: value.detach() for name, value in means.items()}
    for seen in batch.pieces():
        piece = Piece(seen.view, seen.features, seen.labels, objective.around, directions)
        with statistics.shared():
            loss = torch.stack([(pull * piece.mean(name)).sum() for name, pull in pulls.items()]).sum()
        _add(total, _derivatives(loss * seen.share, batch.parameters))
    if isinstance(norms, Tensor):
        _add(total, _derivatives(norms / objective.divisor, batch.parameters))
    return parts, total


def _squared_norms(batch: Batch, objective: Objective) -> Tensor | float:
    if not objective.weight_decay:
        return 0.0
    return objective.weight_decay * sum(value.square().sum() for value in batch.parameters.values())


def _derivatives(value: Tensor, leaves: Mapping[str, Tensor]) -> Named:
    """Zeros where nothing reaches; an embedding's are dense, since not every optimiser takes others."""
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {name: one.to_dense() for name, one in zip(leaves, found, strict=True)}


def _add(total: Named, more: Named) -> None:
    for name, value in more.items():
        total[name] += value
