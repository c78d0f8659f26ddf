"""A domain shared by several clients: each holds a part of its examples, drawn at random."""

import torch

from fedha.data.domain import Domain, DomainSet, Examples
from fedha.errors import FedhaError
from fedha.randomness import generator


def client_domains(domains: DomainSet, clients_per_domain: int, seed: int) -> list[Domain]:
    """What each client holds, in client order: domain after domain, every client as many examples, give or take one.

    Args:
        domains: The sources are divided; with one client a domain they are returned as they are.
        clients_per_domain: Clients that share a source, k >= 1.
        seed: The run's seed; it decides who gets which examples.

    Returns:
        E * k domains, whose tensors are views of one permuted copy of each source.

    Raises:
        FedhaError: A source has fewer examples than clients.
    """
    if clients_per_domain == 1:
        return list(domains.sources)
    return [part for one in domains.sources for part in _divide(one, clients_per_domain, seed)]


def _divide(domain: Domain, clients: int, seed: int) -> list[Domain]:
    if len(domain.train) < clients:
        raise FedhaError(
            f"source domain {domain.name!r} has {len(domain.train)} training examples for {clients} clients; "
            "lower data.clients_per_domain"
        )
    train, held_out = (
        _parts(part, clients, generator(seed, "data", "shards", domain.name, name))
        for name, part in (("train", domain.train), ("held out", domain.held_out))
    )
    return [Domain(domain.name, *parts, shard) for shard, parts in enumerate(zip(train, held_out, strict=True))]


def _parts(examples: Examples, clients: int, draws: torch.Generator) -> list[Examples]:
    mixed = examples.select(torch.randperm(len(examples), generator=draws))
    inputs, labels = mixed.inputs.tensor_split(clients), mixed.labels.tensor_split(clients)
    return [Examples(*parts) for parts in zip(inputs, labels, strict=True)]
