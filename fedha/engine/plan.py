"""Where a run's clients will live: which engine, how many processes, and what each of them gets."""

from dataclasses import dataclass

from fedha.cohort import cohort_size
from fedha.config import Config
from fedha.engine.machine import Machine
from fedha.engine.ray_session import RaySession
from fedha.errors import FedhaError

A_HANDFUL = 8  # clients; as many small ones are done before worker processes would have started
_LONG_OPERATIONS = 5e12  # a run of these takes a core about a minute; then the seconds of Ray's start come back
_RAYS_OWN = ("address", "client_timeout", "workers")  # keys of the engine that nothing but Ray can honour
_CONTEXT_BYTES = 600 * 2**20  # of a GPU's memory, for each process: CUDA's own, outside what torch counts


@dataclass(frozen=True)
class Plan:
    """How a run is spread.

    Attributes:
        engine: inline, ray or flower.
        reason: Why that one.
        clients: How many there are.
        workers: Processes that hold them.
        threads: Torch threads of each.
        device: "cpu" or "cuda".
        gpus: GPUs that are used, on all nodes.
        cpu_share: A worker's CPUs in Ray's count. A Ray of our own has one for each worker, whatever its threads; a
            cluster has cores.
        gpu_share: A worker's part of a GPU, in Ray's count; 0 on the CPU.
        memory_share: The part of the GPU's memory that torch may give to a worker; 0 on the CPU.
        batching: Whether a process may train its clients together.
        address: The cluster's, or None for a Ray of our own.
        warnings: What will work, but not well.
    """

    engine: str
    reason: str
    clients: int
    workers: int
    threads: int
    device: str
    gpus: int
    cpu_share: int
    gpu_share: float
    memory_share: float
    batching: bool
    address: str | None
    warnings: tuple[str, ...] = ()

    def summary(self) -> str:
        """The plan in one line."""
        if self.engine == "inline":
            return f"inline: {count(self.clients, 'client')} in this process, on {self.device} ({self.reason})"
        place = f"{count(self.gpus, 'GPU')}, {self.gpu_share:.4g} a worker" if self.gpus else "the CPU"
        workers = f"{count(self.workers, 'worker')} of {count(self.threads, 'thread')}"
        return f"{self.engine}: {count(self.clients, 'client')} on {workers}, on {place} ({self.reason})"


def choose(config: Config, clients: int, machine: Machine, operations: float = 0.0) -> tuple[str, str]:
    """The engine of a run, and why: what the config names; else Ray where it can gain something.

    Args:
        config: Of one run.
        clients: How many there are.
        machine: What this process may use.
        operations: Of the whole run, roughly (`fedha.engine.estimate.run_operations`).

    Raises:
        FedhaError: The config asks for what its engine does not do, or for a GPU where none is.
    """
    engine = config.engine
    asked = [key for key in _RAYS_OWN if getattr(engine, key) is not None]
    if engine.name in ("inline", "flower"):
        promised = [f"engine.{key}" for key in asked if key != "workers"]  # that is about speed, these are not
        if promised:
            raise FedhaError(f"engine.name is {engine.name!r}, which has no {' or '.join(promised)}; take ray")
    if engine.name != "auto":
        return engine.name, "the config says so"
    if asked:
        return "ray", f"the config sets {', '.join(f'engine.{key}' for key in asked)}"
    if resolve_device(config, len(machine.gpus)) == "cuda":
        return "ray", f"{count(len(machine.gpus), 'GPU')}: {machine.gpus[0].name}"
    numbers = f"{count(clients, 'client')}, {count(machine.cpus, 'core')}"
    several = machine.cpus // engine.threads > 1
    if several and clients > 1 and operations > _LONG_OPERATIONS:
        return "ray", f"{numbers}, about {operations:.0e} operations"
    if clients <= A_HANDFUL:
        return "inline", f"{numbers}: worker processes would not pay"
    if several or engine.batching is not False:
        return "ray", numbers
    return "inline", f"{numbers} for {count(engine.threads, 'thread')}, and engine.batching is off"


