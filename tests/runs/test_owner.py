"""One writer at a time, who is named; one that died does not count."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fedha import run as runs
from fedha.errors import FedhaError
from fedha.runs import owner
from fedha.runs.listener import Silent
from tests.made_runs import config, write_run

_HOLDS = """
import sys
from pathlib import Path
from fedha.runs import owner
with owner.owning(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_that_is_being_written_names_its_writer_until_that_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDS, str(tmp_path)]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"held\n"
    said = rf"is being written by process {writer.pid} on {socket.gethostname()} since \d{{4}}-"
    for look in (owner.check_free, lambda folder: owner.owning(folder).__enter__()):
        with pytest.raises(FedhaError, match=said):
            look(tmp_path)
    writer.kill()
    writer.communicate()
    assert (tmp_path / owner.LOCK).exists()
    with owner.owning(tmp_path):
        assert json.loads((tmp_path / owner.LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_being_written_is_not_resumed_beside_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rounds=7)
    before = (folder / "metrics.jsonl").read_bytes()
    with owner.owning(folder), pytest.raises(FedhaError, match="is being written by process"):
        runs.execute(config(), folder, Silent(), resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_without_locks_a_dead_process_of_this_machine_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for host, pid, free in (
        (socket.gethostname(), gone.pid, True),
        (socket.gethostname(), os.getpid(), False),
        ("elsewhere", gone.pid, False),
    ):
        (tmp_path / owner.LOCK).write_text(json.dumps({"host": host, "pid": pid, "since": "then"}))
        if free:
            with owner.owning(tmp_path):
                pass
        else:
            with pytest.raises(
                FedhaError, match=f"by process {pid} on {host} since then; .* if that has ended, remove"
            ):
                owner.check_free(tmp_path)


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match=r"cannot write in .*missing"), owner.owning(tmp_path / "missing"):
        pass
