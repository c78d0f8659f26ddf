"""The two apps of a deployment: a server without data, and clients that each load their own and nothing else.

What belongs to a machine is in its environment, not in the config that travels:

- ``FEDHA_RUNS``, the server's: where runs are written; default: ``runs``.
- ``FEDHA_DATA``: the folder of a client's own data, or of the target's for the server, if it has any; default:
  data.root of the config.
- ``FEDHA_CACHE``, a client's: where it may keep what it needs again; default: ``~/.cache/fedha``.
- ``FEDHA_ACCEPTED``, a client's: the site's file of accepted code (`fedha.deploy.accepted`): what a config may name.
- ``FEDHA_CONTRACTS``, a client's: the folder of what this site agreed to (`fedha.deploy.agreements`); where it is not
  set, the site answers what the settings say.
- ``FEDHA_LIMITS``, a client's: a YAML file with what this site allows (`fedha.privacy.limits`); default: no limits. The
  account of what it released is kept below FEDHA_CACHE. No server has a say in either, nor in where noise comes from.
- For secure sums, what `fedha.deploy.party` names.

The run config has the keys of `fedha.flower.apps`, and ``events``: the name of a file beside the runs to which the
server writes how the run goes on; ``sites``: a JSON list of each client's id, name, and when it was last connected.
"""

import functools
import json
import os
import re
import traceback
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from logging import WARNING
from pathlib import Path, PurePosixPath

import httpx
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log

from fedha import data
from fedha.config import Config, DataConfig, from_json, lasting
from fedha.data.domain import Domain
from fedha.data.part import no_part
from fedha.deploy import accepted, contracts
from fedha.deploy.accepted import check_named, only_this
from fedha.deploy.account_file import account_of
from fedha.deploy.agreements import FOLDER, check_whole
from fedha.deploy.memory import (
    forget_copies,
    keep_constants,
    keep_model,
    kept_constants,
    kept_model,
    recall,
    remember,
    run_folder,
)
from fedha.deploy.party import site_party
from fedha.deploy.side_key import side_key
from fedha.engine.event_file import EventFile, stop_file
from fedha.errors import FedhaError, StoppedError
from fedha.exchange import DIAGNOSING
from fedha.features import Keeping, forget
from fedha.flower.apps import device, job_from
from fedha.flower.attendance import Attendance
from fedha.flower.client import Clients, check_server, client_id_of, kept, recall_lasting, register, state_record
from fedha.flower.contracted import kept_book
from fedha.flower.failure import telling
from fedha.flower.guarded import errors_by_kind, is_protected
from fedha.flower.held import lacking, model_of, with_model
from fedha.flower.outside import outside
from fedha.flower.secure_client import proposes_evaluation
from fedha.flower.secure_wire import REVEAL, settings_mark
from fedha.flower.serve import Job, serve
from fedha.flower.wire import CONSTANTS, announced_lent, pack_tensors, sent_constants, unpack_tensors
from fedha.models import SplitModel, build
from fedha.models.wanted import resolved
from fedha.named import is_own
from fedha.piggyback import riders
from fedha.privacy.account import Account
from fedha.privacy.contract import Contract
from fedha.privacy.limits import Limits, read_limits
from fedha.privacy.site import Site, sensitive
from fedha.rules.found import server_rule

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
            own = os.environ.get("FEDHA_DATA")
            start = asked.config.model.start
            job = Job(
                asked.config,
                inside(runs, str(asked.folder)),
                target_root=None if own is None else Path(own),
                start=None if start is None else inside(runs, str(start.run)),
                diagnose=asked.diagnose,
            )
            resume = bool(context.run_config.get("resume", False))
            here = _attendance(str(context.run_config.get("sites", "")))
            serve(job, grid, events, domains=None, resume=resume, stop=stop_file(file).exists, attendance=here)
        except StoppedError as error:
            events.stopped(str(error))
        except FedhaError as error:
            with suppress(FedhaError):  # on a disk that is full; Flower's list of runs then tells the error
                events.failed(str(error))
            raise
        except httpx.HTTPError as error:
            with suppress(FedhaError):
                events.lost(f"the SuperLink failed: {error}")
            raise
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            with suppress(FedhaError):
                events.crashed(
                    f"the server's process failed: {' '.join(str(error).split()) or type(error).__name__}", trace
                )
            raise

    return app


