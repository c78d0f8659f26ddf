"""Releases in files: a folder of a run, one safetensors file a round, its shape as JSON in the file's own metadata."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedha.audit.sent import Sent
from fedha.errors import FedhaError, brief
from fedha.jsonfile import parse_json
from fedha.runs import own_files
from fedha.runs.files import SENT as FOLDER

_FORM = 1  # of the files; a reader of another form refuses them


def append(run: Path, releases: Sequence[Sent]) -> None:
    """Write the releases of one round at once, in place of what a stopped run may have left of that round.

    A model that several releases were taken at is written once.

    Args:
        run: The run's folder; ``sent/`` in it is made where it is missing.
        releases: Of one round, in client order, the aggregate anywhere; one or more.

    Raises:
        FedhaError: The releases are of several rounds, or the file cannot be written.
    """
    rounds = sorted({one.round for one in releases})
    if len(rounds) != 1:
        raise FedhaError(f"releases of the rounds {rounds} were given for one file; give those of one round")
    models: list[Mapping[str, Tensor]] = []
    tensors: dict[str, Tensor] = {}
    entries = []
    for place, one in enumerate(releases):
        model = next((k for k, known in enumerate(models) if _equal(known, one.parameters)), len(models))
        if model == len(models):
            models.append(one.parameters)
            tensors |= _below(f"models/{model}", one.parameters)
        tensors |= _below(f"{place}/statistics", one.statistics) | _below(f"{place}/update", one.update or {})
        tensors |= {f"{place}/head": one.head} if one.head is not None else {}
        entries.append(_entry(one, model))
    content = save(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        metadata={"sent": json.dumps({"form": _FORM, "round": rounds[0], "releases": entries})},
    )
    path = path_of(run, rounds[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    own_files.write_bytes(run, path.relative_to(run).as_posix(), content)


def path_of(run: Path, round: int) -> Path:
    """Where a run's releases of one round are."""
    return run / FOLDER / f"round-{round:06d}.safetensors"


def read(run: Path) -> Iterator[Sent]:
    """The releases of a run, round after round; one round's are in memory at a time.

    Args:
        run: The run's folder.

    Raises:
        FedhaError: Nothing was captured there, or a file is damaged or of another version.
    """
    paths = sorted((run / FOLDER).glob("round-*.safetensors"))
    if not paths:
        raise FedhaError(f"{run / FOLDER} holds no releases; run again with what is sent captured, then audit")
    for path in paths:
        yield from read_round(path)


def read_round(path: Path) -> list[Sent]:
    """The releases of one file.

    Raises:
        FedhaError: It is damaged, or of another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            content = parse_json(file.metadata()["sent"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if content["form"] != _FORM:
            raise FedhaError(
                f"{path} has form {content['form']}, this version reads {_FORM}; run again to capture anew"
            )
        return [_release(content["round"], place, one, tensors) for place, one in enumerate(content["releases"])]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise FedhaError(f"cannot read what was sent from {path} ({brief(error)}); remove it, or run again") from error


def _entry(one: Sent, model: int) -> dict[str, Any]:
    return {
        "client": one.client,
        "examples": one.examples,
        "mode": one.mode,
        "shares": list(one.averaging_weights.items()),  # JSON has no integer keys
        "update": one.update is not None,
        "model": model,
    }


def _release(round: int, place: int, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Sent:
    return Sent(
        round=round,
        client=entry["client"],
        head=tensors.get(f"{place}/head"),
        statistics=_of(tensors, f"{place}/statistics/"),
        update=_of(tensors, f"{place}/update/") if entry["update"] else None,
        examples=entry["examples"],
        parameters=_of(tensors, f"models/{entry['model']}/"),
        mode=entry["mode"],
        averaging_weights=dict(entry["shares"]),
    )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def _of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one is other or (
        one.keys() == other.keys()
        and all(value.shape == other[name].shape and torch.equal(value, other[name]) for name, value in one.items())
    )
