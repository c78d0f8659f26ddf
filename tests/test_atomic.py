"""What a writer leaves when it dies is cleared; what one that lives is writing is not."""

import fcntl
import os
from pathlib import Path

import pytest

from fedha import atomic
from fedha.runs import runfolder
from fedha.runs.files import STATE

LEFT = ".state.safetensors.0a1b2c3d.fedha"


def test_the_next_write_clears_what_dead_writers_left(tmp_path: Path) -> None:
    kept = {".state.safetensors.swp", ".notes.20240101", "mine.0a1b2c3d.fedha", ".0a1b2c3d.fedha"}
    for name in (LEFT, ".other.json.ffffffff.fedha", *kept):
        (tmp_path / name).write_text("part")
    atomic.write_text(tmp_path / "x.json", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", *kept}


def test_a_living_writers_file_stays(tmp_path: Path) -> None:
    with (tmp_path / LEFT).open("xb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        atomic.write_text(tmp_path / "x.json", "new")
        assert (tmp_path / LEFT).exists()
    atomic.write_text(tmp_path / "x.json", "new")
    assert not (tmp_path / LEFT).exists()


def test_a_file_that_is_being_written_is_a_living_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def synced(file: int) -> None:
        (left,) = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        atomic.clear_leftovers(tmp_path)
        assert left.exists()
        sync(file)

    monkeypatch.setattr(os, "fsync", synced)
    atomic.write_text(tmp_path / "x.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_writer_whose_file_was_taken_for_a_leftover_takes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, taken = fcntl.flock, []

    def locked(file: int, how: int) -> None:
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", locked)
    atomic.write_text(tmp_path / "x.json", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


def test_a_run_that_is_taken_up_clears_what_earlier_versions_left(tmp_path: Path) -> None:
    (tmp_path / STATE).parent.mkdir()
    for name in (".state.safetensors.0a1b2c3d", ".state.safetensors.20240101", "mine"):
        (tmp_path / STATE).with_name(name).write_text("part")
    runfolder.clear_leftovers(tmp_path)
    assert {path.name for path in (tmp_path / "checkpoint").iterdir()} == {".state.safetensors.20240101", "mine"}
