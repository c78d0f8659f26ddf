"""The flower engine: a run as a Flower app, sent with `flwr run` to Flower's own simulation on Ray."""

import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

import fedha
from fedha import objects
from fedha.config import Config, located, to_json
from fedha.data.domain import DomainSet
from fedha.data.partition import client_count
from fedha.diagnosis.settings import to_text
from fedha.engine import domain_files
from fedha.engine.event_file import EventFile, new_events, stop_file
from fedha.engine.flower_processes import START_SECONDS, LocalFlower, local_flower
from fedha.errors import FedhaError, StoppedError
from fedha.flower.apps import bound_client_app, device, server_app
from fedha.flower.delivery import never
from fedha.flower.serve import Job
from fedha.runs import own_files, runfolder
from fedha.runs.listener import Listener
from fedha.temporary import short_folder

_PROJECT = """\
[project]
name = "fedha-simulation"
version = "1.0.0"
description = "One run of fedha"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedha"

[tool.flwr.app.components]
serverapp = "fedha_simulation:server"
clientapp = "fedha_simulation:client"

[tool.flwr.app.config]
settings = ""
out = ""
left-out = ""
resume = false
diagnose = ""
"""

# Flower runs it from where it unpacked it, in processes that need not find fedha where this one did.
_MODULE = """\
import sys
from pathlib import Path

if {place!r} not in sys.path:
    sys.path.insert(0, {place!r})
sys.path += [one for one in {paths!r} if one not in sys.path]

from fedha.engine.flower_simulation import simulated_client_app, simulated_server_app

server = simulated_server_app(Path({events!r}), {domains!r})
client = simulated_client_app({domains!r})
"""


