"""What a client keeps on its own disk between messages: in a deployment each message meets a new process.

A run's moving averages are kept by round, so that a round that is asked for twice, or a run that goes on from an
earlier checkpoint, finds what was true then. The global model is kept by its digest, so that it is sent once a round,
not once an exchange, and so is what of it never moves, where that had to be sent at all. The site's data are not among
it: they are read anew for each message, from where their owner keeps them, and no copy outlives them. What is kept is
for the eyes of the containers' user alone.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from fedha.atomic import write_bytes
from fedha.errors import FedhaError, brief
from fedha.flower.held import digest
from fedha.jsonfile import parse_json
from fedha.models.state import constants_name, digests

_MODELS = 4  # kept: a run needs one, and a site may serve several
_OWN = 0o600


def run_folder(cache: Path, run: str) -> Path:
    """Where a run's averages are.

    Args:
        cache: The client's cache.
        run: What tells runs apart: the run's whole config and where the server writes it.
    """
    return cache / "averages" / hashlib.sha256(run.encode()).hexdigest()[:24]


def recall(folder: Path, round: int) -> dict[str, Tensor]:
    """The averages after the latest round before this one; none in the first round, which forgets an earlier run.

    Raises:
        FedhaError: The file is damaged.
    """
    if round == 1:
        shutil.rmtree(folder, ignore_errors=True)
    known = [path for path in _rounds(folder) if int(path.stem) < round]
    if not known:
        return {}
    try:
        return load_file(known[-1])
    except (SafetensorError, OSError) as error:
        raise FedhaError(
            f"cannot read the client's averages in {known[-1]} ({brief(error)}); start a new run"
        ) from error


def remember(folder: Path, round: int, averages: Mapping[str, Tensor], keep: int) -> None:
    """Write the averages after a round, and forget all but the latest ones.

    Args:
        folder: Of `run_folder`.
        round: The round that has just been answered.
        averages: By statistic.
        keep: How many rounds.
    """
    _private(folder)
    content = save({name: value.detach().cpu().contiguous() for name, value in averages.items()})
    write_bytes(folder / f"{round:08d}.safetensors", content, _OWN)
    for path in _rounds(folder)[:-keep]:
        path.unlink(missing_ok=True)


def forget_copies(cache: Path) -> None:
    """Remove the copies of a site's data that fedha 0.1.0 kept.

    Args:
        cache: The client's cache.

    Raises:
        FedhaError: They cannot be removed.
    """
    folder = cache / "domains"
    if not folder.exists():
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise FedhaError(
            f"{folder} holds copies of this site's data from an earlier version, which cannot be removed "
            f"({error.strerror}); remove it by hand"
        ) from error


def keep_model(cache: Path, name: str, parameters: Mapping[str, Tensor]) -> None:
    """Keep a global model, and forget all but the latest few.

    Args:
        cache: The client's cache.
        name: The model's digest.
        parameters: By name; their order is kept.
    """
    _keep(cache / "models", name, parameters)


def kept_model(cache: Path, name: str) -> dict[str, Tensor] | None:
    """The global model of this digest; None where it is not here, or not as it was written."""
    parameters = _kept(cache / "models", name)
    return None if parameters is None or digest(parameters) != name else parameters


def keep_constants(cache: Path, name: str, constants: Mapping[str, Tensor]) -> None:
    """Keep what of a run's model never moves, as `keep_model`; whose name it is is looked at when it is used."""
    _keep(cache / "constants", name, constants)


def kept_constants(cache: Path, name: str) -> dict[str, Tensor] | None:
    """What `keep_constants` kept under this digest; None where it is not here, or not as it was written."""
    constants = _kept(cache / "constants", name)
    return None if constants is None or constants_name(digests(constants)) != name else constants


def _keep(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> None:
    _private(folder)
    values = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    write_bytes(folder / f"{name}.safetensors", save(values, {"order": json.dumps(list(values))}), _OWN)
    for path in sorted(_files(folder), key=lambda one: one.stat().st_mtime_ns)[:-_MODELS]:
        path.unlink(missing_ok=True)


def _kept(folder: Path, name: str) -> dict[str, Tensor] | None:
    path = folder / f"{name}.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in parse_json(file.metadata()["order"])}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _rounds(folder: Path) -> list[Path]:
    """Those that `remember` wrote, in order: what is called otherwise is not ours."""
    return [path for path in _files(folder) if len(path.stem) == 8 and path.stem.isdecimal()]


def _private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
