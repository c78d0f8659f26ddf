"""The file of a diagnosis, diagnosis.json, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedha.errors import FedhaError, brief
from fedha.jsonfile import parse_json
from fedha.runs import own_files
from fedha.runs.files import DIAGNOSIS as FILE

_FORM = 1


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """Write a diagnosis into a run's folder, at once.

    Raises:
        FedhaError: It cannot be written, or the file is somebody else's.
    """
    own_files.write_json(folder, FILE, {"form": _FORM, **found})


def exists(folder: Path) -> bool:
    """Whether a folder holds a diagnosis."""
    return (folder / FILE).is_file()


def read(folder: Path) -> dict[str, Any]:
    """Read what `write` wrote.

    Raises:
        FedhaError: The file is missing, damaged or of another version.
    """
    path = folder / FILE
    try:
        content = parse_json(path.read_bytes())
        if content["form"] != _FORM:
            raise FedhaError(f"{path} has form {content['form']}, this version reads {_FORM}; diagnose again")
        for key, kind in (("made", dict), ("domains", list)):
            if not isinstance(content[key], kind):
                raise TypeError(f"{key} is no {kind.__name__}")
        return dict(content)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FedhaError(
            f"cannot read the diagnosis {path} ({brief(error)}); make it again with fedha diagnose"
        ) from error
