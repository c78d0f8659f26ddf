"""A program's own domains in files, for processes of a run that the program does not start itself. No pickle.

Tensors stand in one safetensors file, which every process maps; what lies in a file already stays there and is named.
How they make up the domains is the file's metadata, as JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedha.data.domain import Domain, DomainSet
from fedha.data.examples import GIVEN, Chosen, Examples, Joined
from fedha.data.mapped import Mapped
from fedha.errors import FedhaError
from fedha.inputs import several
from fedha.objects import put_object

_FILE = "domains.safetensors"
_SIDES = ("sources", "targets")
_KEPT = ("labels", "groups", "unusable")


def write(digest: str, domains: DomainSet, folder: Path) -> None:
    """Write domains for `read`.

    Args:
        digest: By which the config knows them.
        domains: As a program gave them.
        folder: A new one of the run's own.

    Raises:
        FedhaError: The inputs of one are a source that is somebody's object, or the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    found = {
        "digest": digest,
        "classes": domains.classes,
        "description": domains.description,
        "notes": domains.notes,
        **{side: [_domain(one, tensors) for one in getattr(domains, side)] for side in _SIDES},
    }
    try:
        folder.mkdir()
        save_file(tensors, folder / _FILE, {"domains": json.dumps(found)})
    except OSError as error:
        raise FedhaError(f"the domains cannot be written to {folder}: {error.strerror}; see TMPDIR") from error


def read(folder: Path) -> tuple[str, DomainSet]:
    """What `write` wrote, digest and domains; tensors are read from the file when they are used."""
    with safe_open(folder / _FILE, "pt") as file:
        found = json.loads(file.metadata()["domains"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    sources, targets = ((tuple(_made(one, tensors) for one in found[side])) for side in _SIDES)
    domains = DomainSet(sources, targets, found["classes"], found["description"], tuple(found["notes"]))
    return found["digest"], domains


@lru_cache(maxsize=1)  # asked with every message of a client's
def offer(folder: Path) -> None:
    """Make what `write` wrote known to this process, by the digest that the config records."""
    digest, domains = read(folder)
    put_object(digest, domains)


def _domain(domain: Domain, tensors: dict[str, Tensor]) -> dict[str, Any]:
    parts = {side: _part(domain, getattr(domain, side), tensors) for side in ("train", "held_out")}
    return {"name": domain.name, "shard": domain.shard, **parts}


def _part(domain: Domain, part: Examples, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Where its rows stood as they were given, which only errors name, stays behind: they were looked at already."""
    kind = "named" if isinstance(part.inputs, Mapping) else "several" if isinstance(part.inputs, tuple) else "one"
    return {
        "kind": kind,
        "inputs": {name: _source(domain, one, tensors) for name, one in several(part.inputs).items()},
        "divisor": part.divisor,
        "metadata": {name: column.tolist() for name, column in part.metadata.items() if name != GIVEN},
        **{name: None if (one := getattr(part, name)) is None else _tensor(one, tensors) for name in _KEPT},
    }


def _source(domain: Domain, kept: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if isinstance(kept, Tensor):
        return {"tensor": _tensor(kept, tensors)}
    if isinstance(kept, Mapped):
        own = {one.name: getattr(kept, one.name) for one in fields(kept)}
        return {"file": {**own, "path": str(kept.path)}}
    if isinstance(kept, Chosen):
        return {"rows": _tensor(kept.rows, tensors), "of": _source(domain, kept.source, tensors)}
    if isinstance(kept, Joined):
        return {"parts": [_source(domain, one, tensors) for one in kept.parts]}
    raise FedhaError(
        f"engine is 'flower', and the inputs of domain {domain.name!r} are a {type(kept).__name__} of this program, "
        "which Flower's processes cannot have; give tensors or arrays (numpy.load(path, mmap_mode='r') stays in its "
        "file), let a config name the function that makes the data (data.name: package.module:function), or take "
        "engine inline or ray"
    )


def _tensor(value: Tensor, tensors: dict[str, Tensor]) -> str:
    name = str(len(tensors))
    tensors[name] = value.detach().cpu().contiguous().clone()  # several may share memory, which the file would refuse
    return name


def _made(entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Domain:
    train, held_out = (_examples(entry[side], tensors) for side in ("train", "held_out"))
    return Domain(entry["name"], train, held_out, entry["shard"])


def _examples(entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Examples:
    named: dict[str, Any] = {name: _opened(one, tensors) for name, one in entry["inputs"].items()}
    inputs: Any = named if entry["kind"] == "named" else tuple(named.values())
    groups, unusable = (None if entry[name] is None else tensors[entry[name]] for name in ("groups", "unusable"))
    return Examples(
        inputs[0] if entry["kind"] == "one" else inputs,
        tensors[entry["labels"]],
        groups,
        {name: numpy.array(column) for name, column in entry["metadata"].items()},
        divisor=entry["divisor"],
        unusable=unusable,
    )


def _opened(entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    if "tensor" in entry:
        return tensors[entry["tensor"]]
    if "file" in entry:
        own = entry["file"]
        return Mapped(
            **{**own, "path": Path(own["path"]), **{name: tuple(own[name]) for name in ("file_shape", "axes")}}
        )
    if "parts" in entry:
        return Joined(tuple(_opened(one, tensors) for one in entry["parts"]))
    return Chosen(_opened(entry["of"], tensors), tensors[entry["rows"]])
