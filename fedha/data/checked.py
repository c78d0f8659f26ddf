"""A domain as somebody's own function gave it: made of tensors where that is plainly what was meant, else refused."""

from dataclasses import replace
from typing import Any

import numpy
import torch
from torch import Tensor

from fedha.data.check import check_finite, check_kinds, check_labels
from fedha.data.domain import Domain
from fedha.data.examples import RANGES, Examples, Source
from fedha.data.mapped import mapped_from
from fedha.errors import FedhaError
from fedha.inputs import each, several

PARTS = {"train": "train", "held_out": "held-out"}


def checked_domain(value: object, client_id: int, *, trained: bool = True) -> Domain:
    """What a client's function returned, with arrays as tensors and whole numbers as int64 labels.

    Args:
        value: Should be a `Domain`; its arrays may be NumPy's, or anything that NumPy makes one of.
        client_id: The client's, in client order.
        trained: Whether it is trained on; a target need not have examples for that.

    Raises:
        FedhaError: It is something else, or by its types and shapes cannot be a domain's examples.
    """
    if not isinstance(value, Domain):
        raise FedhaError(
            f"the data of client {client_id} are a {type(value).__name__}; let the function that makes them return "
            "fedha.data.Domain(name, train, held_out), its parts fedha.data.Examples(inputs, labels)"
        )
    if not isinstance(value.name, str) or not value.name:
        raise FedhaError(
            f"the domain of client {client_id} is called {value.name!r}; give it a name, a text of its own"
        )
    parts = {part: _part(value, part) for part in PARTS}
    if not len(parts["train"]) and not trained and len(parts["held_out"]):
        parts["train"] = parts["held_out"].select(slice(0, 0))
    elif not len(parts["train"]):
        raise FedhaError(f"source domain {value.name!r} has no training examples; remove it or add data")
    if not len(parts["held_out"]):  # of whatever kind: nobody computes with it
        parts["held_out"] = parts["train"].select(slice(0, 0))
    shape, other = (parts[part].shape for part in PARTS)
    if shape != other:
        raise FedhaError(
            f"inputs of domain {value.name!r} have shape {other} where they are held out but {shape} where they are "
            "trained on; every example must have the same shape"
        )
    return replace(value, train=parts["train"], held_out=parts["held_out"])


def check_domain(domain: Domain, classes: int, given: Domain) -> None:
    """Refuse numbers that cannot be trained on, in the sentences of `DomainSet.check`.

    Args:
        domain: In the precision that is computed with.
        classes: C, of the network.
        given: The same in the precision that it was given in.

    Raises:
        FedhaError: A label is no class, or an input is not finite.
    """
    for part, title in PARTS.items():
        examples: Examples = getattr(domain, part)
        check_labels(domain.name, examples.labels, classes)
        check_finite(domain.name, title, examples, getattr(given, part))


def without_unusable(domain: Domain, classes: int) -> Domain:
    """The domain with labels that are no class made examples that are not finite.

    Where every example is clipped by itself, one that is not finite adds nothing, and nobody learns of it; an error
    about a label would tell of an example. Token ids know no NaN: such an example is one of class 0.
    """
    return replace(domain, train=_masked(domain.train, classes), held_out=_masked(domain.held_out, classes))


def _masked(examples: Examples, classes: int) -> Examples:
    out = (examples.labels < 0) | (examples.labels >= classes)
    if not bool(out.any()):
        return examples
    return replace(examples, labels=examples.labels.masked_fill(out, 0), unusable=out)


def _part(domain: Domain, part: str) -> Examples:
    examples, where = getattr(domain, part), f"domain {domain.name!r} ({PARTS[part]})"
    if not isinstance(examples, Examples):
        raise FedhaError(
            f"the {PARTS[part]} part of domain {domain.name!r} is a {type(examples).__name__}; make it "
            "fedha.data.Examples(inputs, labels)"
        )
    names = iter(several(examples.inputs))
    inputs = each(lambda one: _inputs(one, next(names), where), examples.inputs)
    labels = _tensor(examples.labels, f"labels of {where}")
    made = replace(examples, inputs=inputs, labels=labels)
    if made.is_empty:
        return made
    if not (labels.is_floating_point() or labels.is_complex()):
        made = replace(made, labels=labels.long())
    check_kinds(domain.name, PARTS[part], made)
    return _with_columns(made, where)


def _with_columns(examples: Examples, where: str) -> Examples:
    """Groups and metadata as they are held, a row an example."""
    groups = None if examples.groups is None else _tensor(examples.groups, f"groups of {where}")
    if groups is not None and (groups.is_floating_point() or groups.is_complex()):
        raise FedhaError(f"groups of {where} are {groups.dtype}; give one whole number or text an example")
    groups = None if groups is None else groups.long()
    metadata = {str(name): numpy.asarray(column) for name, column in examples.metadata.items()}
    columns: dict[str, Any] = {**({} if groups is None else {"groups": groups}), **metadata}
    for name, column in columns.items():
        if column.ndim < 1 or len(column) != len(examples):
            raise FedhaError(
                f"{name} of {where} have shape {tuple(column.shape)} but there are {len(examples)} labels; give one "
                "entry an example"
            )
    return replace(examples, groups=groups, metadata=metadata)


def _inputs(value: object, name: str, where: str) -> Tensor | Source:
    """Inputs that are not in memory stay where they are; all others become a tensor."""
    what = f"inputs {name!r} of {where}" if name else f"inputs of {where}"
    if isinstance(value, numpy.ndarray) and (mapped := mapped_from(value)) is not None:
        return mapped
    if isinstance(value, Tensor | numpy.ndarray) or not isinstance(value, Source):
        found = _tensor(value, what)
        if found.dtype in (torch.uint16, torch.uint32, torch.uint64):  # of which torch can compute with none
            pixels = found.dtype == torch.uint16 and found.ndim in (3, 4)
            return found.float() / RANGES[torch.uint16] if pixels else found.long()
        return found
    return value


def _tensor(value: object, what: str) -> Tensor:
    """A tensor of numbers with one axis or more, sharing the memory of what was given where that is possible."""
    if not isinstance(value, Tensor):
        value = _from_numpy(value, what)
    if value.layout != torch.strided:
        raise FedhaError(f"{what} are a sparse tensor; give a dense one, such as value.to_dense()")
    if not value.ndim:
        raise FedhaError(f"{what} are one number; give one entry an example")
    return value.detach()


def _from_numpy(value: object, what: str) -> Tensor:
    try:
        array = numpy.asarray(value)
    except (ValueError, TypeError) as error:
        raise FedhaError(f"{what} are a {type(value).__name__} that is no array ({error}); give a tensor") from error
    if array.dtype.kind not in "biufc":
        kind = {"U": "text", "S": "text", "M": "dates"}.get(array.dtype.kind, f"a {type(value).__name__} of objects")
        numbers = "number the classes 0, 1, 2, …" if what.startswith("labels") else "give numbers"
        raise FedhaError(f"{what} are {kind}; {numbers}")
    if array.dtype.kind in "u" and array.dtype.itemsize > 2:
        array = array.astype(numpy.int64)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(numpy.float64)
    array = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    return torch.from_numpy(numpy.ascontiguousarray(array) if min(array.strides, default=0) < 0 else array)
