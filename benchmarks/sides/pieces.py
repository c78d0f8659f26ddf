"""What a round of the Ray engine is made of, each piece measured alone: the coefficients of the cost model.

    python -m sides.pieces REPETITIONS

Each cost that depends on a size is a line through two sizes: seconds at size 0, and seconds a megabyte more.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy
import ray
import torch

from fedha.engine.parcels import Answer, to_record_dict, to_records
from fedha.exchange import Reply
from fedha.flower.wire import pack_reply, unpack_reply
from fedha.reference import weighted_mean
from sides.driving import BENCHMARKS, environment

SMALL, LARGE = 0.25, 2.0  # megabytes of a model
TOGETHER = 100  # clients whose numbers travel as one
_FLOATS = 250_000  # a megabyte


@dataclass(frozen=True)
class Line:
    """Seconds at size 0, and seconds a megabyte."""

    fixed: float
    megabyte: float

    def at(self, megabytes: float) -> float:
        """Seconds at a size."""
        return self.fixed + self.megabyte * megabytes


@dataclass(frozen=True)
class Pieces:
    """The measured pieces.

    Attributes:
        put: The driver puts the model into the object store.
        call: An actor call that does nothing, there and back.
        reply: A worker puts its clients' weighted sum into the object store.
        take: The driver reads a worker's sum there, unpacks it, and adds it to the others.
        client: The driver unpacks one client's numbers.
    """

    put: Line
    call: float
    reply: Line
    take: Line
    client: float


@ray.remote(num_cpus=0)
class Echo:
    """A worker that does not train."""

    def __init__(self) -> None:
        self._answers = {size: [_answer(size)] for size in (SMALL, LARGE)}
        self._numbers = [_answer(0.0) for _ in range(TOGETHER)]

    def nothing(self) -> None:
        """There and back."""

    def answers(self, megabytes: float) -> list[Answer]:
        """The sum that a worker answers with, for a model of this size; 0: many clients' numbers alone."""
        return self._answers[megabytes] if megabytes else self._numbers

    def reply(self, repetitions: int) -> Line:
        """What it costs to hand them over."""
        return line(lambda size: ray.put(self._answers[size]), repetitions)


def measure_apart(repetitions: int) -> Pieces:
    """`measure` in a process of its own, with the environment of the sides."""
    command = [sys.executable, "-m", "sides.pieces", str(repetitions)]
    done = subprocess.run(command, cwd=BENCHMARKS, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return Pieces(**{name: Line(**value) if isinstance(value, dict) else value for name, value in found.items()})


def measure(repetitions: int) -> Pieces:
    """Measure every piece in a Ray of this process' own, started and ended here."""
    torch.set_num_threads(1)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        echo, models = Echo.remote(), {size: _model(size) for size in (SMALL, LARGE)}
        return Pieces(
            put=line(lambda size: ray.put(models[size]), repetitions),
            call=typical([_timed(lambda: ray.get(echo.nothing.remote())) for _ in range(10 * repetitions)]),
            reply=ray.get(echo.reply.remote(repetitions)),
            take=_line(lambda size: _take(echo.answers.remote(size)), repetitions),
            client=typical([_take(echo.answers.remote(0.0)) / TOGETHER for _ in range(repetitions + 2)]),
        )
    finally:
        ray.shutdown()


def line(work: Callable[[float], object], repetitions: int) -> Line:
    """The line through the typical seconds of some work at the small and the large size."""
    return _line(lambda size: _timed(lambda: work(size)), repetitions)


def typical(seconds: list[float]) -> float:
    """The median, the first two left out."""
    return statistics.median(seconds[2:])


def _line(seconds: Callable[[float], float], repetitions: int) -> Line:
    low, high = (typical([seconds(size) for _ in range(repetitions + 2)]) for size in (SMALL, LARGE))
    megabyte = max(0.0, (high - low) / (LARGE - SMALL))
    return Line(max(0.0, low - megabyte * SMALL), megabyte)


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _take(answers: ray.ObjectRef) -> float:
    ray.wait([answers])

    def add() -> None:
        replies = [unpack_reply(to_record_dict(one.records)) for one in ray.get(answers)]
        if summed := [(reply.tensors, 1.0) for reply in replies if reply.tensors]:
            weighted_mean(summed)

    return _timed(add)


def _model(megabytes: float) -> numpy.ndarray:
    return numpy.ones(int(megabytes * _FLOATS), numpy.float32)


def _answer(megabytes: float) -> Answer:
    update = {"update": torch.from_numpy(_model(megabytes))} if megabytes else {}
    numbers = {"risk": 1.0, "accuracy": 1.0, "loss": 1.0}
    return Answer(2, to_records(pack_reply(Reply("client", "domain", 0, 60, update, numbers, weighed=True))))


if __name__ == "__main__":
    from sides import pieces  # under its own name, by which the worker finds what it is sent

    print(json.dumps(asdict(pieces.measure(int(sys.argv[1])))))