def run_flower(
    job: Job, domains: DomainSet, listener: Listener, *, resume: bool = False, stop: Callable[[], bool] = never
) -> dict[str, Any]:
    """Train one job in Flower's simulation; see `fedha.engine.run`. No process outlives the call.

    Raises:
        StoppedError: It was asked to stop; what was done is saved.
        FedhaError: Bad data, a failed client, a folder that holds another run, or a Flower that does not start.
    """
    if not resume:
        runfolder.check_new(job.folder)
    clients = client_count(domains, job.config.data, job.config.seed[0])
    workers = min(clients, max(1, (os.cpu_count() or 1) // job.config.engine.threads))
    listener.note(f"starting Flower's simulation: {clients} clients on {workers} Ray workers")
    with short_folder() as place:
        app, events = place / "app", place / "events"
        events.touch()
        app.mkdir()
        (app / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
        module = _module(events, _write_own(job.config, place / "domains"))
        (app / "fedha_simulation.py").write_text(module, encoding="utf-8")
        (app / "run.toml").write_text(_run_config(job, resume), encoding="utf-8")
        with local_flower(place) as flower:
            federation = _federation(job.config, clients, workers)
            settings = ("--run-config", app / "run.toml", "--federation-config", federation)
            number = str(flower.ask("run", app, *settings)["run-id"])
            return _follow(flower, number, events, job, listener, stop)


def _write_own(config: Config, folder: Path) -> str | None:
    """Write a program's own domains; returns where, None where the config says how they are made.

    Raises:
        FedhaError: They cannot be in another process.
    """
    if config.data.name != objects.NAME:
        return None
    digest = str(config.data.digest)
    domain_files.write(digest, objects.get_object("data", digest), folder)
    return str(folder)


def _module(events: Path, domains: str | None) -> str:
    """The app: it finds what this process finds, for its functions are named in the config."""
    paths = [str(Path(one).absolute()) for one in sys.path]
    return _MODULE.format(place=str(Path(fedha.__file__).parents[1]), events=str(events), paths=paths, domains=domains)


def simulated_client_app(domains: str | None) -> ClientApp:
    """The ClientApp of a run.

    Args:
        domains: A program's own, as `fedha.engine.domain_files` wrote them; None: the config says how they are made.
    """
    # Flower pickles it for processes that do not import the app: what they need goes with it
    return bound_client_app(Path(), simulation=True, prepare=functools.partial(_offer, domains))


def _offer(domains: str | None) -> None:
    if domains is not None:
        domain_files.offer(Path(domains))


def simulated_server_app(events: Path, domains: str | None = None) -> ServerApp:
    """fedha's ServerApp, which writes into a file how its run goes on, and the error of ours that ends it.

    What nobody expected is left to Flower, whose log has the traces.

    Args:
        events: The file.
        domains: As in `simulated_client_app`.
    """
    _offer(domains)
    file = EventFile(events)
    app, inner = ServerApp(), server_app(Path(), file, stop_file(events).exists)

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            inner(grid=grid, context=context)
        except StoppedError as error:
            file.stopped(str(error))
        except FedhaError as error:
            file.failed(str(error))
            raise

    return app


def _run_config(job: Job, resume: bool) -> str:
    """The run config as TOML, whose strings are JSON's; its paths are absolute, for Flower works somewhere else."""
    config = located(job.config)
    values = {
        "settings": to_json(config),
        "out": str(job.folder.absolute()),
        "left-out": job.left_out or "",
        "resume": resume,
        "diagnose": "" if job.diagnose is None else to_text(job.diagnose),
    }
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
    return "".join(lines).replace("\x7f", "\\u007f")  # the one character that JSON leaves bare and TOML does not


def _federation(config: Config, clients: int, workers: int) -> str:
    """The size of the federation and of Ray: a worker has the threads of a client, and its part of the GPUs."""
    threads = config.engine.threads
    gpus = torch.cuda.device_count() if device(config) == "cuda" else 0
    sizes = {
        "num-supernodes": clients,
        "client-resources-num-cpus": threads,
        "client-resources-num-gpus": int(gpus / workers * 1e4) / 1e4,  # Ray counts in ten-thousandths
        "init-args-num-cpus": threads * workers,
        "init-args-num-gpus": gpus,
    }
    return " ".join(f"{key}={value}" for key, value in sizes.items())


def _follow(
    flower: LocalFlower, number: str, events: Path, job: Job, listener: Listener, stop: Callable[[], bool]
) -> dict[str, Any]:
    """Tell the listener what happens until the results are there, or say why they will not be."""
    deadline = time.monotonic() + START_SECONDS
    begun = False
    with events.open("rb") as file:
        watch = flower.start("run", ["flwr", "log", number, "--stream"])
        while True:
            ended = watch.poll() is not None  # asked first: what it wrote before its end is then read below
            for event, value in new_events(file):
                begun = True
                if event == "finished":
                    results = runfolder.read_results(job.folder)
                    listener.finished(results)
                    return results
                _tell(listener, job, event, value)
            if stop():
                if not begun:
                    raise StoppedError("stopped before its first round was done")
                stop_file(events).touch()  # the ServerApp looks for it, and then says where it stopped
            if ended:
                _check_running(flower, number, job)
                flower.processes.remove(watch)
                watch = flower.start("run", ["flwr", "log", number, "--stream"])
            if not begun and time.monotonic() > deadline:
                raise _failed(flower, job, f"it did not begin within {START_SECONDS:g} s; is the machine overloaded?")
            time.sleep(0.05)


def _tell(listener: Listener, job: Job, event: str, value: Any) -> None:
    match event:
        case "started":
            listener.started(job.config, job.folder, value)
        case "round_done":
            listener.round_done(value)
        case "note":
            listener.note(value)
        case "stopped":
            raise StoppedError(value)
        case "failed":
            raise FedhaError(value)


def _check_running(flower: LocalFlower, number: str, job: Job) -> None:
    """The log ended: because the run did, or because the connection broke?

    Flower's commands exit with 0 either way, so its list of runs is asked.
    """
    (run,) = flower.ask("ls", "--run-id", number)["runs"]
    if run["status"].startswith("finished"):
        reason = run["status-details"].removeprefix("Simulation failed with exception: ")
        raise _failed(flower, job, reason if reason != "N/A" else f"it ended as {run['status']}, without results")


def _failed(flower: LocalFlower, job: Job, reason: str) -> FedhaError:
    """An error that nobody expected: Flower's log, with the traces, goes to the run's folder."""
    log = "\n".join(flower.log(name) for name in ("run", "superlink", "superexec"))
    place = runfolder.make_folder(job.folder) / runfolder.ERROR
    own_files.write_text(job.folder, runfolder.ERROR, re.sub(r"\x1b\[[\d;]*m", "", log))
    return FedhaError(f"Flower's simulation failed: {' '.join(reason.split()).rstrip('.')}; its log is in {place}")
