"""fedha's own ServerApp and ClientApp, bound to a config by Flower's run config.

The run config's keys: ``config`` (a YAML file, relative to the app), ``overrides`` (``key=value`` pairs separated by
spaces), ``settings`` (a whole config as JSON; overrides the two), ``out`` (the run's folder), ``left-out`` (a source
to leave out) and ``resume``.
"""

import functools
from pathlib import Path

import torch
from flwr.app import Context, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedha import numerics
from fedha.config import Config, from_json, load, to_json
from fedha.data.domain import Domain, DomainSet
from fedha.errors import FedhaError
from fedha.flower.client import client_app
from fedha.flower.serve import Job, load_domains, serve
from fedha.listener import Listener, Silent
from fedha.models import SplitModel, build


def job_from(run_config: UserConfig, base: Path) -> Job:
    """What a run config asks for.

    Args:
        run_config: The keys above; all optional but one of config and settings.
        base: The folder that a relative config path starts from.

    Raises:
        FedhaError: No config, a wrong one, or one with several recipes or seeds (Flower runs one at a time).
    """
    settings = str(run_config.get("settings", ""))
    if settings:
        config = from_json(settings)
    else:
        path = Path(str(run_config.get("config", "")))
        if not path.name:
            raise FedhaError(
                "the run config names no experiment; pass --run-config 'config=\"configs/quickstart.yaml\"'"
            )
        config = load(base / path, str(run_config.get("overrides", "")).split())
    runs = config.runs()
    if len(runs) > 1:
        raise FedhaError(
            f"the config asks for {len(runs)} runs but a Flower run is one; choose with "
            "--run-config 'overrides=\"recipe=hgp seed=0\"'"
        )
    folder = Path(str(run_config.get("out", "")) or f"runs/{config.name}")
    return Job(runs[0], folder, str(run_config.get("left-out", "")) or None)


def server_app(base: Path, listener: Listener | None = None) -> ServerApp:
    """The ServerApp of a deployed or simulated run.

    Args:
        base: The app's folder.
        listener: Told of every round; default: nobody, the run folder has it all.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        job = job_from(context.run_config, base)
        serve(job, grid, listener or Silent(), resume=bool(context.run_config.get("resume", False)))

    return app


def bound_client_app(base: Path) -> ClientApp:
    """The ClientApp of a deployed or simulated run: each node takes the source domain of its partition-id.

    Args:
        base: The app's folder.
    """

    def model(context: Context) -> SplitModel:
        job = job_from(context.run_config, base)
        numerics.configure(job.config.engine.threads)
        domains = _domains(to_json(job.config), job.left_out)
        return build(job.config.model, domains.input_shape, domains.classes, job.config.seed[0])

    def domain(context: Context) -> Domain:
        job = job_from(context.run_config, base)
        domains = _domains(to_json(job.config), job.left_out)
        place = int(context.node_config["partition-id"])
        if place >= len(domains.sources):
            raise FedhaError(
                f"partition-id is {place} but the data have {len(domains.sources)} source domains; "
                f"start {len(domains.sources)} clients"
            )
        return domains.sources[place]

    return client_app(model, domain)


def device(config: Config) -> str:
    """Where clients compute: cuda where asked for, or where auto finds one."""
    wanted = config.engine.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise FedhaError("engine.device is 'cuda' but torch sees no GPU; use cpu or auto")
    return "cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"


@functools.lru_cache(maxsize=2)
def _domains(settings: str, left_out: str | None) -> DomainSet:
    return load_domains(from_json(settings), left_out)
