"""`fedha` in processes forked from one that has imported what commands need: many starts cost few seconds."""

import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from io import BufferedReader
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_NEEDED = ("fedha.cli.commands", "fedha.cli.sweep", "fedha.run", "fedha.sweep.pool", "fedha.sweep.summary")


@dataclass(frozen=True)
class Program:
    """One that runs.

    Attributes:
        process: It may be killed like any other.
        said: What it prints, complaints among it.
    """

    process: BaseProcess
    said: BufferedReader

    def ends(self, seconds: float | None) -> bool:
        """Whether it ends by itself within so many seconds, and well; else it is killed."""
        self.process.join(seconds)
        ended = self.process.exitcode is not None
        if not ended:
            assert self.process.pid is not None
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.join()
        with self.said:
            assert not ended or self.process.exitcode == 0, self.said.peek()
        return ended


def start(*words: str) -> Program:
    """A command in a process of its own, in this folder."""
    _CONTEXT.set_forkserver_preload(list(_NEEDED))
    reading, writing = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_run, args=(words, Path.cwd(), writing))
    process.start()
    writing.close()
    said = os.fdopen(os.dup(reading.fileno()), "rb")
    reading.close()
    return Program(process, said)


def _run(words: tuple[str, ...], folder: Path, output: Connection) -> None:
    from fedha.cli.commands import main

    os.chdir(folder)
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    output.close()
    sys.argv = ["fedha", *words]
    main()
