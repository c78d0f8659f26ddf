"""The side's end of the conversation: run as many rounds as asked for, answer with their seconds, wait."""

import json
import os
import sys


class Gate:
    """Lets rounds through when the driving program asks for them.

    It asks on standard input, a number of rounds a line; the end of the input ends the side. The answers go to what
    was standard output, which from here on is standard error for everything else that prints.
    """

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._wanted = 0
        self._seconds: list[float] = []
        self._bytes = 0

    def wants_round(self) -> bool:
        """Whether there is another round to run; waits to be asked. False: end."""
        while len(self._seconds) == self._wanted:
            if self._wanted:
                self._answers.write(json.dumps({"seconds": self._seconds, "bytes": self._bytes}) + "\n")
            line = sys.stdin.readline()
            if not line:
                return False
            self._wanted, self._seconds, self._bytes = int(line), [], 0
        return True

    def passed(self, seconds: float, sent: int = 0) -> None:
        """A round ended: its wall-clock seconds, and the bytes it sent where the side counts them."""
        self._seconds.append(seconds)
        self._bytes += sent
