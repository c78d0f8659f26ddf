"""Risk and penalty of k clients at once: the closed forms of one client under torch.func.vmap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.func import vmap

from fedha import nonlinear, sketches, statistics
from fedha.batching.network import Network, forward
from fedha.batching.rows import Batch
from fedha.exchange import Request
from fedha.measurement import Circumstances, HeadView, _signs, measure, view_head
from fedha.models.split import SplitModel
from fedha.penalty import term_value, term_weight
from fedha.recipes import Term
from fedha.training import Holder, circumstances

OWN_SIGNS, COMMON_SIGNS = "hutchinson_diagonal", "hutchinson_diagonal_shared"
Named = dict[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """What a chunk's loss needs beside batches and parameters.

    Attributes:
        model: Structure of the model.
        network: The same, taken apart.
        request: Of the round.
        terms: The penalty's terms that are not left out.
        apart: What differs by client, [k, ...] each: ``offset/…`` and ``own/…`` by statistic, ``signs/…``, ``share``.
        common: Signs that all clients share, by statistic.
    """

    model: SplitModel
    network: Network
    request: Request
    terms: tuple[Term, ...]
    apart: Named
    common: Named

    def parts(self, parameters: Mapping[str, Tensor], features: Tensor, labels: Tensor, batch: Batch) -> Named:
        """Each client's risk, and its terms as ``penalty/…``, or its accuracy where there are none: [k] each, live.

        Args:
            parameters: The head's, at least, each [k, ...].
            features: The featurizer's output, [k, b, D - 1].
            labels: [k, b].
            batch: Which clients and rows these are.
        """
        if not self.terms:
            logits = forward(self.network.head, parameters, features)
            right = statistics.hits(logits.detach(), labels).to(logits.dtype)
            return {"risk": batch.mean(statistics.losses(logits, labels)), "accuracy": batch.mean(right)}
        head = {name: value for name, value in parameters.items() if name.startswith("head.")}
        apart = {name: value[batch.clients] for name, value in self.apart.items()}
        parts: Named = vmap(self._one)(head, features, labels, apart)
        return parts

    def combine(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Risk and weighted terms, [k], before L2 and `divisor`."""
        recipe = self.request.task.recipe
        weight = recipe.scheduled_weight(self.request.round)
        loss = parts["risk"]
        for term in self.terms:
            loss = loss + weight * term_weight(recipe, term) * parts[f"penalty/{term.statistic}"]
        return loss

    def _one(self, head: Named, features: Tensor, labels: Tensor, apart: Named) -> Named:
        around = common_circumstances(self.request)
        share = cast(float, apart["share"])  # under vmap a number for each client
        own = {name.removeprefix("own/"): value for name, value in apart.items() if name.startswith("own/")}
        signs = {**self.common, **({OWN_SIGNS: apart["signs"]} if "signs" in apart else {})}
        with statistics.shared():
            view = view_head(self.model, head)
            arguments = (view, view.prepare(features), labels)
            parts = {"risk": view.functions.risk(*view.arguments, *arguments[1:])}
            for term in self.terms:
                value = measure_given(term.statistic, *arguments, around, signs)
                value = value + apart.get(f"offset/{term.statistic}", 0)
                parts[f"penalty/{term.statistic}"] = term_value(term, value, around.references, own, share)
        return parts


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
    around = common_circumstances(request)
    view = view_head(model, head)
    signs = {name: _signs(name, view, around, features) for name in names if name in (OWN_SIGNS, COMMON_SIGNS)}

    def one(features: Tensor, labels: Tensor) -> Named:
        with statistics.shared():
            prepared = view.prepare(features)
            return {name: measure_given(name, view, prepared, labels, around, signs) for name in names}

    with torch.no_grad():
        measured: Named = vmap(one)(features, labels)
    return measured


def measure_given(
    name: str, view: HeadView, features: Tensor, labels: Tensor, around: Circumstances, signs: Mapping[str, Tensor]
) -> Tensor:
    """As `fedha.measurement.measure`, with signs drawn before: vmap draws nothing, and knows no client's name."""
    if name not in signs:
        return measure(name, view, features, labels, around)
    functions = sketches if view.functions is statistics else nonlinear
    value: Tensor = functions.hutchinson_diagonal(*view.arguments, features, labels, signs[name])
    return value


def draw_signs(
    terms: Sequence[Term], clients: Sequence[Holder], request: Request, head: Named, like: Tensor
) -> tuple[Named, Named]:
    """The signs of each client, ``{"signs": [k, m, ...]}``, and those of all, where the terms want them."""
    wanted = {term.statistic for term in terms}
    view = view_head(clients[0].model, head)
    own, common = {}, {}
    if OWN_SIGNS in wanted:
        each = [_signs(OWN_SIGNS, view, circumstances(client, request, False), like) for client in clients]
        own["signs"] = torch.stack(each)
    if COMMON_SIGNS in wanted:
        common[COMMON_SIGNS] = _signs(COMMON_SIGNS, view, common_circumstances(request), like)
    return own, common


def common_circumstances(request: Request) -> Circumstances:
    """What a reference statistic may depend on."""
    task = request.task
    return Circumstances(task.seed, request.round, None, task.recipe.probes, request.references)