def deployed_client_app() -> ClientApp:
    """The ClientApp: one site's client, whose place is its node's partition-id."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        with only_this(accepted.here()):
            return answered(message, context)

    def answered(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query.introduce":
            check_server(message.content)  # before the config, which another version may not read
        job = _site_job(context)
        client_id, kind = client_id_of(context), message.metadata.message_type
        covered = bool(os.environ.get("FEDHA_LIMITS")) or sensitive(job.config.privacy)
        if kind == "query.introduce":
            section, known = contracts.data_here(job.config)
            with errors_by_kind(f"client {client_id}", protected=covered or not known):
                reason = no_part(_own(section), client_id)
            if reason is not None and not contracts.lends(job.config, announced_lent(message.content)):
                return Message(outside(reason), reply_to=message)
        held = contracts.held_here(job.config, _cache())
        config, agreed = (job.config, None) if held is None else (_as_agreed(held[0], job.config), held[1])
        content = whole(message.content, _cache())
        if content is None:
            return Message(lacking(), reply_to=message)
        with errors_by_kind(f"client {client_id}", protected=covered):
            clients = _clients(config.model_dump_json(), client_id, _limits(), agreed, settings_mark(job.config))
        with kept_book(_cache() / FOLDER, agreed, client_id, context.state):
            reply = _remembering(clients, replace(job, config=config), kind, content, context)
        return Message(reply, reply_to=message)

    def protected(message: Message) -> bool:
        return bool(os.environ.get("FEDHA_LIMITS")) or is_protected(message.content)

    register(app, telling(answer, protected, traces=False))
    return app


def _site_job(context: Context) -> Job:
    """What a run asks a site for; it names no file here, and no code that this site has not accepted.

    Raises:
        FedhaError: It does, or its config is wrong.
    """
    if not context.run_config.get("settings"):
        raise FedhaError(
            "the run brings no settings of its own, and a site reads no file for one; use `fedha deploy run`"
        )
    job = job_from(context, Path())
    check_named(job.config)
    return job


def _as_agreed(agreed: Config, asked: Config) -> Config:
    """The run that a site agreed to, where and in how many threads it is asked for: that decides no answer."""
    return agreed.model_copy(update={"name": asked.name, "engine": asked.engine, "checkpoint": asked.checkpoint})


def _remembering(clients: Clients, job: Job, kind: str, content: RecordDict, context: Context) -> RecordDict:
    """A client's answer, with what it must know of earlier rounds from the site's disk."""
    averages = run_folder(_cache(), f"{lasting(job.config)} {job.folder} {client_id_of(context)}")
    averaging, number = remembers(job.config) and not kind.endswith(DIAGNOSING), _round(content)
    if averaging and number is not None:  # what is evaluated is the model after its round
        after_round = kind == "evaluate" or proposes_evaluation(content)
        recall_lasting(context.state, recall(averages, number + after_round))
    before = kept(context.state)
    reply = clients.answer(kind, content, context)
    moved = kind == REVEAL and kept(context.state) is not before  # in secure sums it is remembered at their end
    if averaging and number is not None and (kind == "train" or moved):
        after = state_record(context.state) or ArrayRecord()
        remember(averages, number, unpack_tensors(after), keep=job.config.checkpoint.every + 2)
    return reply


def _attendance(told: str) -> Attendance:
    """The sites of a run, as `fedha.deploy.submit` names them in its run config."""
    sites = [(int(client_id), str(name), str(seen)) for client_id, name, seen in json.loads(told or "[]")]
    seen = {name: datetime.fromisoformat(when) for _, name, when in sites if when}
    return Attendance({client_id: name for client_id, name, _ in sites}, seen=seen)


def remembers(config: Config) -> bool:
    """Whether a run's clients must know in a round what they computed in an earlier one."""
    recipe = config.recipe[0].resolve()
    rides = config.federation.schedule == "piggyback" and bool(riders(recipe))
    own = is_own(config.model.name) and config.model.batch_norm in (None, "local")  # the network itself may say so
    averages = any(term.client_average for term in recipe.terms)
    return rides or own or averages or server_rule(config.training).answer is not None


