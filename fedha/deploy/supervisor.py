"""A command that is kept running: whenever it ends, for whatever reason, it starts again."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 20.0
_STEADY_SECONDS = 120.0  # what ran for so long had come up; what ends then starts again at once


def keep(command: Sequence[str], say: Callable[[str], None]) -> int:
    """Run a command until we are asked to end, with a pause between two starts that doubles up to 20 seconds.

    The command reads from a pipe that ends when we do, however that happens, so that it need not outlive us.

    Args:
        command: What to run.
        say: Told whenever it ended, and when it starts again.

    Returns:
        0: we were asked to end, by SIGTERM, SIGINT or SIGQUIT, which the command was told first.
    """
    running, asked = list[subprocess.Popen[bytes]](), threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        asked.set()
        for process in running:
            process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, end)
    pause = FIRST_PAUSE
    while True:
        begun = time.monotonic()
        running[:] = [subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)]
        if asked.is_set():
            running[0].terminate()
        code = running[0].wait()
        if asked.is_set():
            return 0
        pause = FIRST_PAUSE if time.monotonic() > begun + _STEADY_SECONDS else pause
        say(f"it ended with {_how(code)} and starts again in {pause:g} s")
        asked.wait(pause)
        if asked.is_set():
            return 0
        pause = min(2 * pause, LONGEST_PAUSE)


def _how(code: int) -> str:
    return f"status {code}" if code >= 0 else f"signal {-code}"
