"""A run on a deployment: sent to its SuperLink, followed to its end, sent again where the server's process was lost.

`flwr run` says 0 for a run that failed, so what counts is what the server's own process writes beside its runs, and
where that ends without a last word, the SuperLink's list of runs.
"""

import json
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedha import temporary
from fedha.config import Config, to_json
from fedha.deploy import bundle, control, troubles
from fedha.deploy.apps import EVENTS
from fedha.diagnosis.settings import Asked, to_text
from fedha.engine.event_file import new_events, stop_file
from fedha.engine.flower_processes import LocalFlower, environment
from fedha.errors import ClientError, FedhaError, StoppedError
from fedha.flower.delivery import never
from fedha.runs import runfolder
from fedha.runs.listener import Listener

_CONNECTION = "fedha"
_LOOK_SECONDS = 0.1
_STOP_SECONDS = 60.0
_LAST = ("finished", "stopped", "failed", "crashed", "lost")  # events after which nothing comes
# A run is sent again, from its checkpoint, after its process was lost; times before its last round do not count.
_ATTEMPTS = 5
_WAIT_SECONDS = 300.0  # for a SuperLink that is being started anew
_NEEDED_BYTES = 4096
_FAILED = "ServerApp failed with exception: "
_ASK_SECONDS = 15.0  # between questions to the SuperLink while nothing is heard


@dataclass(frozen=True)
class Destination:
    """A deployment as whoever submits runs sees it.

    Attributes:
        address: HOST:PORT of the SuperLink, on the network where its control routes can be reached.
        root_certificates: The file of the certificate authority that its certificate is checked with.
        runs: The folder, shared with the server's process, where runs are written.
        sites: The clients' names, by client id.
    """

    address: str
    root_certificates: Path
    runs: Path
    sites: Mapping[int, str] = field(default_factory=dict)


class LostError(Exception):
    """The server's process ended without a word; the run may go on from its checkpoint."""


def run_deployed(
    config: Config,
    folder: Path,
    listener: Listener,
    to: Destination,
    *,
    resume: bool = False,
    stop: Callable[[], bool] = never,
    diagnose: Asked | None = None,
) -> dict[str, Any]:
    """Train one run on a deployment, or have a finished one diagnosed there.

    Args:
        config: One recipe, one seed.
        folder: The run's folder, inside `to.runs`.
        listener: Told of every round.
        to: Where.
        resume: Continue from the folder's checkpoint.
        stop: Asked now and then, whether to stop.
        diagnose: What is asked about the finished run in the folder.

    Returns:
        The content of results.json.

    Raises:
        FedhaError: The run failed, or the SuperLink cannot be reached.
        ClientError: The server's process failed in a way that nobody expected.
        StoppedError: It was asked to stop; what was done is saved.
    """
    if not resume:
        runfolder.check_new(folder)
    with tempfile.TemporaryDirectory(prefix="fedha-", dir=temporary.wanted(), ignore_cleanup_errors=True) as place:
        flower = _commands(Path(place), to)
        lost, done = 0, 0
        while True:
            events = to.runs / EVENTS / f"{secrets.token_hex(8)}.jsonl"
            sites = _sites(to, _WAIT_SECONDS if lost else 0.0)
            values = {"out": _name(folder, to), "events": events.name, "sites": sites, "resume": resume}
            values |= {} if diagnose is None else {"diagnose": to_text(diagnose)}
            number = _submit(flower, Path(place) / "app", config, values)
            try:
                return _follow(flower, number, events, config, folder, listener, stop, to)
            except LostError as error:
                _check_space(to.runs)
                before, done = done, _rounds(folder)
                lost = 1 if done > before else lost + 1  # a server may be started anew as often as a long run needs
                if lost >= _ATTEMPTS:
                    raise FedhaError(
                        f"the server's process was lost {lost} times ({error}); look at its log, then resume the run"
                    ) from error
                resume = runfolder.holds_run(folder)
                listener.note(f"the server's process was lost ({error}); the run is sent again, {lost} of {_ATTEMPTS}")
            except KeyboardInterrupt:  # before it was followed
                _stop(flower, number, events, listener)
                raise
            finally:
                events.unlink(missing_ok=True)
                stop_file(events).unlink(missing_ok=True)


def _rounds(folder: Path) -> int:
    """How many rounds a run has done."""
    return len(runfolder.read_metrics(folder)) if runfolder.holds_run(folder) else 0


def _check_space(folder: Path) -> None:
    """Where the server could not even write why it ended.

    Raises:
        FedhaError: The disk of its runs is full.
    """
    if shutil.disk_usage(folder).free < _NEEDED_BYTES:
        raise FedhaError(f"the disk of {folder}, where the server writes its runs, is full; make space, then resume")


def _name(folder: Path, to: Destination) -> str:
    try:
        return folder.resolve().relative_to(to.runs.resolve()).as_posix()
    except ValueError:
        raise FedhaError(
            f"{folder} is not inside {to.runs}, where the server writes its runs; choose a folder there"
        ) from None


def _commands(place: Path, to: Destination) -> LocalFlower:
    """Flower's command line with a home of its own that knows this SuperLink."""
    if not to.root_certificates.is_file():
        raise FedhaError(
            f"there is no certificate authority at {to.root_certificates}; name the deployment's folder with --to"
        )
    flower = LocalFlower(place, environment(place))
    home = Path(flower.environment["FLWR_HOME"])
    home.mkdir()
    certificates = json.dumps(str(to.root_certificates.resolve()))
    connection = f'address = "{to.address}"\nroot-certificates = {certificates}\n'
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{_CONNECTION}"\n[superlink.{_CONNECTION}]\n{connection}', encoding="utf-8"
    )
    app = place / "app"
    app.mkdir()
    for name, content in bundle.SOURCE.items():
        (app / name).write_bytes(content)
    return flower