def whole(content: RecordDict, cache: Path) -> RecordDict | None:
    """A request with the model that it is about, which is kept if it came along; None where it is not here.

    What of a model never moves is kept too where it was sent: only a site whose own is another asks for it.

    Args:
        content: As it came.
        cache: The client's.

    Raises:
        FedhaError: The model's name is no digest.
    """
    content = _with_constants(content, cache)
    if not (name := model_of(content)):
        return content
    if not re.fullmatch("[0-9a-f]{64}", name):
        raise FedhaError(f"the server names a model {name[:80]!r}, which is no SHA-256 digest; look at the server")
    sent = content["parameters"]
    if isinstance(sent, ArrayRecord) and len(sent):
        keep_model(cache, name, unpack_tensors(sent))
        return content
    kept = kept_model(cache, name)
    return None if kept is None else with_model(content, pack_tensors(kept))


def _with_constants(content: RecordDict, cache: Path) -> RecordDict:
    """A request with the constants that were sent before, if it names some that were."""
    request = content.get("request")
    name = str(request.get(CONSTANTS, "")) if isinstance(request, ConfigRecord) else ""
    if not re.fullmatch("[0-9a-f]{32}", name):
        return content
    if (sent := sent_constants(content)) is not None:
        keep_constants(cache, name, sent)
        return content
    kept = kept_constants(cache, name)
    return content if kept is None else RecordDict({**content, CONSTANTS: pack_tensors(kept)})


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
def _clients(
    settings: str, client_id: int, limits: Limits | None, agreed: Contract | None = None, mark: str = ""
) -> Clients:
    """This site's client; kept where a process answers more than once.

    Args:
        settings: The run's, as JSON: those that the site agreed to, if it holds contracts.
        client_id: The client's.
        limits: The site's.
        agreed: The contract that it holds.
        mark: What the run calls its settings in secure sums; default: of these.
    """
    config = from_json(settings)
    own = _own(resolved(config, alone=True)[0])
    check_whole(config)
    key = None
    if config.privacy.protect == "examples":
        key = side_key(_cache(), None if agreed is None else agreed.key)
    forget_copies(_cache())
    if limits is None or not limits.cache_features or (own.root is not None and not own.root.exists()):
        forget(_cache() / "features")
    if agreed is not None and agreed.volunteer:
        domain = data.load_lent(own, config.seed[0], agreed.volunteer)
    else:
        domain = data.load_own(own, config.seed[0], client_id, key)
    for note in data.notes_of(domain, data.class_count(config.data)):  # this site's log alone
        log(WARNING, "%s", note)

    def model(context: Context) -> SplitModel:
        # the server's weights are what counts; a site opens no file, and fetches none, because a server says so
        classes = data.class_count(config.data)
        return build(config.network, domain.train.shape, classes, config.seed[0], bare=True)

    def load(context: Context) -> Domain:
        return domain

    if limits is not None and agreed is None and own.root is not None and "FEDHA_DATA" not in os.environ:
        raise FedhaError(
            "this site has limits, and the run names the folder that its account is named after: another folder would "
            "be another account of the same examples; set FEDHA_DATA, or hold contracts (FEDHA_CONTRACTS)"
        )

    def site() -> Site:
        account = Account() if limits is None else account_of(_cache(), own.root, client_id)
        return Site("cryptographic", limits, account)

    party, threads = site_party(config, _cache() / "secure"), config.engine.threads
    if party is not None and mark:
        party = replace(party, settings=mark)
    place = _cache() / "features" if limits is not None and limits.cache_features else None
    keeping = replace(Keeping.of(config.model.features), cache=place, private=True)
    return Clients(
        model, load, threads=threads, device=device(config), party=party, site=site, keeping=keeping, contract=agreed
    )


def _own(config: DataConfig) -> DataConfig:
    """The data's config with this site's folder for its root."""
    root = os.environ.get("FEDHA_DATA")
    return config if root is None else config.model_copy(update={"root": Path(root)})


def _limits() -> Limits | None:
    path = os.environ.get("FEDHA_LIMITS")
    return read_limits(Path(path)) if path else None


def _cache() -> Path:
    return Path(os.environ.get("FEDHA_CACHE") or Path.home() / ".cache" / "fedha")


def _round(content: RecordDict) -> int | None:
    """The round of a request; None for an introduction."""
    request = content["request"]
    return int(str(request["round"])) if isinstance(request, ConfigRecord) and "round" in request else None
