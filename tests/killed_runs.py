"""Runs that are killed and go on, and what of them is the same."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedha.config import Config
from fedha.flower.serve import Job
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.jobs import run_job


class Killed(Silent):
    """Kills the run when a round ends, or when it is told something that begins so."""

    def __init__(self, round: int = 0, note: str = "") -> None:
        self.round, self.text = round, note

    def round_done(self, record: Mapping[str, Any]) -> None:
        if record["round"] == self.round:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        if self.text and text.startswith(self.text):
            raise KeyboardInterrupt


class Rounds(Silent):
    """Writes down which rounds were run."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.notes: list[str] = []

    def round_done(self, record: Mapping[str, Any]) -> None:
        self.seen.append(record["round"])

    def note(self, text: str) -> None:
        self.notes.append(text)


def without_time(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON file, an object a line or one in all, but for the seconds that they took."""
    text = path.read_text(encoding="utf-8")
    objects = [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in one.items() if key != "seconds"} for one in objects]


def assert_same_bits(one: Path, other: Path) -> None:
    """Two runs end with the same model, and tell the same of every round."""
    assert (one / runfolder.MODEL).read_bytes() == (other / runfolder.MODEL).read_bytes()
    assert without_time(one / runfolder.METRICS) == without_time(other / runfolder.METRICS)


def kill_and_resume(config: Config, folder: Path, round: int, then: Config | None = None) -> dict[str, Any]:
    """The results of a run that is killed as a round ends and goes on, as `then` has it where that is given."""
    with pytest.raises(KeyboardInterrupt):
        run_job(Job(config, folder), Killed(round))
    return run_job(Job(then or config, folder), Silent(), resume=True)


def assert_resumes(config: Config, folder: Path, round: int) -> Path:
    """A run that is killed as a round ends goes on to the bits of one that is not; gives that one's folder."""
    whole = folder / "whole"
    run_job(Job(config, whole), Silent())
    kill_and_resume(config, folder / "killed", round)
    assert_same_bits(folder / "killed", whole)
    return whole
