"""What really was behind a release: the examples of its clients, known where domains are simulated."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha.audit.sent import Sent
from fedha.data.domain import Domain, Examples
from fedha.data.examples import joined


@dataclass(frozen=True)
class Truth:
    """The examples behind a release, and those of its clients that were not in it.

    Attributes:
        members: Trained on, n.
        weights: Of each member in the release's means, [n]; they sum to 1.
        others: Held out by the same clients: never in a release.
    """

    members: Examples
    weights: Tensor
    others: Examples

    def distribution(self, classes: int) -> Tensor:
        """The weight of each class, [C], two for one logit."""
        found = torch.zeros(max(classes, 2), dtype=torch.float64)
        return found.index_add(0, self.members.labels, self.weights)


def truth_of(sent: Sent, domains: Mapping[int, Domain] | None) -> Truth | str:
    """The examples of a release's clients, or why they are not known."""
    if domains is None:
        return "the examples behind it are not known"
    absent = [client_id for client_id in sent.averaging_weights if client_id not in domains]
    if absent:
        return f"the examples of client {absent[0]} are not known"
    parts = [domains[client_id].train for client_id in sent.averaging_weights]
    if sum(map(len, parts)) != sent.examples:
        return f"it speaks of {sent.examples} examples but its clients hold {sum(map(len, parts))}"
    total = sum(sent.averaging_weights.values())
    weights = [
        torch.full((len(part),), weight / total / len(part), dtype=torch.float64)
        for part, weight in zip(parts, sent.averaging_weights.values(), strict=True)
    ]
    return Truth(
        joined(parts), torch.cat(weights), joined([domains[client_id].held_out for client_id in sent.averaging_weights])
    )
