"""What is known of a run that is to be compared with others before its end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedha.config import Config
from fedha.jsonfile import parse_json
from fedha.runs import own_files, runfolder
from fedha.runs.listener import Silent
from fedha.runs.selection import pick, scores

NAME = "rungs.json"
FORM = 1
RULE = "training_domain_validation"  # it looks at the sources alone


@dataclass
class Until(Silent):
    """Listens to a run until a round is done and evaluated.

    Attributes:
        round: Which.
        reached: Whether it is.
    """

    round: int
    reached: bool = field(default=False, init=False)

    def round_done(self, record: Mapping[str, Any]) -> None:
        """Look at the round's number."""
        self.reached = self.reached or (record["round"] >= self.round and bool(record.get("target")))


def write(folder: Path, config: Config, until: int) -> None:
    """Keep what a run is worth after a round, in the run's folder; what is known of other rounds stays.

    Args:
        folder: The run's, which has done it.
        config: Its.
        until: The round.
    """
    records = runfolder.read_metrics(folder)
    done = {"round": records[-1]["round"], "seconds": sum(one["seconds"] for one in records)}
    found = {**_known(folder), str(until): _score(records, until, config)}
    own_files.write_json(folder, NAME, {"form": FORM, **done, "scores": found})


def passed(folder: Path, until: int) -> bool:
    """Whether a run has done a round and evaluated it, though nobody may have kept what it was worth."""
    return any(one["round"] >= until and one.get("target") for one in runfolder.read_metrics(folder))


def read(folder: Path, until: int | None) -> tuple[bool, float | None]:
    """Whether it is known what a run is worth after a round, and what; None: no source holds anything out."""
    known = _known(folder)
    return str(until) in known, known.get(str(until))


def begun(folder: Path) -> dict[str, Any] | None:
    """What is kept of a run that was compared with others: its last round and seconds; None: it never was."""
    found = _content(folder)
    return None if found is None else {key: found[key] for key in ("round", "seconds")}


def _score(records: list[dict[str, Any]], until: int, config: Config) -> float | None:
    warmup, by = config.recipe[0].resolve().weak_rounds, config.evaluation.select_by.choice
    by_round = scores([one for one in records if one["round"] <= until], by=by).get(RULE)
    return by_round[pick(by_round, warmup).round] if by_round else None


def _known(folder: Path) -> dict[str, float | None]:
    found = _content(folder)
    return {} if found is None else dict(found["scores"])


def _content(folder: Path) -> dict[str, Any] | None:
    """The file; None where it is missing, damaged or of another version."""
    try:
        found = parse_json((folder / NAME).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("form") != FORM or not isinstance(found.get("scores"), dict):
        return None
    return found
