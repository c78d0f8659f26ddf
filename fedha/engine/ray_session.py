"""Ray for this process: started or joined when first needed, kept for the runs that follow, ended with the process.

A Ray of our own has no dashboard and sends no usage statistics; it says nothing, keeps its files in a folder that goes
with it, and lets nobody in without its token. What is known of its start's cost stands in docs/benchmarks.md.
"""

import atexit
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from fedha import temporary
from fedha.engine import leftovers, machine
from fedha.engine.ray_store import store_bytes
from fedha.errors import FedhaError, StoppedError
from fedha.heap import TUNABLES, uncached

_WORKERS_IMPORT = ["torch", "flwr.clientapp", "flwr.serverapp", "fedha.flower.client"]
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
_ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class RaySession:
    """A Ray that this process is connected to.

    Attributes:
        address: The cluster's, or "local".
        ours: Whether we connected, and so will disconnect; else the caller had done it.
        cpus: Of all its nodes.
        gpus: Of all its nodes.
        nodes: How many machines.
        seconds: How long it took to start or join.
    """

    address: str
    ours: bool
    cpus: int
    gpus: int
    nodes: int
    seconds: float


_open: dict[tuple[int, int, str | None], tuple[RaySession, ExitStack]] = {}  # at most one


def start(cpus: int, gpus: int = 0, address: str | None = None) -> RaySession:
    """Start a Ray on this machine or join a cluster; what runs already is used if it fits.

    It stays until `stop`, or until the process ends, however that happens. Call it from a thread that lives as long:
    Linux ends Ray's processes together with the thread that started them.

    Args:
        cpus: What a Ray of our own shares out, and how many worker processes it has ready; one a worker will do.
        gpus: The same, of the GPUs that CUDA_VISIBLE_DEVICES leaves.
        address: A cluster to join instead, such as ``auto``, ``host:6379`` or ``ray://host:10001``; it has its own
            cpus and gpus.

    Raises:
        FedhaError: Ray does not start, or nobody answers at the address.
    """
    wanted = (cpus, gpus, address) if address is None else (0, 0, address)
    if wanted in _open and sys.modules["ray"].is_initialized():
        return _open[wanted][0]
    stop()
    begun = time.perf_counter()
    with ExitStack() as stack:
        if address is None:
            _protect()
        import ray  # slow to import, reads its environment then, and only needed here

        ours = not ray.is_initialized()
        if ours:
            _launch(stack, cpus, gpus) if address is None else _join(stack, address)
        session = _describe(address or "local", ours, time.perf_counter() - begun)
        if ours:
            _open[wanted] = session, stack.pop_all()
        elif (cpus, gpus) > (0, 0) and (session.cpus < cpus or session.gpus < gpus):
            raise FedhaError(
                f"this process is connected to a Ray with {session.cpus} cpus and {session.gpus} gpus, and the run "
                f"wants {cpus} and {gpus}; lower engine.workers, or call ray.shutdown() before"
            )
    return session


def stop() -> None:
    """Leave Ray, and end it if it is our own; a Ray that the caller had started is left as it is."""
    while _open:
        _, (_, stack) = _open.popitem()
        stack.close()


atexit.register(stop)


def _protect() -> None:
    """Make a token that everybody needs who talks to the Ray that we start: its ports are open to the network.

    Ray reads this once, when it is imported, so it comes too late in a process that uses Ray already.
    """
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _launch(stack: ExitStack, cpus: int, gpus: int) -> None:
    """Start a Ray of our own, in a new folder that a guard removes however this process ends."""
    usual = temporary.wanted()
    try:
        folder = temporary.make_short()
        stack.callback(leftovers.guard(folder).communicate)  # closes its input and waits
        size, in_shared = store_bytes(machine.memory_bytes(), machine.shared_memory_bytes())
        _init(
            stack,
            {leftovers.MARK: str(folder), TUNABLES: uncached(os.environ)},
            address="local",
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=size,
            _plasma_directory="/dev/shm" if in_shared else str(folder),
            _temp_dir=str(folder),
            _system_config={"preload_python_modules": _WORKERS_IMPORT},
        )
    except FedhaError:
        raise
    except Exception as error:
        raise FedhaError(
            f"Ray did not start with {cpus} cpus and {gpus} gpus: {_cause(error)}; see whether {usual} has room and "
            "the machine is not overloaded, or set engine.name to inline"
        ) from error


def _join(stack: ExitStack, address: str) -> None:
    try:
        _knock(address)
        _init(stack, {}, address=address)
    except StoppedError:
        raise
    except Exception as error:
        raise FedhaError(
            f"no Ray cluster answers at engine.address {address!r}: {_cause(error)}; start one with "
            "`ray start --head`, correct the address, or leave it out for a Ray of this machine alone"
        ) from error


def _knock(address: str) -> None:
    """Raise an OSError where nobody listens: Ray itself would try for minutes, and write about it on the terminal."""
    where = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = where.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()


def _init(stack: ExitStack, mark: dict[str, str], **options: Any) -> None:
    import ray

    stack.callback(ray.shutdown)
    with _as_it_was(mark):
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)


@contextmanager
def _as_it_was(mark: dict[str, str]) -> Iterator[None]:
    """Keep what Ray's start would change or say: SIGTERM's handler, the environment, a tip about its own future."""
    ending = signal.getsignal(signal.SIGTERM)
    before = dict(os.environ)
    os.environ |= {**_QUIET, **before, **mark}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    except SystemExit:  # Ray's own handler of SIGTERM, until ours is back
        if callable(ending):
            ending(signal.SIGTERM, None)
        raise StoppedError("stopped while Ray started") from None
    finally:
        for name in {*_QUIET, *mark} - set(before):
            del os.environ[name]
        os.environ |= {name: before[name] for name in mark if name in before}
        if ending is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ending)


def _describe(address: str, ours: bool, seconds: float) -> RaySession:
    import ray

    has = ray.cluster_resources()  # type: ignore[no-untyped-call]
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())  # type: ignore[no-untyped-call]
    return RaySession(address, ours, int(has.get("CPU", 0)), int(has.get("GPU", 0)), nodes, seconds)


def _cause(error: BaseException) -> str:
    """What happened, in one line without Ray's advice."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300].rstrip('.')}"
