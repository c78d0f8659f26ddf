"""The process of a task at a site: Flower's ``flwr-clientapp``, whose code is the site's own whatever the run brings.

``FEDHA_APP`` of the site's environment says whose:

- ``installed`` (default): `deployed_client_app` of the fedha that is installed here. The bundle is not opened.
- ``accepted``: the app of the bundle, if the SHA-256 of its bytes stands in the site's file (`fedha.deploy.accepted`).

Who submits a run says everything else: the bundle's name, version and hash, and the run's config.
"""

import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from logging import ERROR, WARNING
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.cli.install import install_from_fab
from flwr.clientapp import ClientApp
from flwr.clientapp.utils import get_load_client_app_fn
from flwr.supercore import log
from flwr.supercore.fab import Fab
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from fedha.deploy import accepted, bundle
from fedha.deploy.apps import deployed_client_app
from fedha.errors import FedhaError

_MODES = ("installed", "accepted")
_REPLACED = (
    "pull_task_input",
    "install_from_fab",
    "get_project_dir",
    "install_app_dependencies",
    "get_load_client_app_fn",
)

TaskInput = tuple[Message, Context, Run, Fab]


@dataclass
class SiteCode:
    """Takes the place of those steps of Flower's that choose, unpack and load a task's code.

    Attributes:
        pull: Flower's own step that fetches a task.
    """

    pull: Callable[[RuntimeHttpClient], TaskInput]
    _run: Run | None = field(default=None, init=False)
    _app: Callable[[], ClientApp] | None = field(default=None, init=False)
    _kept: ExitStack = field(default_factory=ExitStack, init=False)  # until the process ends

    def pull_task_input(self, client: RuntimeHttpClient) -> TaskInput:
        """Fetch the task, and note what the server calls its app."""
        told = self.pull(client)
        self._run = told[2]
        return told

    def install_from_fab(self, content: bytes, skip_prompt: bool = False) -> None:
        """Decide what runs; a bundle that the site did not accept is not opened.

        Raises:
            FedhaError: Nothing runs.
        """
        try:
            self._app = self._chosen(content)
        except FedhaError as error:
            log(ERROR, "fedha: refused, and no line of it ran: %s", error)
            raise

    def get_project_dir(self, name: str, version: str, digest: str) -> Path:
        """Nowhere: what the server says names no folder here."""
        return Path(os.devnull)

    def install_app_dependencies(self, *asked: object, **more: object) -> Path:
        """Never: what an app wants installed is code of the operator's too.

        Raises:
            FedhaError: Always.
        """
        raise FedhaError("this site installs nothing that a run asks for; start it without Flower's option for that")

    def get_load_client_app_fn(self, **asked: Any) -> Callable[[str, str, str], ClientApp]:
        """What makes the app that was decided on."""
        return lambda name, version, digest: self._made()

    def _made(self) -> ClientApp:
        if self._app is None:
            raise FedhaError("Flower asked for an app before it was decided which one runs; this is a fault of fedha's")
        return self._app()

    def _chosen(self, content: bytes) -> Callable[[], ClientApp]:
        mode, asked, digest = os.environ.get("FEDHA_APP") or _MODES[0], self._asked(), bundle.digest(content)
        if mode not in _MODES:
            raise FedhaError(f"this site's FEDHA_APP is {mode!r}; set it to {' or '.join(_MODES)}")
        found = accepted.here()
        accepted.only_this_from_now_on(found)
        if mode == "installed":
            _check_ours(asked, digest)
            return deployed_client_app
        if digest not in found.bundles:
            raise FedhaError(
                f"this site starts no app that its people have not accepted, and {_called(asked)} with SHA-256 "
                f"{digest} is none of theirs; if they want it, they add it to {accepted.FILE} (fedha deploy accept "
                "BUNDLE)"
            )
        return lambda: self._unpacked(content, asked)

    def _unpacked(self, content: bytes, asked: tuple[str, str]) -> ClientApp:
        """The app of a bundle, unpacked into a folder of this process alone; the bundle itself says what it is."""
        folder = Path(self._kept.enter_context(tempfile.TemporaryDirectory(prefix="fedha-app-")))
        place = install_from_fab(content, folder, skip_prompt=True)
        return get_load_client_app_fn("", str(place), multi_app=True)(*asked, bundle.digest(content))

    def _asked(self) -> tuple[str, str]:
        if self._run is None:
            raise FedhaError("Flower installs a bundle before it fetched the task; this is a fault of fedha's")
        return self._run.fab_id, self._run.fab_version


def _check_ours(asked: tuple[str, str], digest: str) -> None:
    """Say whose app runs, where that could surprise. The name is the server's word, and decides no more than that.

    Raises:
        FedhaError: The run is of another app, which would not understand this one's answers.
    """
    if asked[0] != bundle.NAME:
        raise FedhaError(
            f"this site takes no code from the server: it runs its own fedha, for runs of `fedha deploy run`, and not "
            f"{_called(asked)} with SHA-256 {digest}"
        )
    if digest != bundle.DIGEST:
        log(
            WARNING, "fedha: the run brings another app than this version's, SHA-256 %s; this site runs its own", digest
        )


def _called(asked: Iterable[str]) -> str:
    return " ".join(ascii(one[:100]) for one in asked)


def main() -> None:
    """Run a task.

    Raises:
        RuntimeError: This flwr has other steps, and would choose the code by itself.
    """
    steps = vars(run_clientapp)
    code = SiteCode(steps["pull_task_input"])
    for name in _REPLACED:
        if name not in steps:
            raise RuntimeError(f"flwr's run_clientapp has no {name}; install flwr 1.41")
        steps[name] = getattr(code, name)
    flwr_clientapp()
