"""The two apps of a deployment: a server without data, and clients that each load their own and nothing else.

What belongs to a machine is in its environment, not in the config that travels:

- ``FEDHA_RUNS``, the server's: where runs are written; default: ``runs``.
- ``FEDHA_DATA``, a client's: the folder of its own data; default: data.root of the config.
- ``FEDHA_CACHE``, a client's: where it may keep what it needs again; default: ``~/.cache/fedha``.
- ``FEDHA_LIMITS``, a client's: a YAML file with what this site allows (`fedha.privacy.limits`); default: no limits. The
  account of what it released is kept below FEDHA_CACHE. No server has a say in either, nor in where noise comes from.

The run config has the keys of `fedha.flower.apps`, and ``events``: the name of a file beside the runs to which the
server writes how the run goes on.
"""

import functools
import os
import traceback
from pathlib import Path, PurePosixPath

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedha import data
from fedha.config import from_json
from fedha.data.domain import Domain
from fedha.deploy.memory import own_domain, recall, remember, run_folder
from fedha.engine.event_file import EventFile
from fedha.errors import FedhaError
from fedha.flower.apps import device, job_from
from fedha.flower.client import Clients, recall_averages, state_record
from fedha.flower.guarded import as_kind, sensitive
from fedha.flower.serve import Job, serve
from fedha.flower.wire import unpack_tensors
from fedha.models import SplitModel, build
from fedha.privacy.book import Book
from fedha.privacy.limits import Limits, read_limits
from fedha.privacy.site import Site

EVENTS = ".events"  # the folder beside the runs


def deployed_server_app() -> ServerApp:
    """The ServerApp: it learns from the clients what it must know of their data."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        runs = Path(os.environ.get("FEDHA_RUNS", "runs"))
        asked = job_from(context, Path())
        file = inside(runs / EVENTS, str(context.run_config["events"]))
        file.parent.mkdir(parents=True, exist_ok=True)
        events = EventFile(file)
        try:
            if asked.config.evaluation.leave_one_domain_out or asked.left_out:
                raise FedhaError(
                    "evaluation.leave_one_domain_out trains without one site at a time, which is for simulations; "
                    "set it to false"
                )
            job = Job(asked.config, inside(runs, str(asked.folder)))
            serve(job, grid, events, domains=None, resume=bool(context.run_config.get("resume", False)))
        except FedhaError as error:
            events.failed(str(error))
            raise
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            events.crashed(
                f"the server's process failed: {' '.join(str(error).split()) or type(error).__name__}", trace
            )
            raise

    return app


def deployed_client_app() -> ClientApp:
    """The ClientApp: one site's client, whose place is its node's partition-id."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        job = job_from(context, Path())
        settings, place = job.config.model_dump_json(), _place(context)
        kind, content = message.metadata.message_type, message.content
        with as_kind(f"client {place}", covered=bool(os.environ.get("FEDHA_LIMITS")) or sensitive(job.config.privacy)):
            clients = _clients(settings, place, _limits())
        averages = run_folder(_cache(), f"{settings} {job.folder} {place}")
        averaging = any(term.client_average for term in job.config.recipe[0].resolve().terms)
        number = _round(content)
        if averaging and number is not None:
            recall_averages(context.state, recall(averages, number))
        reply = clients.answer(kind, content, context)
        if averaging and number is not None and kind == "train":
            after = state_record(context.state) or ArrayRecord()
            remember(averages, number, unpack_tensors(after), keep=job.config.checkpoint.every + 2)
        return Message(reply, reply_to=message)

    for register in (app.query("introduce"), app.query("measure"), app.train(), app.evaluate()):
        register(answer)
    return app


def inside(folder: Path, name: str) -> Path:
    """A path in a folder, by a name that came over the network.

    Raises:
        FedhaError: The name leads out of the folder, or to the folder itself.
    """
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
        raise FedhaError(f"{name!r} does not name a place in the server's folder of runs; give a plain name")
    return folder.joinpath(*parts)


@functools.lru_cache(maxsize=2)
def _clients(settings: str, place: int, limits: Limits | None) -> Clients:
    """This site's client; kept where a process answers more than once."""
    config = from_json(settings)
    root = os.environ.get("FEDHA_DATA")
    own = config.data if root is None else config.data.model_copy(update={"root": Path(root)})
    if config.data.clients_per_domain > 1:
        raise FedhaError(
            f"data.clients_per_domain is {config.data.clients_per_domain}, but each site of a deployment holds a "
            "domain of its own; set it to 1"
        )
    domain = own_domain(own, config.seed[0], place, _cache())

    def model(context: Context) -> SplitModel:
        shape = tuple(domain.train.inputs.shape[1:])
        return build(config.model, shape, data.class_count(config.data), config.seed[0])

    def load(context: Context) -> Domain:
        return domain

    def site() -> Site:
        return Site("cryptographic", limits, Book(_cache() / "account" / f"{config.data.name}-{place}.json"))

    return Clients(model, load, threads=config.engine.threads, device=device(config), site=site)


def _limits() -> Limits | None:
    path = os.environ.get("FEDHA_LIMITS")
    return read_limits(Path(path)) if path else None


def _cache() -> Path:
    return Path(os.environ.get("FEDHA_CACHE") or Path.home() / ".cache" / "fedha")


def _place(context: Context) -> int:
    if "partition-id" not in context.node_config:
        raise FedhaError(
            "the node config has no partition-id; start the SuperNode with --node-config 'partition-id=0' "
            "(its place in client order)"
        )
    return int(str(context.node_config["partition-id"]))


def _round(content: RecordDict) -> int | None:
    """The round of a request; None for an introduction."""
    request = content["request"]
    return int(str(request["round"])) if isinstance(request, ConfigRecord) and "round" in request else None
