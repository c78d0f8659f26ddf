"""The file of what a server that cheats gained: as JSON and back."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedha.atomic import finite
from fedha.audit.adversary import FAMILIES, Cheated, Played
from fedha.audit.adversary_bench import Outcome
from fedha.audit.adversary_layers import Passed
from fedha.errors import FedhaError, brief
from fedha.jsonfile import parse_json
from fedha.runs import own_files
from fedha.runs.files import ADVERSARY as FILE

_FORM = 1


def write(folder: Path, cheated: Cheated) -> None:
    """Write ``adversary.json`` into a folder, at once.

    Raises:
        FedhaError: It cannot be written.
    """
    own_files.write_json(folder, FILE, finite({"form": _FORM, **asdict(cheated)}))


def read(folder: Path) -> Cheated:
    """Read what `write` wrote; a family that this version does not know is left out.

    Raises:
        FedhaError: The file is missing, damaged or of another version.
    """
    path = folder / FILE
    known = {one.name for one in FAMILIES}
    try:
        content: Mapping[str, Any] = parse_json(path.read_bytes())
        if content["form"] != _FORM:
            raise FedhaError(f"{path} has form {content['form']}, this version reads {_FORM}; play it again")
        played = tuple(_played(one) for one in content["played"] if one["family"] in known)
        return Cheated(dict(content["made"]), played, tuple(Passed(**one) for one in content["layers"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FedhaError(f"cannot read {path} ({brief(error)}); make it again with fedha audit --adversary") from error


def _played(content: Mapping[str, Any]) -> Played:
    outcome = content["outcome"]
    told = None if outcome is None else Outcome(**outcome)
    return Played(str(content["family"]), bool(content["contract"]), told, str(content["reason"]))
