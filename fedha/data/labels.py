"""Which classes a user's labels mean, and where examples of one are missing."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedha.config import DataConfig
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.data.partition import client_domains
from fedha.errors import FedhaError

_SHOWN = 3


def count_classes(labels: Mapping[str, Tensor]) -> int:
    """C, where nobody says it: one more than the highest label, of which every class must have an example.

    Args:
        labels: Of each domain used, [n], int64.

    Raises:
        FedhaError: A class has no example in any domain; labels that are negative are `DomainSet.check`'s to refuse.
    """
    found = torch.cat([*labels.values()]).unique()
    found = found[found >= 0]
    if not len(found):
        return 2
    classes = max(2, int(found[-1]) + 1)
    if len(found) == classes:
        return classes
    examples = sum(len(one) for one in labels.values())
    worst = next(name for name, one in labels.items() if len(one) and int(one.max()) == int(found[-1]))
    beyond = f"labels of domain {worst!r} go up to {classes - 1}"
    if classes > max(2, examples):
        beyond += f" but all domains have {examples} examples together"
    raise FedhaError(
        f"{beyond}, and {_missing(found, classes)} no example in any domain; number the classes 0, 1, 2, …, or set "
        f"data.unlabelled: {classes - 1} if that stands for no label, or data.classes: {classes} if there are so many"
    )


def missing_classes(domains: DomainSet, data: DataConfig, seed: int) -> list[str]:
    """Where a client has no example of a class on a side that has any, a sentence for each side.

    Args:
        domains: The run's.
        data: Says what each client holds.
        seed: The run's seed.
    """
    labels_alone = [_labels_alone(one) for one in domains.sources]
    held = client_domains(DomainSet(tuple(labels_alone), (), domains.classes, ""), data, seed)
    sides = {
        "training": {one.client_name: one.train.labels for one in held},
        "held-out": {one.client_name: one.held_out.labels for one in held},
    }
    return [note for side, labels in sides.items() if (note := _note(side, labels, domains.classes))]


def _note(side: str, labels: Mapping[str, Tensor], classes: int) -> str:
    some = {name: one.unique() for name, one in labels.items() if len(one)}
    lacking = [name for name, one in some.items() if len(one) < classes]
    named = [f"{name} ({_missing(some[name], classes, few=True)})" for name in lacking[:_SHOWN]]
    more = f" and {len(lacking) - _SHOWN} more of {len(labels)}" if len(lacking) > _SHOWN else ""
    return f"a class is missing from the {side} examples of {', '.join(named)}{more}" if lacking else ""


def _missing(found: Tensor, classes: int, *, few: bool = False) -> str:
    """The classes without an example: the first ones, and how many there are."""
    first = range(min(classes, len(found) + _SHOWN))  # classes may be many: the first gaps are among these
    present = set(found[: len(first)].tolist())
    gaps = [one for one in first if one not in present]
    count = classes - len(found)
    if count == 1:
        return f"class {gaps[0]}" if few else f"class {gaps[0]} has"
    told = ", ".join(map(str, gaps[:_SHOWN])) + (f" and {count - _SHOWN} more" if count > _SHOWN else "")
    return f"classes {told}" if few else f"classes {told} have"


def _labels_alone(domain: Domain) -> Domain:
    train, held_out = (
        Examples(one.labels[:, None], one.labels, one.groups, one.metadata) for one in (domain.train, domain.held_out)
    )
    return replace(domain, train=train, held_out=held_out)
