"""What a run continues from, in one safetensors file that is replaced whole.

No random state is kept: every draw comes from (seed, round, client).
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
from fedha.errors import FedhaError
from fedha.federation import Server
from fedha.jsonfile import parse_json
from fedha.privacy.spending import restore_spending
from fedha.runs import belongings
from fedha.runs.files import STATE

_DAMAGED = (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError)


def save_checkpoint(
    folder: Path,
    round: int,
    server: Server,
    clients: Sequence[Mapping[str, Tensor]],
    pending: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    data: str | None = None,
) -> None:
    """Write the state after a round: model, optimiser, references, domain weights, and all moving averages.

    Args:
        folder: The run's folder.
        round: The round that has just ended.
        server: The server after it.
        clients: Each client's moving averages, in client order; empty mappings where there are none.
        pending: The round's record, if it waits for numbers that come with the next round.
        config: What the run was made with, so that it does not go on with anything else.
        data: A digest of what it was trained on, for the same reason.
    """
    tensors = {f"parameters/{name}": value for name, value in server.parameters.items()}
    for index, slots in server.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in slots.items() if isinstance(value, Tensor)}
    tensors |= {f"averages/{name}": value for name, value in server.averages.items()}
    tensors |= {f"references/{name}": value for name, value in server.references.items()}
    for index, state in enumerate(clients):
        tensors |= {f"clients/{index}/{name}": value for name, value in state.items()}
    numbers = {"round": round, "weights": server.weights, "clients": len(clients), "pending": finite(pending)}
    numbers |= {"spending": server.spending.state(), "config": config, "data": data}
    content = save(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        metadata={"state": json.dumps(numbers)},
    )
    (folder / STATE).parent.mkdir(parents=True, exist_ok=True)
    belongings.write_bytes(folder, STATE, content)


@dataclass(frozen=True)
class Saved:
    """What a checkpoint says of itself.

    Attributes:
        round: The one that it was made after.
        config: What the run was made with; None in those of version 0.1.0.
        data: A digest of what it was trained on; None there too, and in a deployment.
    """

    round: int
    config: dict[str, Any] | None
    data: str | None = None


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
        return Saved(int(numbers["round"]), numbers.get("config"), numbers.get("data"))
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def load_checkpoint(folder: Path, server: Server) -> tuple[int, list[dict[str, Tensor]], dict[str, Any] | None]:
    """Put a server back to where `save_checkpoint` saw it.

    Args:
        folder: The run's folder.
        server: A server with the same task and model; changed in place.

    Returns:
        The round that had ended (0 without a checkpoint), each client's moving averages, and the pending record.

    Raises:
        FedhaError: The file is damaged, or is of another model.
    """
    path = folder / STATE
    if not path.exists():
        return 0, [], None
    try:
        with safe_open(path, framework="pt") as file:
            numbers = parse_json(file.metadata()["state"])
            done, count, weights, pending = (numbers[key] for key in ("round", "clients", "weights", "pending"))
            server.spending = restore_spending(numbers.get("spending"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    _restore_parameters(path, server, _below(tensors, "parameters/"))
    _restore_optimizer(server, _below(tensors, "optimizer/"))
    server.averages = _below(tensors, "averages/")
    server.references = _below(tensors, "references/")
    server.weights = weights
    return done, [_below(tensors, f"clients/{index}/") for index in range(count)], pending


def _damaged(path: Path, error: Exception) -> FedhaError:
    return FedhaError(f"cannot read the checkpoint {path} ({error}); delete it to start the run again")


def _restore_parameters(path: Path, server: Server, saved: Mapping[str, Tensor]) -> None:
    if {k: v.shape for k, v in saved.items()} != {k: v.shape for k, v in server.parameters.items()}:
        raise FedhaError(f"the checkpoint {path} is of another model; was config.yaml changed? Start a new run")
    with torch.no_grad():
        for name, value in server.parameters.items():
            value.copy_(saved[name])


def _restore_optimizer(server: Server, saved: Mapping[str, Tensor]) -> None:
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.items():
        index, key = name.split("/")
        slots.setdefault(int(index), {})[key] = value
    server.optimizer.load_state_dict({**server.optimizer.state_dict(), "state": slots})


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
