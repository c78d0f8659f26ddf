"""Who asks a run's clients in a diagnosis: an engine on this machine, or a deployment's server."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedha import config as configs
from fedha.cli import diagnose, stopping
from fedha.cli.deployed import Address, Runs, destination
from fedha.cli.diagnose import Ask
from fedha.cli.options import Quiet, To
from fedha.cli.steps import Steps
from fedha.runs import runfolder
from fedha.runs.listener import Silent

if TYPE_CHECKING:  # torch: slow to import, and help should come at once
    from fedha.config import Config
    from fedha.deploy.submit import Destination
    from fedha.diagnosis.settings import Asked

_ENGINES = ("inline", "ray", "flower")


def on_engine(name: str) -> Ask:
    """What asks the clients of a simulation.

    Args:
        name: The engine's.

    Raises:
        FedhaError: There is no such engine.
    """
    from fedha.diagnosis.settings import read_choice

    engine = read_choice("--engine", name, _ENGINES)

    def ask(place: Path, asked: "Asked", steps: Steps) -> None:
        from fedha.engine import run
        from fedha.flower.job import Job
        from fedha.flower.serve import load_domains

        config = _config(place)
        there = config.model_copy(update={"engine": config.engine.model_copy(update={"name": engine})})
        with stopping.patiently():
            run(
                Job(there, place, diagnose=asked),
                load_domains(config),
                _Noting(steps),
                resume=True,
                stop=stopping.asked,
            )

    return ask


def on_deployment(to: "Destination") -> Ask:
    """What asks a deployment's sites, from its server."""

    def ask(place: Path, asked: "Asked", steps: Steps) -> None:
        from fedha.deploy.submit import run_deployed

        with stopping.patiently():
            run_deployed(_config(place), place, _Noting(steps), to, resume=True, stop=stopping.asked, diagnose=asked)

    return ask


def deployed(
    target: Annotated[Path, typer.Argument(metavar="RUN")],
    to: To,
    targets: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="LIST",
            help="Unseen domains to measure transfer to, whose volunteers are waited for; default: those at hand.",
        ),
    ] = "",
    radius: diagnose.Radius = diagnose.RADIUS,
    delta: diagnose.Delta = "",
    mode: diagnose.Mode = "",
    rows: Annotated[str, typer.Option("--rows", metavar="LIST", help="transfer, curvature; default: both.")] = (
        "transfer,curvature"
    ),
    products: diagnose.Products = "block",
    round: diagnose.Round = None,
    rule: diagnose.Rule = "",
    address: Address = None,
    runs: Runs = None,
    form: diagnose.Printed = None,
    again: diagnose.Again = False,
    quiet: Quiet = False,
) -> None:
    """Measure how a deployment's domains look to a run's learned head: `fedha diagnose`, asked at the sites.

    RUN is the folder of a finished run among the server's runs, or one that holds some. Each site answers risks and
    gradients at heads that the server names, and products of its Hessian, if its own contract says so and as often as
    that allows (diagnose: NUMBER). The unseen domain is the server's, or lent by a site whose contract says volunteer:
    NAME, which never trains. docs/transfer.md tells how to read what comes out, docs/deploy.md what the sites agree to.

    [bold]Examples[/bold]

    [cyan]fedha deploy diagnose deployment/server/runs/deployment --to deployment[/cyan]

    [cyan]fedha deploy diagnose hospitals/server/runs/heart --to hospitals --target va --radius 0.1,1[/cyan]
    """
    wanted = diagnose.settings_of(targets, radius, delta, mode, rows, "power", products)
    there = on_deployment(destination(to, address, runs))
    diagnose.work(target, wanted, there, rule, round, form, again=again, quiet=quiet)


def _config(place: Path) -> "Config":
    from fedha.diagnosis.subject import check_config

    config = configs.load_written(place / runfolder.CONFIG)
    check_config(config)
    return config


@dataclass(frozen=True)
class _Noting(Silent):
    """Tells what a listener is told in sentences; of rounds there are none."""

    steps: Steps

    def note(self, text: str) -> None:
        """Show it."""
        self.steps.note(f"  {text}")