def _sites(to: Destination, wait: float) -> str:
    """The sites' names and when they were last connected, as the run's server reads them."""
    with control.connect(to.address, to.root_certificates) as superlink:
        seen = control.last_seen(control.wait(superlink, wait))
    found = [[place, name, seen[name].isoformat() if name in seen else ""] for place, name in to.sites.items()]
    return json.dumps(found)


def _submit(flower: LocalFlower, app: Path, config: Config, values: Mapping[str, object]) -> str:
    """Send the run; returns its number."""
    settings = {"settings": to_json(config), **values}
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items())
    (flower.folder / "run.toml").write_text("".join(lines).replace("\x7f", "\\u007f"), encoding="utf-8")
    return str(flower.ask("run", app, "--run-config", flower.folder / "run.toml")["run-id"])


def _follow(
    flower: LocalFlower,
    number: str,
    events: Path,
    config: Config,
    folder: Path,
    listener: Listener,
    stop: Callable[[], bool],
    to: Destination,
) -> dict[str, Any]:
    """Tell the listener what happens until the results are there, or say why they will not be."""
    seen, asked = 0, time.monotonic()
    told: set[str] = set()
    while True:
        if stop():
            raise StoppedError(_stop(flower, number, events, listener))
        for event, value in _after(events, seen):
            seen += 1
            asked = time.monotonic()
            if event == "finished":
                results = runfolder.read_results(folder)
                listener.finished(results)
                return results
            _tell(listener, config, folder)[event](value)
        if time.monotonic() > asked + _ASK_SECONDS:
            status, details = _status(flower, number, listener, config.federation.patience)
            if status.startswith("finished") and not list(_after(events, seen)):
                if status == "finished:stopped":
                    raise FedhaError(
                        f"run {number} was stopped on the SuperLink; continue it with `fedha deploy resume`"
                    )
                if details.startswith(_FAILED):  # it could not even write so
                    _check_space(to.runs)
                    raise FedhaError(f"the run failed on the server: {details.removeprefix(_FAILED)}")
                raise LostError(f"run {number} ended as {status}: {details}")
            told = _tell_troubles(to, listener, told)
            asked = time.monotonic()
        time.sleep(_LOOK_SECONDS)


def _tell_troubles(to: Destination, listener: Listener, told: set[str]) -> set[str]:
    """Tell what the SuperLink says is wrong, each sentence once for as long as it lasts."""
    found = troubles.ask(to.address, to.root_certificates)
    for sentence in found:
        if sentence not in told:
            listener.note(sentence)
    return set(found)


def _stop(flower: LocalFlower, number: str, events: Path, listener: Listener) -> str:
    """Let a run end between two messages; one that does not, or a second Ctrl-C, is cut off. Returns where it ended."""
    listener.note("stopping: what was sent to the clients is to arrive; Ctrl-C again cuts it off")
    stop_file(events).touch()
    deadline = time.monotonic() + _STOP_SECONDS
    try:
        while time.monotonic() < deadline:
            last = {event: value for event, value in _after(events, 0) if event in _LAST}
            if last:
                return str(last.get("stopped", "stopped"))
            time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        listener.note("cut off")
    flower.ask("stop", number)
    return "stopped"


def _after(events: Path, seen: int) -> list[tuple[str, Any]]:
    """The events after those that were seen; the file may not be there yet."""
    try:
        with events.open("rb") as file:
            return list(new_events(file))[seen:]
    except FileNotFoundError:
        return []


def _tell(listener: Listener, config: Config, folder: Path) -> dict[str, Callable[[Any], None]]:
    def failed(reason: str) -> None:
        raise FedhaError(reason)

    def crashed(told: list[str]) -> None:
        raise ClientError(*told)

    def lost(sentence: str) -> None:
        raise LostError(sentence)

    def stopped(where: str) -> None:
        raise FedhaError(f"the run was asked to end on the server: {where}; continue it with `fedha deploy resume`")

    return {
        "started": lambda first: listener.started(config, folder, first),
        "round_done": listener.round_done,
        "note": listener.note,
        "failed": failed,
        "crashed": crashed,
        "lost": lost,
        "stopped": stopped,
    }


def _status(flower: LocalFlower, number: str, listener: Listener, patience: float) -> tuple[str, str]:
    """What the SuperLink says of a run; where it does not answer, it is waited for: the run may go on without it."""
    deadline = time.monotonic() + patience
    while True:
        try:
            (run,) = flower.ask("ls", "--run-id", number)["runs"]
            return run["status"], " ".join(re.sub(r"\x1b\[[\d;]*m", "", run["status-details"]).split())
        except FedhaError as error:
            if time.monotonic() > deadline:
                raise
            listener.note(f"the SuperLink does not answer, and is asked again: {error}")
            time.sleep(_ASK_SECONDS)


def fetch(folder: Path, to: Path) -> None:
    """Copy a run's folder to another place, at once.

    Args:
        folder: The run's.
        to: Where; must not be there yet.

    Raises:
        FedhaError: It is there, or cannot be written.
    """
    if to.exists() and any(to.iterdir()):
        raise FedhaError(f"{to} is not empty; choose another folder for the run")
    beside = to.with_name(f".{to.name}.{secrets.token_hex(4)}")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, beside)
        if to.exists():
            to.rmdir()
        beside.rename(to)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise FedhaError(f"cannot copy the run to {to}: {error.strerror}; it stays in {folder}") from error
