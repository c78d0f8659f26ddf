"""fedha's own ServerApp and ClientApp, bound to a config by Flower's run config.

The run config's keys, all optional but one of config and settings:

- ``config``: an experiment's YAML file, relative to the app;
- ``overrides``: ``key=value`` pairs separated by spaces; together with config they must name one recipe and one seed;
- ``settings``: a whole config as JSON, in the place of the two;
- ``out``: the run's folder; if relative, then to where the ServerApp's process works;
- ``left-out``: a source to leave out;
- ``resume``: continue what the folder holds;
- ``diagnose``: settings of a diagnosis as JSON: the folder's finished run is diagnosed.
"""

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from logging import INFO
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log

from fedha.config import Config, from_json, load, to_json
from fedha.data.domain import Domain
from fedha.data.partition import client_count, client_domains
from fedha.diagnosis.settings import from_text
from fedha.errors import FedhaError
from fedha.features import Keeping
from fedha.flower.client import client_app, client_id_of, cryptographic_site, register, seeded_site
from fedha.flower.delivery import is_simulation, never
from fedha.flower.failure import telling
from fedha.flower.guarded import is_protected
from fedha.flower.logged import Logged
from fedha.flower.secure_client import simulated_party
from fedha.flower.serve import Job, load_domains, serve
from fedha.models import SplitModel, build
from fedha.privacy.contract import simulated
from fedha.runs.listener import Listener


def job_from(context: Context, base: Path) -> Job:
    """What a run config asks for.

    Args:
        context: Carries the run config, with the keys above, and the run's number, which names the folder where
            ``out`` does not.
        base: The folder that a relative config path starts from.

    Raises:
        FedhaError: No config, a wrong one, or one with several recipes or seeds (Flower runs one at a time).
    """
    given = {key: str(value) for key, value in context.run_config.items()}
    config = _config_from(given, base)
    runs = config.runs()
    if len(runs) > 1:
        raise FedhaError(
            f"the config asks for {len(runs)} runs but a Flower run is one; choose with "
            "--run-config 'overrides=\"recipe=hgp seed=0\"'"
        )
    folder = Path(given.get("out") or f"runs/{config.name}-{context.run_id}")
    wanted = given.get("diagnose")
    return Job(runs[0], folder, given.get("left-out") or None, diagnose=from_text(wanted) if wanted else None)


def server_app(base: Path, listener: Listener | None = None, stop: Callable[[], bool] = never) -> ServerApp:
    """The ServerApp of a deployed or simulated run.

    Args:
        base: The app's folder.
        listener: Told of every round; default: Flower's log.
        stop: Asked now and then, whether to stop.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        job = job_from(context, base)
        log(INFO, "fedha writes the run to %s", job.folder.absolute())
        domains = load_domains(job.config, job.left_out)
        if is_simulation(grid):
            _check_federation(grid, client_count(domains, job.config.data, job.config.seed[0]))
        resume = bool(context.run_config.get("resume", False))
        serve(job, grid, listener or Logged(), domains=domains, resume=resume, stop=stop)

    return app


def bound_client_app(
    base: Path, *, simulation: bool = False, prepare: Callable[[], object] = lambda: None
) -> ClientApp:
    """The ClientApp of a deployed or simulated run: each node takes the source domain of its partition-id.

    Args:
        base: The app's folder.
        simulation: Whether noise may come from the run's seed, which then repeats it and protects nobody.
        prepare: Called before each message, in the client's process.
    """
    app = ClientApp()

    # Flower's simulation pickles the app anew for every message; what should last is kept by `_client_app`.
    def answer(message: Message, context: Context) -> Message:
        prepare()
        job = job_from(context, base)
        return _client_app(to_json(job.config), job.left_out, simulation)(message=message, context=context)

    register(app, telling(answer, lambda message: is_protected(message.content)))
    return app


def device(config: Config) -> str:
    """Where clients compute: cuda where asked for, or where auto finds one."""
    wanted = config.engine.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise FedhaError("engine.device is 'cuda' but torch sees no GPU; use cpu or auto")
    return "cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"


def server_device(config: Config) -> str:
    """Where the server of a run in one process computes: with its clients, unless what they answer is protected.

    Noise is drawn on the CPU, and a secure sum is one of whole numbers there.
    """
    plain = config.privacy.protect == "nothing" and not config.privacy.secure_aggregation
    return device(config) if plain else "cpu"


def _config_from(given: dict[str, str], base: Path) -> Config:
    if given.get("settings"):
        return from_json(given["settings"])
    if not given.get("config"):
        raise FedhaError("the run config names no experiment; pass --run-config 'config=\"configs/quickstart.yaml\"'")
    return load(base / given["config"], given.get("overrides", "").split())


@functools.lru_cache(maxsize=2)
def _client_app(settings: str, left_out: str | None, simulation: bool) -> ClientApp:
    """A process keeps its clients, their data and what they computed last from one message to the next."""
    config = from_json(settings)
    domains = load_domains(config, left_out)
    parts = client_domains(domains, config.data, config.seed[0])

    def model(context: Context) -> SplitModel:
        return build(config.network, domains.input_shape, domains.classes, config.seed[0])

    def domain(context: Context) -> Domain:
        client_id = client_id_of(context)
        if client_id >= len(parts):
            raise FedhaError(
                f"partition-id is {client_id} but the data have {len(domains.sources)} source domains for "
                f"{len(parts)} clients; start {len(parts)} clients"
            )
        return parts[client_id]

    party = simulated_party(config)
    if party is not None and not _simulated():
        raise FedhaError(
            "privacy.secure_aggregation is on, but this app has no identity key of its own, only one that a simulation "
            "makes from the seed; deploy the federation with `fedha deploy`"
        )
    site = seeded_site if simulation else cryptographic_site
    threads, keeping = config.engine.threads, Keeping.of(config.model.features)
    if not simulation:  # what a server's config says is no reason to write to a client's disk
        keeping = replace(keeping, cache=None)
    return client_app(
        model,
        domain,
        threads=threads,
        device=device(config),
        party=party,
        site=site,
        keeping=keeping,
        contract=simulated(config),
    )


def _simulated() -> bool:
    """Whether this process is one of Flower's simulation, which runs clients in Ray's."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _check_federation(grid: Grid, clients: int, settled_seconds: float = 2.0) -> None:
    """A simulation has all its nodes at once: if they are not as many as the data need, no others will come."""
    nodes, since = -1, time.monotonic()
    while time.monotonic() < since + settled_seconds or nodes == 0:
        if (now := len(list(grid.get_node_ids()))) == clients:
            return
        if now != nodes:
            nodes, since = now, time.monotonic()
        time.sleep(0.05)
    raise FedhaError(
        f"the simulation has {nodes} clients but the data are for {clients}; "
        f"add --federation-config 'num-supernodes={clients}'"
    )
