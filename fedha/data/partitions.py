"""fedha's own ways to divide the sources among clients, each a function whose signature declares its options."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import numpy
import torch
from pydantic import Field
from torch import Tensor

from fedha.data.domain import Domain
from fedha.data.examples import Examples
from fedha.data.partition import Share
from fedha.errors import FedhaError, listed
from fedha.randomness import generator
from fedha.schema import nearest

_Count = Annotated[int, Field(ge=1)]
_TRIES = 1000  # draws of a Dirichlet distribution, until every client has enough


def mixed_domains(
    sources: Sequence[Domain],
    seed: int,
    split: str,
    clients: _Count,
    mixing: Annotated[float, Field(ge=0, le=1)] = 0.0,
) -> list[Share]:
    """The partition of D domains over K clients from one domain a client to all alike.

    Client c gets, of domain d, ``mixing n_d / K + (1 - mixing) n_d / K_d [d is c's main domain]`` training examples,
    K_d the clients whose main domain is d: one each, then more where a client would have most. With fewer clients than
    domains, these are packed, the largest first, each to who has least. What is held out stays with the clients of its
    own domain, so that tables by domain speak of domains.

    Args:
        sources: The domains.
        seed: The run's.
        split: Whether groups are to stay together.
        clients: K.
        mixing: The paper's lambda: 0, a domain a client; 1, all clients alike.

    Source:
        Bai, Bagchi, Inouye, "Benchmarking algorithms for federated domain generalization" (ICLR 2024), heterogeneous
        partitioning, with the rounding of the authors' code.
    """
    _refuse_groups("lambda", sources, split)
    sizes = numpy.array([len(one.train) for one in sources])
    mains = _main_domains(sizes, clients)
    own = numpy.zeros((clients, len(sources)))
    for place in range(len(sources)):
        holders = [client for client, main in enumerate(mains) if place in main]
        own[holders, place] = sizes[place] / len(holders)
    wanted = mixing * sizes / clients + (1 - mixing) * own
    counts = numpy.floor(wanted + 1e-9).astype(int)
    for place, missing in enumerate(sizes - counts.sum(0)):
        order = numpy.argsort(-(wanted[:, place] > 0).astype(int), kind="stable")  # those who get any come first
        counts[order[:missing], place] += 1
    train = [_dealt(one.train, counts[:, place], seed, one.name, "train") for place, one in enumerate(sources)]
    held = [_held_out(one, place, mains, seed) for place, one in enumerate(sources)]
    names = [" + ".join(sources[place].name for place in main) for main in mains]
    numbers = _numbers(names)
    return [
        Share(
            names[client],
            {place: rows[client] for place, rows in enumerate(train) if len(rows[client])},
            {place: rows[client] for place, rows in enumerate(held) if client in rows},
            numbers[client],
        )
        for client in range(clients)
    ]


def dirichlet(
    sources: Sequence[Domain],
    seed: int,
    split: str,
    alpha: Annotated[float, Field(gt=0)],
    clients_per_domain: _Count = 2,
    least: _Count = 1,
) -> list[Share]:
    """Label skew within each domain: of each class, its clients get parts drawn from a Dirichlet distribution.

    Args:
        sources: The domains.
        seed: The run's.
        split: Whether groups are to stay together.
        alpha: Of the distribution: small, a class goes to few clients; large, to all alike.
        clients_per_domain: Clients that share a domain.
        least: Training examples that every client has; it is drawn anew until all have them.

    Source:
        Yurochkin et al. (ICML 2019); Hsu, Qi, Brown (2019); the domain's held-out examples are divided in the parts of
        those that are trained on.
    """
    _refuse_groups("dirichlet", sources, split)
    made = []
    for place, one in enumerate(sources):
        parts = _label_parts(one, alpha, clients_per_domain, least, seed)
        train, held = (
            _by_class(side, parts, generator(seed, "data", "dirichlet", one.name, name), clients_per_domain)
            for name, side in (("train", one.train), ("held out", one.held_out))
        )
        alone = clients_per_domain == 1
        pairs = enumerate(zip(train, held, strict=True))
        made += [Share(one.name, {place: a}, {place: b}, None if alone else part) for part, (a, b) in pairs]
    return made


def by_column(sources: Sequence[Domain], column: str) -> list[Share]:
    """Natural clients: within each domain, one for each value of a column of what is known of examples.

    Args:
        sources: The domains; their examples' metadata has the column, or ``group`` their groups.
        column: Such as hospital, patient or camera.
    """
    made = []
    for place, one in enumerate(sources):
        train, held = (_values(one.name, part, column) for part in (one.train, one.held_out))
        own, others = _places(train), _places(held)
        names = sorted(own)
        if not names:
            raise FedhaError(f"partition by column {column!r}: domain {one.name!r} has nothing to train on")
        strangers = sorted(others.keys() - own.keys())
        told = (
            f"of column {column}, {listed(strangers, 3)} {'is' if len(strangers) == 1 else 'are'} held out alone, and "
            f"evaluated by client {one.name}/{names[0]}"
        )
        for name in names:
            first = name == names[0]
            mine = sorted([*others.get(name, []), *(row for value in strangers if first for row in others[value])])
            notes = (told,) if first and strangers else ()
            made.append(Share(one.name, {place: _rows(own[name])}, {place: _rows(mine)}, name, notes))
    return made


def _main_domains(sizes: numpy.ndarray, clients: int) -> list[list[int]]:
    """The main domains of each client: one, or where there are fewer clients than domains, several."""
    if clients < len(sizes):
        packed: list[list[int]] = [[] for _ in range(clients)]
        for place in numpy.argsort(-sizes, kind="stable").tolist():
            min(packed, key=lambda one: sum(sizes[other] for other in one)).append(place)
        return [sorted(one) for one in packed]
    counts = numpy.ones(len(sizes), dtype=int)
    while counts.sum() < clients:
        counts[int(numpy.argmax(sizes / counts))] += 1
    return [[place] for place, count in enumerate(counts.tolist()) for _ in range(count)]


def _held_out(domain: Domain, place: int, mains: Sequence[Sequence[int]], seed: int) -> dict[int, Tensor]:
    holders = [client for client, main in enumerate(mains) if place in main]
    order = torch.randperm(len(domain.held_out), generator=generator(seed, "data", "lambda", domain.name, "held out"))
    return dict(zip(holders, order.tensor_split(len(holders)), strict=True))


def _dealt(part: Examples, counts: numpy.ndarray, seed: int, name: str, side: str) -> list[Tensor]:
    order = torch.randperm(len(part), generator=generator(seed, "data", "lambda", name, side))
    return list(order.split(counts.tolist()))


def _numbers(names: Sequence[str]) -> list[int | None]:
    """Each client's number among those of its domain; None where it is the only one."""
    many, seen = Counter(names), Counter[str]()
    numbers: list[int | None] = []
    for name in names:
        numbers.append(seen[name] if many[name] > 1 else None)
        seen[name] += 1
    return numbers


def _label_parts(domain: Domain, alpha: float, clients: int, least: int, seed: int) -> dict[int, numpy.ndarray]:
    """What part of each class goes to each client, [k] a class."""
    labels = domain.train.labels
    classes = torch.cat([labels, domain.held_out.labels]).unique().tolist()
    for number in range(_TRIES):
        key = generator(seed, "data", "dirichlet", domain.name, "parts", number).initial_seed()
        draws = numpy.random.default_rng(key)
        parts = {label: draws.dirichlet([alpha] * clients) for label in classes}
        sizes = sum(_counts(int((labels == label).sum()), parts[label]) for label in classes)
        if int(numpy.min(sizes)) >= least:
            return parts
    raise FedhaError(
        f"partition dirichlet with alpha {alpha:g} left a client of domain {domain.name!r}, which has {len(labels)} "
        f"training examples for {clients} clients, fewer than {least} in {_TRIES} draws; raise alpha, or lower "
        "data.clients_per_domain or least"
    )


def _counts(examples: int, parts: numpy.ndarray) -> numpy.ndarray:
    """How many of so many examples each client gets: by rounding where one's stretch ends."""
    ends = numpy.rint(numpy.cumsum(parts) * examples).astype(int)
    ends[-1] = examples
    return numpy.diff(ends, prepend=0)


def _by_class(part: Examples, parts: dict[int, numpy.ndarray], draws: torch.Generator, clients: int) -> list[Tensor]:
    order = torch.randperm(len(part), generator=draws)
    held: list[list[Tensor]] = [[] for _ in range(clients)]
    for label, own in parts.items():
        rows = order[part.labels[order] == label]
        for client, some in enumerate(rows.split(_counts(len(rows), own).tolist())):
            held[client].append(some)
    return [torch.cat(one) for one in held]


def _values(name: str, part: Examples, column: str) -> list[str]:
    known = dict(part.metadata)
    if column == "group" and column not in known and part.groups is not None:
        known[column] = part.groups.numpy()
    if column not in known:
        if not len(part):
            return []
        there = [one for one in (*known, *(["group"] if part.groups is not None else [])) if " " not in one]
        have = f"only {listed(there)}{nearest(column, there)}" if there else "nothing of that kind"
        raise FedhaError(
            f"data.partition goes by column {column!r}, but of the examples of domain {name!r} is known {have}"
        )
    return [str(one) for one in known[column].tolist()]


def _places(values: Sequence[str]) -> dict[str, list[int]]:
    """Where each value stands."""
    found: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        found.setdefault(value, []).append(row)
    return found


def _rows(places: list[int]) -> Tensor:
    return torch.tensor(places, dtype=torch.int64)


def _refuse_groups(name: str, sources: Sequence[Domain], split: str) -> None:
    if grouped := [one.name for one in sources if one.train.groups is not None]:
        raise FedhaError(
            f"partition {name!r} would divide the groups of {listed(grouped)} among clients; set data.split to random, "
            "or take partition: {name: column, column: group}"
        )
    _ = split
