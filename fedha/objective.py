"""What a client minimises on a batch: the risk and the penalty. Its gradient is exact, in pieces of any size.

Where the batch is one piece, autograd goes through the statistics. Where it is several, one pass without a graph gives
the means that the statistics are made of, and with them the pull ``dP / d means``, a few small constants; a second pass
adds up the derivatives of ``<pull, means>``, piece by piece (`fedha.means`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha import cross_entropy
from fedha.means import derived, mean_along, means_needed, means_of
from fedha.measurement import Circumstances, HeadView, Piece, measure
from fedha.optimizers import is_decayed
from fedha.penalty import loss_divisor, penalty_terms, term_weight
from fedha.pieces import Batch
from fedha.recipes import Recipe, Term

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """The loss of one client in one round; plain, together and private steps sum it in their own ways.

    Attributes:
        recipe: What is aligned.
        round: From 1.
        terms: Those that enter the loss (`fedha.penalty.active_terms`).
        weight_decay: Adds this times the squared norm of what is decayed.
        around: Signs, and this round's references.
        offsets: What a moving average adds to a client's statistic, by statistic.
        own: The client's statistics at the round's start, for terms that look at the other clients.
        averaging_weight: The client's weight in the references.
        decay: What is decayed, as `training.decay` says.
    """

    recipe: Recipe
    round: int
    terms: tuple[Term, ...]
    weight_decay: float
    around: Circumstances
    offsets: Mapping[str, Tensor]
    own: Mapping[str, Tensor]
    averaging_weight: float
    decay: str = "all"

    @property
    def divisor(self) -> float:
        """What the whole loss is divided by."""
        return loss_divisor(self.recipe, self.round, self.terms)

    def penalties(self, measured: Mapping[str, Tensor]) -> Named:
        """Each term by statistic, unweighted, from the client's statistics."""
        values = {
            name: value + self.offsets[name] if name in self.offsets else value for name, value in measured.items()
        }
        return penalty_terms(self.terms, values, self.around.references, self.own, self.averaging_weight)

    def weighed(self, start: Tensor, penalties: Mapping[str, Tensor]) -> Tensor:
        """``start + w sum_k lambda_k term_k``."""
        weight = self.recipe.scheduled_weight(self.round)
        for term in self.terms:
            start = start + weight * term_weight(self.recipe, term) * penalties[term.statistic]
        return start

    def parts(self, risk: Tensor, measured: Mapping[str, Tensor], norms: Tensor | float) -> Named:
        """``(risk + L2 + w sum_k lambda_k term_k) / divisor`` as ``loss``, and its parts.

        Args:
            risk: Of the batch.
            measured: The terms' statistics of the batch.
            norms: Squared norm of what is decayed, times the weight decay.
        """
        terms = self.penalties(measured)
        loss = self.weighed(risk + norms if self.weight_decay else risk, terms)
        if self.divisor != 1:
            loss = loss / self.divisor
        return {"loss": loss, "risk": risk, **{f"penalty/{name}": value for name, value in terms.items()}}

    def norms(self, parameters: Mapping[str, Tensor]) -> Tensor | float:
        """L2: the squared norm of what is decayed of some parameters, times the weight decay."""
        if not self.weight_decay:
            return 0.0
        decayed = (value for name, value in parameters.items() if is_decayed(name, value, self.decay))
        return self.weight_decay * sum(value.square().sum() for value in decayed)

    def measure(self, view: HeadView, features: Tensor, labels: Tensor) -> tuple[Tensor, Named]:
        """Risk, and the terms' statistics, of a batch in one piece, live.

        Args:
            view: The head.
            features: Prepared features, [n, D].
            labels: Class indices, [n].
        """
        with cross_entropy.shared():
            risk = view.functions.risk(*view.arguments, features, labels)
            names = [term.statistic for term in self.terms]
            return risk, {name: measure(name, view, features, labels, self.around) for name in names}


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
    risk, measured = objective.measure(seen.view, seen.features, seen.labels)
    parts = objective.parts(risk, measured, objective.norms(batch.parameters))
    return parts, derivatives(parts["loss"], batch.parameters)


def _in_pieces(batch: Batch, objective: Objective) -> tuple[Named, Named]:
    names = [term.statistic for term in objective.terms]
    needed = means_needed(["risk", *names])
    means = {
        name: value.requires_grad_() for name, value in means_of(batch, ["risk", *names], objective.around).items()
    }
    norms = objective.norms(batch.parameters)
    parts = objective.parts(means["risk"], derived(names, means, batch.size), norms)
    pulls = derivatives(parts["loss"], means)
    for name, mean in needed.items():
        if mean.along is not None and mean.symmetric:
            pulls[mean.along.name] += mean_along(batch, mean, pulls[name], objective.around)
    total = {name: torch.zeros_like(value) for name, value in batch.parameters.items()}
    directions = {name: value.detach() for name, value in means.items()}
    for seen in batch.pieces():
        piece = Piece(seen.view, seen.features, seen.labels, objective.around, directions)
        with cross_entropy.shared():
            loss = torch.stack([(pull * needed[name].of(piece)).sum() for name, pull in pulls.items()]).sum()
        _add(total, derivatives(loss * seen.fraction, batch.parameters))
    if isinstance(norms, Tensor):
        _add(total, derivatives(norms / objective.divisor, batch.parameters))
    return parts, total


def derivatives(value: Tensor, leaves: Mapping[str, Tensor]) -> Named:
    """Of a scalar: zeros where nothing reaches; an embedding's are dense, since not every optimiser takes others."""
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {name: one.to_dense() for name, one in zip(leaves, found, strict=True)}


def _add(total: Named, more: Named) -> None:
    for name, value in more.items():
        total[name] += value
