"""A domain shared by several clients: each holds a part of its examples."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedha.data.domain import Domain, DomainSet, Examples
from fedha.data.sides import Split, members_of
from fedha.errors import FedhaError
from fedha.randomness import generator


def even_shards(domains: DomainSet, clients_per_domain: int, seed: int, split: Split = "stratified") -> list[Domain]:
    """What each client holds, in client order: domain after domain.

    Args:
        domains: The sources are divided; with one client a domain they are returned as they are.
        clients_per_domain: Clients that share a source, k >= 1.
        seed: The run's seed; it decides who gets which examples.
        split: Whether each client gets of each label as many, give or take one, and whole groups; or what chance gives.

    Returns:
        E * k domains, whose tensors are views of one permuted copy of each source. Every client of a domain has as many
        examples, give or take one, where there are no groups.

    Raises:
        FedhaError: A source has fewer examples, or groups, than clients.
    """
    if clients_per_domain == 1:
        return list(domains.sources)
    check_clients(domains.sources, clients_per_domain)
    return [part for one in domains.sources for part in _divide(one, clients_per_domain, seed, split)]


def check_clients(sources: Sequence[Domain], clients: int) -> None:
    """Refuse more clients than a domain can be shared by.

    Raises:
        FedhaError: A source has fewer training examples than clients.
    """
    for domain in sources:
        if len(domain.train) < clients:
            raise FedhaError(
                f"source domain {domain.name!r} has {len(domain.train)} training examples for {clients} clients; "
                "lower data.clients_per_domain"
            )
        groups = domain.train.groups
        if groups is not None and clients > 1 and (count := len(groups.unique())) < clients:
            raise FedhaError(
                f"source domain {domain.name!r} has {count} groups to train on for {clients} clients, and a group is "
                "not divided; lower data.clients_per_domain"
            )


def _divide(domain: Domain, clients: int, seed: int, split: Split) -> list[Domain]:
    train, held_out = (
        _parts(part, clients, generator(seed, "data", "shards", domain.name, name), split)
        for name, part in (("train", domain.train), ("held out", domain.held_out))
    )
    return [Domain(domain.name, *parts, shard) for shard, parts in enumerate(zip(train, held_out, strict=True))]


def _parts(examples: Examples, clients: int, draws: torch.Generator, split: Split) -> list[Examples]:
    order = torch.randperm(len(examples), generator=draws)
    if split == "random":
        places = list(order.tensor_split(clients))
    elif examples.groups is None:
        places = _dealt(examples.labels, order, clients)
    else:
        places = _dealt_groups(examples.labels, examples.groups, order, clients)
    mixed, ends = examples.select(torch.cat(places)), torch.tensor([len(one) for one in places]).cumsum(0).tolist()
    return [mixed.select(slice(end - len(one), end)) for one, end in zip(places, ends, strict=True)]


def _dealt(labels: Tensor, order: Tensor, clients: int) -> list[Tensor]:
    """Each label's examples dealt out one by one, the next label's from where the last one's ended."""
    by_label = order[labels[order].argsort(stable=True)]
    return [by_label[first::clients] for first in range(clients)]


def _dealt_groups(labels: Tensor, groups: Tensor, order: Tensor, clients: int) -> list[Tensor]:
    """Each group, the largest first, to the client that lacks most of its labels; of those alike, to the smallest."""
    _, classes, totals = labels.unique(return_inverse=True, return_counts=True)
    held = torch.zeros(clients, len(totals), dtype=torch.float64)
    given: list[list[Tensor]] = [[] for _ in range(clients)]
    for one in members_of(groups, order):
        more = torch.bincount(classes[one], minlength=len(totals)).double()
        costs = ((2 * held + more) * more / totals).sum(1)
        client = min(range(clients), key=lambda place: (bool(given[place]), float(costs[place]), len(given[place])))
        held[client] += more
        given[client].append(one)
    return [torch.cat(one) if one else order[:0] for one in given]
