"""`fedha deploy run` and `resume`: an experiment on a deployment, with the display and the files of `fedha run`."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedha.cli import launch, publish
from fedha.cli.launch import Execute, Plan
from fedha.cli.options import ConfigName, Log, Overrides, Quiet, To
from fedha.errors import FedhaError
from fedha.runs import folders
from fedha.runs.runfolder import REPORT

if TYPE_CHECKING:  # Flower: slow to import, and help should come at once
    from fedha.config import Config
    from fedha.deploy.submit import Destination

Address = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", help="The SuperLink's control; default: from the folder."),
]
Runs = Annotated[
    Path | None,
    typer.Option(
        "--runs", envvar="FEDHA_RUNS", metavar="DIR", help="The server's folder of runs; default: server/runs in DIR."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="DIR", help="Where the run ends; default: a new folder among the server's runs."
    ),
]


def run(
    config: ConfigName,
    to: To,
    overrides: Overrides = None,
    out: Out = None,
    address: Address = None,
    runs: Runs = None,
    quiet: Quiet = False,
    log: Log = None,
) -> None:
    """Train what a config describes on a deployment: the clients are its sites, each with its own data.

    CONFIG is a YAML file, or the name of one that fedha ships; it is the one that was simulated. The exit code tells
    whether every run ended well: 0, 1 for what nobody expected, 2 for what you can mend, 130 after Ctrl-C,
    143 after SIGTERM.

    [bold]Examples[/bold]

    [cyan]fedha deploy run configs/deployment.yaml --to deployment[/cyan]

    [cyan]fedha deploy run hearts.yaml federation.schedule=piggyback --to deployment --out runs/hearts[/cyan]
    """
    there = destination(to, address, runs)
    wanted = saved_each_round(launch.find_config(config, overrides or [], elsewhere=True))
    outside = out is not None and not out.resolve().is_relative_to(there.runs.resolve())
    if outside and out is not None and os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise FedhaError(f"{out} is there already and is no empty folder; choose another one for the run")
    place = there.runs / folders.folder_name(wanted.name)
    with launch.leaving_nothing(place) as made:
        folder, plan = launch.plan_new(wanted, folders.claim(place) if out is None or outside else out)
        made += [folder, *(one for _, one in plan if one != folder)]
        _train(plan, folder, there, quiet=quiet, log=log or [])
    _end(plan, folder, out if outside else None)


def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
    to: To,
    overrides: Overrides = None,
    address: Address = None,
    runs: Runs = None,
    quiet: Quiet = False,
    log: Log = None,
) -> None:
    """Continue runs of a deployment that were stopped, from their last checkpoint, and start those that never began.

    RUN is the folder of a run, or one that holds runs, among the server's runs. KEY=VALUE changes what does not touch
    the rounds that are done, such as training.rounds, with which a finished run goes on too.

    [bold]Example[/bold]

    [cyan]fedha deploy resume deployment/server/runs/deployment --to deployment[/cyan]
    """
    there = destination(to, address, runs)
    plan = launch.plan_again(folder, overrides or [], publish.terminal())
    _train(plan, folder, there, quiet=quiet, log=log or [])
    _end(plan, folder, None)


def saved_each_round(config: "Config") -> "Config":
    """The config with a checkpoint after each round, where it says nothing of them: servers are started anew."""
    if "every" in config.checkpoint.model_fields_set:
        return config
    return config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"every": 1})})


def destination(to: Path, address: str | None, runs: Path | None) -> "Destination":
    """Where a federation takes runs.

    Args:
        to: Its folder, or the server's part of it.
        address: Of the SuperLink's control; None: what the folder says.
        runs: The server's folder of runs; None: the one in the folder.
    """
    from fedha.deploy import locations
    from fedha.deploy.submit import Destination

    place = locations.find(to)
    record = place.inventory()
    sites = {client.partition_id: client.name for client in record.clients}
    return Destination(address or record.control, place.trusted, runs or place.server / "runs", sites)


def _train(plan: Plan, folder: Path, to: "Destination", *, quiet: bool, log: Sequence[str]) -> None:
    from fedha.deploy.submit import run_deployed

    execute: Execute = functools.partial(run_deployed, to=to)
    launch.train(
        plan, publish.terminal(), quiet=quiet, common=folder, execute=execute, again="fedha deploy resume", log=log
    )


def _end(plan: Plan, folder: Path, out: Path | None) -> None:
    """Write the report, bring the runs where they are wanted, and print the table."""
    console = publish.terminal()
    publish.conclude([place for _, place in plan], folder / REPORT, console)
    if out is not None:
        from fedha.deploy.submit import fetch

        fetch(folder, out)
        publish.say(f"Run: {out}", console)
