"""The file of an audit: what was found, and how it was made, as JSON and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedha.audit.findings import Findings, from_content, to_content
from fedha.errors import FedhaError, brief
from fedha.jsonfile import parse_json
from fedha.runs import own_files
from fedha.runs.files import AUDIT as FILE

_FORM = 1


@dataclass(frozen=True)
class Audited:
    """An audit of one run.

    Attributes:
        made: How: the run, the settings, whether the replay had the run's bits, seconds.
        run: What was found on what the run sent and on its final model.
        small: What was found in a first round in which each client held only so many examples, by their number.
    """

    made: Mapping[str, Any]
    run: Findings
    small: Mapping[int, Findings]


def write(folder: Path, audited: Audited) -> None:
    """Write ``audit.json`` into a folder, at once.

    Raises:
        FedhaError: It cannot be written.
    """
    small = [{"examples": count, **to_content(one)} for count, one in audited.small.items()]
    own_files.write_json(
        folder, FILE, {"form": _FORM, "made": audited.made, "run": to_content(audited.run), "small": small}
    )


def exists(folder: Path) -> bool:
    """Whether a folder holds an audit."""
    return (folder / FILE).is_file()


def read(folder: Path) -> Audited:
    """Read what `write` wrote.

    Raises:
        FedhaError: The file is missing, damaged or of another version.
    """
    path = folder / FILE
    try:
        content = parse_json(path.read_bytes())
        if content["form"] != _FORM:
            raise FedhaError(f"{path} has form {content['form']}, this version reads {_FORM}; audit again")
        small = {int(one["examples"]): from_content(one) for one in content["small"]}
        return Audited(content["made"], from_content(content["run"]), small)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FedhaError(f"cannot read the audit {path} ({brief(error)}); make it again with fedha audit") from error
