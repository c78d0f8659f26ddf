"""The ray engine: a run's clients in Ray's worker processes, on cores, on GPUs or on a cluster."""

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import ray.cloudpickle
from flwr.app import Context
from torch import Tensor

from fedha.config import Config, from_json, to_json
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.data.examples import GIVEN
from fedha.data.partition import client_domains
from fedha.engine import ray_session
from fedha.engine.estimate import run_operations
from fedha.engine.host import Resources
from fedha.engine.machine import look
from fedha.engine.plan import Plan, make_plan
from fedha.engine.ray_grid import RayGrid
from fedha.errors import ClusterError, FedhaError
from fedha.features import Keeping
from fedha.flower.client import Clients, seeded_site
from fedha.flower.delivery import never
from fedha.flower.secure_client import simulated_party
from fedha.flower.serve import Job, serve
from fedha.flower.tensor_array import as_tensor
from fedha.inputs import each, several
from fedha.models import SplitModel, build
from fedha.privacy.contract import simulated
from fedha.runs.files import typed
from fedha.runs.listener import Listener

_LEAVING_SECONDS = 10.0

PackedDomain = tuple[str, int | str | None, list[Examples]]


def run_ray(
    job: Job, domains: DomainSet, listener: Listener, *, resume: bool = False, stop: Callable[[], bool] = never
) -> dict[str, Any]:
    """Train one job on Ray; see `fedha.engine.run`.

    Ray is started if this process has not, and stays for the process' next runs.
    """
    config = job.config
    parts = client_domains(domains, config.data, config.seed[0])
    address = config.engine.address
    cluster = None if address is None else ray_session.start(0, 0, address)
    plan = make_plan(config, len(parts), look(), cluster, run_operations(config, domains))
    listener.note(plan.summary())
    for warning in plan.warnings:
        listener.note(warning)
    if cluster is None:
        ray_session.start(plan.workers, plan.gpus)
    grid = ray_grid(config, plan, domains, parts, listener, stop)
    try:
        with contextlib.closing(grid):
            return serve(job, grid, listener, domains=domains, resume=resume, stop=stop)
    except ClusterError as error:
        # nothing is left in it for a next run; without a head leaving may take long, and the user waits for the reason
        leaving = threading.Thread(target=ray_session.stop, daemon=True)
        leaving.start()
        leaving.join(_LEAVING_SECONDS)
        raise ClusterError(f"{error}; {_how_to_go_on(job)}") from error


def _how_to_go_on(job: Job) -> str:
    address, folder = job.config.engine.address, job.folder if job.left_out is None else job.folder.parents[1]
    command = f"continue from the last checkpoint with: fedha resume {typed(folder)}"
    if address is None:
        return command
    return f"{command}, once a cluster answers at {address}, or with engine.address= behind it on this machine alone"


def ray_grid(
    config: Config,
    plan: Plan,
    domains: DomainSet,
    parts: list[Domain],
    listener: Listener,
    stop: Callable[[], bool] = never,
) -> RayGrid:
    """The grid of a run.

    Args:
        config: Of one run.
        plan: Workers and what each may use.
        domains: For the shape of the model.
        parts: What each client holds, in client order.
        listener: Told when a worker had to be started again.
        stop: Asked while clients are waited for, whether to stop.
    """
    shape, classes = domains.input_shape, domains.classes
    return RayGrid(
        functools.partial(make_clients, to_json(config), shape, classes, plan.device),
        len(parts),
        workers=plan.workers,
        resources=Resources(plan.cpu_share, plan.gpu_share, plan.memory_share if plan.device == "cuda" else None),
        data=[_packed(part) for part in parts],
        loads=[len(part.train) for part in parts],
        together=plan.batching,
        client_timeout=config.engine.client_timeout,
        note=listener.note,
        stop=stop,
    )


def make_clients(
    settings: str, input_shape: Any, classes: int, device: str, data: Mapping[int, PackedDomain]
) -> Clients:
    """The clients of a worker.

    Args:
        settings: The run's config as JSON.
        input_shape: Shape of one input.
        classes: C, the number of classes.
        device: Where they compute.
        data: What each place holds, as `_packed` made it.
    """
    config = from_json(settings)
    parts = {client_id: _unpacked(packed) for client_id, packed in data.items()}

    def model(context: Context) -> SplitModel:
        return build(config.network, input_shape, classes, config.seed[0])

    def domain(context: Context) -> Domain:
        return parts[int(context.node_config["partition-id"])]

    party = simulated_party(config)
    threads = config.engine.threads
    keeping = Keeping.of(config.model.features)
    return Clients(
        model,
        domain,
        threads=threads,
        device=device,
        party=party,
        site=seeded_site,
        stays=True,
        keeping=keeping,
        contract=simulated(config),
    )


def _packed(domain: Domain) -> PackedDomain:
    """A domain's tensors as arrays, which Ray keeps once on each machine and maps into the processes there.

    What lies in a file stays there: a worker maps it again.
    """
    for part in (domain.train, domain.held_out):
        for kept in several(part.inputs).values():
            if not isinstance(kept, Tensor):
                _check_travels(domain, kept)
    return domain.name, domain.shard, [_exchanged(part, _as_array) for part in (domain.train, domain.held_out)]


def _check_travels(domain: Domain, source: object) -> None:
    """Refuse a source of somebody's that no other process can have, such as an open file."""
    try:
        ray.cloudpickle.dumps(source)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise FedhaError(
            f"the inputs of domain {domain.name!r} are a {type(source).__name__} that cannot be sent to a worker: "
            f"{' '.join(str(error).split())}; open what it needs when it is asked, or take engine inline"
        ) from error


def _unpacked(packed: PackedDomain) -> Domain:
    name, shard, parts = packed
    train, held_out = (_exchanged(part, _as_tensor) for part in parts)
    return Domain(name, train, held_out, shard)


def _exchanged(part: Examples, change: Callable[[Any], Any]) -> Examples:
    beside = {name: column for name, column in part.metadata.items() if name != GIVEN}
    groups = None if part.groups is None else change(part.groups)
    return replace(part, inputs=each(change, part.inputs), labels=change(part.labels), groups=groups, metadata=beside)


def _as_array(kept: Any) -> Any:
    return kept.numpy() if isinstance(kept, Tensor) else kept


def _as_tensor(kept: Any) -> Any:
    return as_tensor(kept) if isinstance(kept, np.ndarray) else kept
