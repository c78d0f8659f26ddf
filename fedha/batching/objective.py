"""Risk and penalty of k clients at once: one client's objective under torch.func.vmap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.func import vmap

from fedha import cross_entropy
from fedha.batching.network import Network, forward
from fedha.batching.rows import Batch
from fedha.exchange import Request
from fedha.measurement import Circumstances, draw_signs, measure, view_head
from fedha.models.split import SplitModel
from fedha.objective import Objective
from fedha.registry import statistic
from fedha.statistic import Owner
from fedha.training import Holder, circumstances

Named = dict[str, Tensor]

_OWN, _OFFSET, _SIGNS = "own/", "offset/", "signs"  # what differs by client, by name


@dataclass(frozen=True)
class Stacked:
    """The losses of a chunk's clients.

    Attributes:
        model: Structure of the model.
        network: The same, taken apart.
        common: What all clients' objectives have in common, the round's signs included.
        apart: What differs by client, [k, ...] each: ``offset/…`` and ``own/…`` by statistic, ``signs``,
            ``averaging_weight``.
    """

    model: SplitModel
    network: Network
    common: Objective
    apart: Named

    def parts(self, parameters: Mapping[str, Tensor], features: Tensor, labels: Tensor, batch: Batch) -> Named:
        """Each client's loss without L2 and its parts, or its accuracy where there are no terms: [k] each, live.

        Args:
            parameters: The head's, at least, each [k, ...].
            features: The featurizer's output, [k, b, D - 1].
            labels: [k, b].
            batch: Which clients and rows these are.
        """
        if not self.common.terms:
            logits = forward(self.network.head, parameters, features)
            right = cross_entropy.hits(logits.detach(), labels).to(logits.dtype)
            risk = batch.mean(cross_entropy.losses(logits, labels))
            return {"loss": risk, "risk": risk, "accuracy": batch.mean(right)}
        head = {name: value for name, value in parameters.items() if name.startswith("head.")}
        apart = {name: value[batch.clients] for name, value in self.apart.items()}
        parts: Named = vmap(self._one)(head, features, labels, apart)
        return parts

    def _one(self, head: Named, features: Tensor, labels: Tensor, apart: Named) -> Named:
        around = self.common.around
        if _SIGNS in apart:
            around = replace(around, signs={**around.signs, "client": apart[_SIGNS]})
        objective = replace(
            self.common,
            around=around,
            offsets=_named(apart, _OFFSET),
            own=_named(apart, _OWN),
            averaging_weight=cast(float, apart["averaging_weight"]),  # under vmap a number for each client
        )
        view = view_head(self.model, head)
        return objective.parts(*objective.measure(view, view.prepare(features), labels), 0.0)


def _named(apart: Named, prefix: str) -> Named:
    return {name.removeprefix(prefix): value for name, value in apart.items() if name.startswith(prefix)}


def stacked_objective(
    model: SplitModel,
    network: Network,
    common: Objective,
    clients: Sequence[Holder],
    request: Request,
    weights: Tensor,
    own: Named,
    offsets: Named,
) -> Stacked:
    """The losses of some clients, from what they have in common and each one's own.

    Args:
        model: Structure of the model.
        network: The same, taken apart.
        common: With what does not differ.
        clients: k of them.
        request: Of the round.
        weights: Each one's weight in the references, [k].
        own: Their statistics at the round's start, [k, ...] each.
        offsets: What their moving averages add, likewise.
    """
    apart = {f"{_OWN}{name}": value for name, value in own.items()}
    apart |= {f"{_OFFSET}{name}": value for name, value in offsets.items()}
    view = view_head(model, {name: value for name, value in request.parameters.items() if name.startswith("head.")})
    owners = {statistic(term.statistic).signs for term in common.terms}
    if "client" in owners:
        drawn = [draw_signs("client", view, circumstances(client, request, False), weights) for client in clients]
        apart[_SIGNS] = torch.stack(drawn)
    if "round" in owners:
        around = common.around
        common = replace(common, around=replace(around, signs={"round": draw_signs("round", view, around, weights)}))
    return Stacked(model, network, common, {**apart, "averaging_weight": weights})


def measure_stacked(
    names: Sequence[str], model: SplitModel, head: Named, features: Tensor, labels: Tensor, request: Request
) -> Named:
    """Statistics of k clients at one shared head, as references: [k, ...] by name.

    Args:
        names: Which statistics.
        model: Structure of the model.
        head: The head's parameters, by the model's names.
        features: The featurizer's output, [k, n, D - 1].
        labels: [k, n].
        request: Of the round.
    """
    if not names:
        return {}
    around, view = common_circumstances(request), view_head(model, head)
    owners: set[Owner] = {owner for name in names if (owner := statistic(name).signs) is not None}
    around = replace(around, signs={owner: draw_signs(owner, view, around, features) for owner in owners})

    def one(features: Tensor, labels: Tensor) -> Named:
        with cross_entropy.shared():
            prepared = view.prepare(features)
            return {name: measure(name, view, prepared, labels, around) for name in names}

    with torch.no_grad():
        measured: Named = vmap(one)(features, labels)
    return measured


def common_circumstances(request: Request) -> Circumstances:
    """What a reference statistic may depend on."""
    task = request.task
    return Circumstances(task.seed, request.round, None, task.recipe.probes, request.references)
