"""The ray engine: a run's clients in Ray's worker processes, on cores, on GPUs or on a cluster."""

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Context

from fedha.config import Config, from_json, to_json
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.data.shards import client_domains
from fedha.engine import ray_session
from fedha.engine.estimate import run_operations
from fedha.engine.host import Resources
from fedha.engine.machine import look
from fedha.engine.plan import Plan, make_plan
from fedha.engine.ray_grid import RayGrid
from fedha.errors import ClusterError
from fedha.flower.client import Clients, simulated
from fedha.flower.delivery import never
from fedha.flower.secure_client import simulated_party
from fedha.flower.serve import Job, serve
from fedha.flower.tensor_array import as_tensor
from fedha.models import SplitModel, build
from fedha.runs.files import typed
from fedha.runs.listener import Listener

_LEAVING_SECONDS = 10.0

PackedDomain = tuple[str, int | None, list[np.ndarray[Any, Any]]]


def run_ray(
    job: Job, domains: DomainSet, listener: Listener, *, resume: bool = False, stop: Callable[[], bool] = never
) -> dict[str, Any]:
    """Train one job on Ray; see `fedha.engine.run`.

    Ray is started if this process has not, and stays for the process' next runs.
    """
    config = job.config
    parts = client_domains(domains, config.data.clients_per_domain, config.seed[0], config.data.split)
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
    settings: str, input_shape: tuple[int, ...], classes: int, device: str, data: Mapping[int, PackedDomain]
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
    parts = {place: _unpacked(packed) for place, packed in data.items()}

    def model(context: Context) -> SplitModel:
        return build(config.model, input_shape, classes, config.seed[0])

    def domain(context: Context) -> Domain:
        return parts[int(context.node_config["partition-id"])]

    party = simulated_party(config)
    return Clients(model, domain, threads=config.engine.threads, device=device, party=party, site=simulated)


def _packed(domain: Domain) -> PackedDomain:
    """A domain as arrays, which Ray keeps once on each machine and maps into the processes there."""
    tensors = (domain.train.inputs, domain.train.labels, domain.held_out.inputs, domain.held_out.labels)
    return domain.name, domain.shard, [tensor.numpy() for tensor in tensors]


def _unpacked(packed: PackedDomain) -> Domain:
    name, shard, arrays = packed
    inputs, labels, held_out_inputs, held_out_labels = (as_tensor(values) for values in arrays)
    return Domain(name, Examples(inputs, labels), Examples(held_out_inputs, held_out_labels), shard)
