"""The server's secret by which it draws a run's clients, in the run's folder: a run that goes on draws as it did."""

from pathlib import Path

from fedha import atomic
from fedha.errors import FedhaError
from fedha.runs import own_files
from fedha.runs.files import COHORT

_BYTES = 32


def kept_secret(folder: Path, fresh: bytes) -> bytes:
    """The secret of a run.

    Args:
        folder: The run's.
        fresh: Taken, and kept for the folder's owner alone, where there is none yet.

    Raises:
        FedhaError: It cannot be read or written, or is damaged.
    """
    path = folder / COHORT
    if not path.exists():
        own_files.claim(folder, COHORT)
        atomic.write_bytes(path, fresh, 0o600)
        return fresh
    try:
        known = path.read_bytes()
    except OSError as error:
        raise FedhaError(f"cannot read {path}: {error.strerror}; without it other clients would be drawn") from error
    if len(known) != _BYTES:
        raise FedhaError(
            f"{path}, by which the run's clients are drawn, has {len(known)} bytes, not {_BYTES}; restore it, or start "
            "a new run"
        )
    return known
