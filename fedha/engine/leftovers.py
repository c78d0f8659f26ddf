"""Ending what is left of a Ray that was not ended well, and removing its folder.

As a program it is a guard: it waits for the end of its standard input, which comes with the end of the process that
holds the other side, even if that was killed. Ray's own processes notice their parent's death too, but two of its
agents linger for half a minute, and its folder stays.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

MARK = "FEDHA_RAY"  # the name of the environment variable that tells the folder
_PATIENCE_SECONDS = 2.0
_GIVE_UP_SECONDS = 30.0  # a process that the system does not let go: not even SIGKILL ends it


def guard(folder: Path) -> "subprocess.Popen[bytes]":
    """Start a guard; closing its standard input sets it to work.

    Args:
        folder: Where a Ray of our own keeps its files; goes when all that works there has ended.
    """
    command = [sys.executable, "-I", "-S", __file__, str(folder)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)


def end(folder: Path) -> None:
    """End every process of the Ray in a folder: those that end by themselves first, then the others.

    Args:
        folder: Where that Ray keeps its files.
    """
    begun = time.monotonic()
    while (left := living(folder)) and (since := time.monotonic() - begun) < _GIVE_UP_SECONDS:
        if since > _PATIENCE_SECONDS:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def living(folder: Path) -> set[int]:
    """The processes of the Ray in a folder: they have inherited its mark.

    Their command lines would not do, for Ray's Python processes change those. (Without /proc, on macOS, there is
    nothing else; the processes that keep theirs are found, and the others end without them.)
    """
    proc = Path("/proc")
    if (proc / "self/environ").exists():
        mark = f"{MARK}={folder}".encode()
        return {int(one.name) for one in proc.glob("[0-9]*") if mark in _environment(one)}
    listed = subprocess.run(["ps", "-A", "-o", "pid=,command="], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
    return {int(pid) for pid, command in rows if f"={folder}/" in command}


def _environment(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []  # it has just ended, or is another user's


if __name__ == "__main__":
    sys.stdin.buffer.read()
    place = Path(sys.argv[1])
    end(place)
    shutil.rmtree(place.resolve(), ignore_errors=True)
    if place.is_symlink():  # a short path to a folder with a long one
        place.unlink(missing_ok=True)
