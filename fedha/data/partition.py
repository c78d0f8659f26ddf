"""Who holds which of the sources' examples: ``data.partition``, or as many clients a domain as the config says.

A way to divide is a function whose signature declares its options, here or in an installed package (the group
``fedha.partitions``) or anybody's own. It is given the source domains, of which it sees labels, groups and metadata,
and the run's seed, and returns what each client holds.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fedha import plugins
from fedha.config import DataConfig
from fedha.data.domain import Domain, DomainSet
from fedha.data.examples import Examples, joined
from fedha.data.shards import check_clients, even_shards
from fedha.errors import FedhaError
from fedha.named import find, invoke
from fedha.rules.table import named_rule

_KEY = "data.partition"
Rows = Mapping[int, Tensor]  # places of examples in their domain's part, by the domain's place among the sources


@dataclass(frozen=True)
class Share:
    """What one client holds.

    Attributes:
        domain: The name of the domain that it stands for, in tables and in averages over domains.
        train: What it trains on.
        held_out: What it evaluates.
        part: What tells it from others of its domain: a number from 0, or a text; None: it is the only one.
        notes: What was done to make it, a sentence each.
    """

    domain: str
    train: Rows
    held_out: Rows = field(default_factory=dict)
    part: int | str | None = None
    notes: tuple[str, ...] = ()

    @property
    def client_name(self) -> str:
        """What the client is called."""
        return self.domain if self.part is None else f"{self.domain}/{self.part}"


def client_domains(domains: DomainSet, data: DataConfig, seed: int) -> list[Domain]:
    """What each client holds, in client order.

    Args:
        domains: The sources are divided; with one client a domain they are returned as they are.
        data: Its partition, or clients_per_domain and split.
        seed: The run's seed; it decides who gets which examples.

    Raises:
        FedhaError: A source has fewer examples, or groups, than clients; or as the partition's function says.
    """
    if data.partition is None:
        return even_shards(domains, data.clients_per_domain, seed, data.split)
    return [_held(one, domains.sources) for one in shares(domains.sources, data, seed)]


def client_count(domains: DomainSet, data: DataConfig, seed: int) -> int:
    """How many clients there are; arguments as in `client_domains`."""
    if data.partition is None:
        return len(domains.sources) * data.clients_per_domain
    return len(shares(domains.sources, data, seed))


def client_names(domains: DomainSet, data: DataConfig, seed: int) -> list[str]:
    """The domain that each client stands for, in client order; arguments as in `client_domains`."""
    if data.partition is None:
        return [one.name for one in domains.sources for _ in range(data.clients_per_domain)]
    return [one.domain for one in shares(domains.sources, data, seed)]


def check_partition(domains: DomainSet, data: DataConfig, seed: int) -> None:
    """Refuse to divide what cannot be; arguments and errors as in `client_domains`."""
    if data.partition is None:
        check_clients(domains.sources, data.clients_per_domain)
    else:
        shares(domains.sources, data, seed)


def shares(sources: Sequence[Domain], data: DataConfig, seed: int) -> list[Share]:
    """What each client holds of these domains; arguments as in `client_domains`.

    Raises:
        FedhaError: There is no such function, it fails, or what it makes is no partition.
    """
    if data.partition is None:
        return _even(sources, data, seed)
    name, options = named_rule(data.partition or "")
    function = find(_KEY, plugins.location(plugins.PARTITIONS, name))
    seen = tuple(_labels_alone(one) for one in sources)
    offered = {"sources": seen, "seed": seed, "split": data.split}
    offered |= {"clients_per_domain": data.clients_per_domain} if data.clients_per_domain > 1 else {}
    taken = _parameters(function)
    if data.clients_per_domain > 1 and "clients_per_domain" not in taken:
        raise FedhaError(
            f"data.clients_per_domain is {data.clients_per_domain}, which partition {name!r} does not read; leave it "
            "out"
        )
    made = invoke(_KEY, name, function, options, offered)
    if not isinstance(made, Sequence) or not all(isinstance(one, Share) for one in made):
        raise FedhaError(f"{_KEY} is {name!r}, which makes no list of fedha.data.partition.Share; let it")
    _check(name, made, seen)
    return list(made)


def _even(sources: Sequence[Domain], data: DataConfig, seed: int) -> list[Share]:
    """As `even_shards` divides them, by what examples' places become."""
    placed = tuple(
        replace(
            one,
            train=replace(one.train, inputs=torch.arange(len(one.train))[:, None]),
            held_out=replace(one.held_out, inputs=torch.arange(len(one.held_out))[:, None]),
        )
        for one in sources
    )
    made = even_shards(DomainSet(placed, (), 2, ""), data.clients_per_domain, seed, data.split)
    per = data.clients_per_domain
    return [
        Share(one.name, {at // per: one.train.inputs[:, 0]}, {at // per: one.held_out.inputs[:, 0]}, one.shard)
        for at, one in enumerate(made)
    ]


def _check(name: str, made: Sequence[Share], sources: Sequence[Domain]) -> None:
    """Every training and held-out example is with one client, and every client has some to train on."""
    if not made:
        raise FedhaError(f"partition {name!r} makes no client; there must be one at least")
    for one in made:
        if not sum(len(rows) for rows in one.train.values()):
            raise FedhaError(
                f"partition {name!r} leaves client {one.client_name!r} without a training example; ask for fewer "
                "clients"
            )
    called = Counter(one.client_name for one in made)
    if twice := next((one for one, count in called.items() if count > 1), None):
        raise FedhaError(f"partition {name!r} makes two clients {twice!r}; give each a part of its own")
    for side in ("train", "held_out"):
        for place, domain in enumerate(sources):
            held = [getattr(one, side)[place] for one in made if place in getattr(one, side)]
            rows = torch.cat(held) if held else torch.zeros(0, dtype=torch.int64)
            if not torch.equal(rows.sort().values, torch.arange(len(getattr(domain, side)))):
                raise FedhaError(
                    f"partition {name!r} does not give every {side.replace('_', '-')} example of domain "
                    f"{domain.name!r} to one client; give each to exactly one"
                )


def _parameters(function: Any) -> set[str]:
    from fedha.signature import parameters_of

    return set(parameters_of(function))


def _held(share: Share, sources: Sequence[Domain]) -> Domain:
    return Domain(
        share.domain,
        _chosen(share.train, [one.train for one in sources]),
        _chosen(share.held_out, [one.held_out for one in sources]),
        share.part,
        share.notes,
    )


def _chosen(rows: Rows, parts: Sequence[Examples]) -> Examples:
    some = [parts[place].select(own) for place, own in sorted(rows.items()) if len(own)]
    return joined(some) if some else parts[0].select(slice(0, 0))


def _labels_alone(domain: Domain) -> Domain:
    train, held_out = (replace(one, inputs=one.labels[:, None]) for one in (domain.train, domain.held_out))
    return replace(domain, train=train, held_out=held_out)
