"""`fedha` in processes forked from one that has imported what commands need: many starts cost few seconds."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_NEEDED = ("fedha.cli.commands", "fedha.run", "fedha.deploy.submit", "fedha.sweep.pool", "fedha.sweep.summary")


@dataclass(frozen=True)
class Program:
    """One that runs, with what tests use of `subprocess.Popen`.

    Attributes:
        process: It may be killed like any other.
        stdout: What it prints, complaints among it.
    """

    process: BaseProcess
    stdout: BufferedReader

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All that it says, when it has ended."""
        with self.stdout:
            said = self.stdout.read().decode()
        self.process.join(timeout)
        return said, None

    def ends(self, seconds: float | None) -> bool:
        """Whether it ends by itself within so many seconds, and well; else it is killed."""
        self.process.join(seconds)
        ended = self.process.exitcode is not None
        if not ended:
            self.send_signal(signal.SIGKILL)
            self.process.join()
        with self.stdout:
            assert not ended or self.process.exitcode == 0, self.stdout.peek()
        return ended


def start(*words: "str | Path", **environment: str) -> Program:
    """A command in a process of its own, which leads a session, in this folder."""
    _CONTEXT.set_forkserver_preload(list(_NEEDED))
    reading, writing = _CONTEXT.Pipe(duplex=False)
    arguments = ([str(word) for word in words], Path.cwd(), environment, writing)
    process = _CONTEXT.Process(target=_run, args=arguments, daemon=True)
    process.start()
    writing.close()
    stdout = os.fdopen(os.dup(reading.fileno()), "rb")
    reading.close()
    return Program(process, stdout)


def _run(words: list[str], folder: Path, environment: Mapping[str, str], output: Connection) -> None:
    from fedha.cli.commands import main

    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    output.close()
    sys.argv = ["fedha", *words]
    main()
