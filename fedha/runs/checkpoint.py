"""What a run continues from, in one safetensors file that is replaced whole.

A rule of the server keeps ``rule/its name/a tensor's name``, client i ``clients/i/…``. Earlier versions had other names
for what Adam, FedIIR and Group DRO keep, which are read too. No random state is kept: every draw comes from (seed,
round, client).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedha.atomic import finite
from fedha.errors import FedhaError, brief
from fedha.federation import Server
from fedha.jsonfile import parse_json
from fedha.privacy.spending import restore_spending
from fedha.rules.applied import below, check_states
from fedha.runs import own_files
from fedha.runs.constants import is_named, keep, read
from fedha.runs.files import STATE

_DAMAGED = (
    *(SafetensorError, OSError, LookupError, TypeError, ValueError),
    *(AttributeError, OverflowError, RuntimeError),
)
_MOST_CLIENTS = 1_000_000  # that a damaged file may make room for


def save_checkpoint(
    folder: Path,
    round: int,
    server: Server,
    clients: Sequence[Mapping[str, Tensor]],
    pending: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    data: str | None = None,
    start: Mapping[str, Any] | None = None,
    constants: Path | None = None,
) -> None:
    """Write the state after a round: the whole model, references, and what the rules and the clients remember.

    Args:
        folder: The run's folder.
        round: The round that has just ended.
        server: The server after it.
        clients: What each client remembers (`fedha.client_state`), in client order; empty where that is nothing.
        pending: The round's record, if it waits for numbers that come with the next round.
        config: What the run was made with, so that it does not go on with anything else.
        data: A digest of what it was trained on, for the same reason.
        start: The other run whose model it began with, and a digest of that.
        constants: Where what never moves is kept for several runs (`fedha.runs.constants`); None: in the file.
    """
    elsewhere = keep(constants, folder, server.constants)
    tensors = {f"parameters/{name}": value for name, value in server.parameters.items()}
    tensors |= {f"running/{name}": value for name, value in server.running.items()}
    if elsewhere is None:
        tensors |= {f"constants/{name}": value for name, value in server.constants.items()}
    tensors |= {f"rule/{rule}/{name}": value for rule, kept in server.states.items() for name, value in kept.items()}
    tensors |= {f"references/{name}": value for name, value in server.references.items()}
    for index, state in enumerate(clients):
        tensors |= {f"clients/{index}/{name}": value for name, value in state.items()}
    numbers = {"round": round, "clients": len(clients), "pending": finite(pending)}
    numbers |= {"spending": server.spending.state(), "config": config, "data": data, "start": start}
    numbers |= {} if elsewhere is None else {"constants": elsewhere}
    content = save(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        metadata={"state": json.dumps(numbers)},
    )
    (folder / STATE).parent.mkdir(parents=True, exist_ok=True)
    own_files.write_bytes(folder, STATE, content)


@dataclass(frozen=True)
class Saved:
    """What a checkpoint says of itself.

    Attributes:
        round: The one that it was made after.
        config: What the run was made with; None in those of version 0.1.0.
        data: A digest of what it was trained on; None there too, and in a deployment.
        start: The other run whose model it began with, and a digest of that; None: it began with its own.
    """

    round: int
    config: dict[str, Any] | None
    data: str | None = None
    start: dict[str, Any] | None = None


def read_saved(folder: Path) -> Saved | None:
    """What a run's checkpoint says of itself, if there is one.

    Raises:
        FedhaError: The file is damaged.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            numbers = parse_json(file.metadata()["state"])
        config, data, start = (numbers.get(key) for key in ("config", "data", "start"))
        if not isinstance(config, dict | None) or not isinstance(data, str | None):
            raise TypeError("what it says of its config or data is something else")
        if start is not None and not {"run", "digest"} <= dict(start).keys():
            raise TypeError("what it says of its start is something else")
        return Saved(_whole(numbers["round"]), config, data, start)
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def load_checkpoint(folder: Path, server: Server) -> tuple[int, list[dict[str, Tensor]], dict[str, Any] | None]:
    """Put a server back to where `save_checkpoint` saw it.

    Args:
        folder: The run's folder.
        server: A server with the same task and model; changed in place.

    Returns:
        The round that had ended (0 without a checkpoint), what each client remembers, and the pending record.

    Raises:
        FedhaError: The file is damaged, or is of another model. One that an earlier version wrote has nothing of what
            is never trained, which is then taken to be what it was.
    """
    path = folder / STATE
    if not path.exists():
        return 0, [], None
    try:
        with safe_open(path, framework="pt") as file:
            numbers = parse_json(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        done, count = (_whole(numbers[key]) for key in ("round", "clients"))
        pending = None if numbers.get("pending") is None else dict(numbers["pending"])  # version 0.1.0 had none
        spending = restore_spending(numbers.get("spending"))
        clients = _states(below(tensors, "clients/"), count)
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    if (told := numbers.get("constants")) is not None and not is_named(told, server.constants):
        tensors |= {f"constants/{name}": value for name, value in read(path, folder, told).items()}
    _check_parameters(path, server, tensors)
    rules = server.task.rules
    try:
        earlier = _of_an_earlier_version(tensors, numbers, server)
        states = {rule.name: below(tensors, f"rule/{rule.name}/") | earlier.get(rule.name, {}) for rule in rules}
        check_states(rules, server.parameters, states)
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    with torch.no_grad():  # only now that nothing can be refused any more
        for name, value in server.parameters.items():
            value.copy_(tensors[f"parameters/{name}"])
    server.running = below(tensors, "running/")
    server.constants = below(tensors, "constants/") or server.constants
    server.references = below(tensors, "references/")
    server.states, server.spending = states, spending
    return done, clients, pending


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no whole number from 0")
    return value


def _states(saved: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """What each of so many clients remembers."""
    if count > _MOST_CLIENTS:
        raise ValueError(f"it says that it is of {count} clients")
    states: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, value in saved.items():
        index, _, key = name.partition("/")
        states[_whole(int(index))][key] = value
    return states


def _of_an_earlier_version(
    tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], server: Server
) -> dict[str, dict[str, Tensor]]:
    """What was written before rules had names: an optimiser's slots by the parameter's number, averages, weights."""
    names, slots = list(server.parameters), dict[str, Tensor]()
    for name, value in below(tensors, "optimizer/").items():
        index, slot = name.split("/")
        slots[f"{slot}/{names[_whole(int(index))]}"] = value
    known = numbers.get("weights") or {}
    if isinstance(known, list):
        raise ValueError("it is of fedha 0.1.0, whose domain weights name no domain")
    weights = {str(domain): torch.tensor(float(value), dtype=torch.float64) for domain, value in known.items()}
    found = {"groupdro": weights, "reference_average": below(tensors, "averages/")}
    return {server.task.rules[-1].name: slots, **found}


def _damaged(path: Path, error: Exception) -> FedhaError:
    return FedhaError(f"cannot read the checkpoint {path} ({brief(error)}); delete it to start the run again")


def _check_parameters(path: Path, server: Server, tensors: Mapping[str, Tensor]) -> None:
    parts = {"parameters/": server.parameters, "running/": server.running, "constants/": server.constants}
    for prefix, own in parts.items():
        saved, wanted = (
            {name: (value.shape, value.dtype) for name, value in one.items()} for one in (below(tensors, prefix), own)
        )
        if saved != wanted and (saved or prefix != "constants/"):
            raise FedhaError(f"the checkpoint {path} is of another model; was config.yaml changed? Start a new run")
