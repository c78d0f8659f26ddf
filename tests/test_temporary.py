"""Temporary files go where TMPDIR says, however long its path is, or nowhere."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fedha import temporary
from fedha.engine import leftovers, sessions
from fedha.errors import FedhaError

LONGEST_SOCKET = "session_2026-11-26_22-26-24_123456_1234567/sockets/plasma_store"  # of Ray, in its folder
FLOWERS = "ray/" + LONGEST_SOCKET  # where Flower starts it


@pytest.fixture(params=[1, 20, 39, 80, 200])
def wanted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder whose path has about so many characters, or its own where it must be longer."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as short:
        place = Path(short, "x" * max(1, request.param - len(short) - 1))
        place.mkdir()
        monkeypatch.setenv("TMPDIR", str(place))
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield place


def test_a_folder_lies_where_it_is_wanted_and_sockets_fit_in_its_path(wanted: Path) -> None:
    with temporary.short_folder() as folder:
        assert folder.resolve().parent == wanted.resolve()
        place = folder / FLOWERS
        assert len(os.fsencode(place)) <= 103
        place.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(place))
        assert list(wanted.rglob("plasma_store"))
    assert not list(wanted.iterdir())
    assert not os.path.lexists(folder)


@pytest.mark.parametrize("guard", [leftovers, sessions])
def test_a_guard_removes_the_folder_and_the_link_to_it(guard, wanted: Path) -> None:
    folder = temporary.make_short()
    (folder / "file").touch()
    command = [sys.executable, "-P", str(guard.__file__), str(folder)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=100)
    assert not list(wanted.iterdir())
    assert not os.path.lexists(folder)


def test_no_other_folder_is_taken_in_silence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(FedhaError, match=r"TMPDIR is .*gone, which is no folder that can be written to"):
        temporary.make_short()


def test_without_a_place_for_a_link_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / ("x" * 40)
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(temporary, "_LINKS", tmp_path / "nowhere")
    with pytest.raises(FedhaError, match="too long a path for Ray's sockets, and no short link"):
        temporary.make_short()
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    ("start", "code"), [("sys.argv = ['C:/Scripts/fedha.exe']; import fedha.cli", 1), ("import fedha", 1)]
)
def test_windows_gets_a_sentence(start: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.platform = 'win32'; {start}"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == code
    assert last.removeprefix("ImportError: ") == "fedha runs on Linux and macOS; on Windows take WSL 2"
    assert ("Traceback" in done.stderr) == (start == "import fedha")
