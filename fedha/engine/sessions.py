"""Ending processes with all that they started, which their sessions hold together however deep the tree is.

As a program it is a guard: it waits for the end of its standard input, which comes with the end of the process that
holds the other side, even if that was killed; then it ends the sessions and removes a folder. Flower's processes watch
their parents too, but its simulation does not notice while it waits for clients.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PATIENCE_SECONDS = 1.0
_GIVE_UP_SECONDS = 60.0  # a process that the system does not let go: not even SIGKILL ends it


@contextmanager
def guard(folder: Path, sessions: Collection[int]) -> "Iterator[subprocess.Popen[bytes]]":
    """A guard that does its work at the block's end, however that comes.

    Args:
        folder: To remove.
        sessions: To end.
    """
    command = [sys.executable, "-P", __file__, str(folder), *map(str, sessions)]
    # not with Popen's own `with`, which does not wait after Ctrl-C
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield process
    finally:
        process.communicate()


def end(sessions: Collection[int]) -> None:
    """End everything in these sessions, politely first, and wait until it is so.

    Args:
        sessions: Process numbers of the sessions' leaders.
    """
    begun = time.monotonic()
    asked: set[int] = set()
    while (left := living(sessions)) and time.monotonic() < begun + _GIVE_UP_SECONDS:
        patient = time.monotonic() < begun + _PATIENCE_SECONDS
        for pid in left - asked if patient else left:  # some were only started while others ended
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if patient else signal.SIGKILL)
        asked |= left
        time.sleep(0.05)


def living(sessions: Collection[int]) -> set[int]:
    """The processes of these sessions that still run.

    Args:
        sessions: Process numbers of the sessions' leaders, which may have ended.
    """
    if Path("/proc/self/stat").exists():
        rows = [_row(path) for path in Path("/proc").glob("[0-9]*/stat")]
    else:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True, check=True)
        rows = [(int(line.split()[0]), line.split()[1]) for line in listed.stdout.splitlines()]
    return {pid for pid, state in rows if not state.startswith("Z") and _session(pid) in sessions}


def _row(path: Path) -> tuple[int, str]:
    pid = int(path.parent.name)
    try:
        return pid, path.read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return pid, "Z"  # it has just ended


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end([int(number) for number in sys.argv[2:]])
    place = Path(sys.argv[1])
    shutil.rmtree(place.resolve(), ignore_errors=True)
    if place.is_symlink():  # a short path to a folder with a long one
        place.unlink(missing_ok=True)