def make_plan(
    config: Config, clients: int, machine: Machine, cluster: RaySession | None = None, operations: float = 0.0
) -> Plan:
    """Spread a run's clients.

    Args:
        config: Of one run.
        clients: How many there are, at least 1.
        machine: What this process may use.
        cluster: The Ray of `engine.address`, or the caller's own: its resources count then, not the machine's.
        operations: As for `choose`.

    Raises:
        FedhaError: As `choose`; or more workers than the GPUs take, or a part of a GPU too small to work in.
    """
    engine, reason = choose(config, clients, machine, operations)
    cores, gpus = (machine.cpus, len(machine.gpus)) if cluster is None else (cluster.cpus, cluster.gpus)
    device = resolve_device(config, gpus)
    busy = min(clients, cohort_size(config.training, clients))
    threads, each = config.engine.threads, config.engine.clients_per_gpu
    if config.engine.device == "cpu" and each > 1:
        raise FedhaError(f"engine.clients_per_gpu is {each} but engine.device is 'cpu'; leave one of them out")
    on_gpus = engine == "ray" and device == "cuda"
    fitting = gpus * each if on_gpus else max(1, cores // threads)
    workers = 1 if engine == "inline" else config.engine.workers or min(busy, fitting)
    if on_gpus and workers > fitting:
        raise FedhaError(
            f"engine.workers is {workers} but {count(gpus, 'GPU')} with engine.clients_per_gpu {each} take {fitting}; "
            "raise engine.clients_per_gpu"
        )
    return Plan(
        engine=engine,
        reason=reason,
        clients=clients,
        workers=min(workers, clients),
        threads=threads,
        device=device,
        gpus=min(gpus, workers) if device == "cuda" else 0,
        cpu_share=1 if cluster is None else threads,
        gpu_share=int(1e4 / each) / 1e4 if on_gpus else 0.0,  # Ray counts in ten-thousandths
        memory_share=_memory_share(each, machine) if on_gpus else 0.0,
        batching=engine == "ray" if config.engine.batching is None else config.engine.batching and engine != "flower",
        address=config.engine.address,
        warnings=_warnings(config, workers, cores, on_gpus=on_gpus),
    )


def resolve_device(config: Config, gpus: int) -> str:
    """Where clients compute, "cpu" or "cuda".

    Args:
        config: Its engine.device.
        gpus: How many there are.

    Raises:
        FedhaError: A GPU is asked for and there is none.
    """
    wanted = config.engine.device
    if wanted == "cuda" and not gpus:
        raise FedhaError(
            "engine.device is 'cuda' but no GPU is to be seen; use cpu or auto, or ask `fedha doctor` what is missing"
        )
    return "cuda" if gpus and wanted != "cpu" else "cpu"


def _memory_share(each: int, machine: Machine) -> float:
    """The part of a GPU's memory for torch in one of several processes, after what CUDA takes in each."""
    if not machine.gpus:
        return round(0.9 / each, 4)  # a cluster's GPUs: their size is not known here
    smallest = min(machine.gpus, key=lambda gpu: gpu.memory_bytes)
    share = 1 / each - _CONTEXT_BYTES / smallest.memory_bytes
    if share * smallest.memory_bytes < _CONTEXT_BYTES:
        raise FedhaError(
            f"engine.clients_per_gpu is {each}: that leaves {max(0.0, share) * smallest.memory_bytes / 2**20:,.0f} MiB "
            f"a worker on {smallest.name}, of {smallest.memory_bytes / 2**20:,.0f} MiB in all; lower it"
        )
    return round(share, 4)


def _warnings(config: Config, workers: int, cores: int, *, on_gpus: bool) -> tuple[str, ...]:
    engine, found = config.engine, []
    if engine.threads > cores:
        found.append(f"engine.threads is {engine.threads} but there are {count(cores, 'core')}: they take turns")
    elif workers * engine.threads > cores:
        found.append(
            f"{count(workers, 'worker')} of {count(engine.threads, 'thread')} share {count(cores, 'core')}: "
            "they take turns"
        )
    if engine.clients_per_gpu > 1 and not on_gpus:
        found.append(f"engine.clients_per_gpu is {engine.clients_per_gpu}, but no GPU will be used")
    return tuple(found)


def count(number: int, thing: str) -> str:
    """``1 worker``, ``2 workers``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
