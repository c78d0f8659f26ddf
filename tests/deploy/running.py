"""A federation's real processes on loopback: SuperLink, ServerApp, SuperNodes, ClientApps, with TLS and identities."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedha.deploy.locations import InitFolder
from fedha.engine import sessions
from tests import forked

SCRIPTS = Path(sysconfig.get_path("scripts"))
# Seconds between looks for work, each of which takes milliseconds of two processes' time: for tasks, for messages
LOOK, NODE_LOOK = "0.25", "0.5"


def free_port() -> int:
    """A port that nobody listens at; below those that systems give to connections, which could take it before we do."""
    while True:
        port = random.SystemRandom().choice(range(10_000, 32_000))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class Running:
    """The processes of one federation; each leads a session of its own.

    Attributes:
        init_folder: The folder that `fedha deploy init` made.
        logs: Where each process writes what it says.
        clients: Names, in client order.
        port: The SuperLink's.
        processes: By name.
    """

    init_folder: InitFolder
    logs: Path
    clients: Sequence[str]
    port: int = field(default_factory=free_port)
    node_ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Everything; keys first, for a node whose key is not known ends, and here nobody starts it again."""
        self.superlink()
        self.server()
        self.register()
        for name in self.clients:
            self.node(name)
            self.app(name)

    def register(self) -> None:
        """Make the sites' keys known."""
        words = ("deploy", "register", "--to", self.init_folder.folder, "--address", self.address)
        program = forked.start(*words, **self._environment("register"))
        said, _ = program.communicate()
        assert program.returncode == 0, said

    def superlink(self) -> None:
        secrets = self.init_folder.server / "secrets"
        self._run(
            "superlink",
            sys.executable,
            *("-m", "fedha.deploy.superlink"),
            *("--host", "127.0.0.1", "--port", self.port, "--isolation", "process", "--enable-supernode-auth"),
            *(
                "--database",
                self.init_folder.server / "state" / "state.db",
                "--disable-runtime-dependency-installation",
            ),
            *("--ssl-ca-certfile", secrets / "ca.crt", "--ssl-certfile", secrets / "server.crt"),
            *("--ssl-keyfile", secrets / "server.key", "--superexec-auth-secret-file", secrets / "superexec.secret"),
        )

    def server(self) -> None:
        """The SuperExec that starts ServerApps."""
        secrets = self.init_folder.server / "secrets"
        self._run("server", sys.executable, *self._executor(self.port, secrets), FEDHA_RUNS=str(self.runs))

    def connected(self, name: str) -> Path:
        """The file that a site's SuperNode touches while it is connected."""
        return self.logs / f"{name}-connected"

    def node(self, name: str, superlink: str = "", **environment: str) -> None:
        """A site's SuperNode; `superlink`: where it finds the server, if not at its own address."""
        secrets, place = self.init_folder.site(name) / "secrets", list(self.clients).index(name)
        port = self.node_ports.setdefault(name, free_port())
        self._run(
            f"{name}-node",
            sys.executable,
            *("-m", "fedha.deploy.node", f"--connected={self.connected(name)}"),
            *("--superlink", superlink or self.address, "--root-certificates", secrets / "ca.crt"),
            *("--auth-supernode-private-key", secrets / "client.key", "--isolation", "process"),
            *("--host", "127.0.0.1", "--port", port, "--ssl-ca-certfile", secrets / "ca.crt"),
            *("--ssl-certfile", secrets / "node.crt", "--ssl-keyfile", secrets / "node.key"),
            *("--superexec-auth-secret-file", secrets / "superexec.secret"),
            *("--node-config", f'partition-id={place} name="{name}"'),
            **environment,
        )

    def node_until_it_is_taken(self, name: str, seconds: float = 180) -> None:
        """A SuperNode that was killed is refused for as long as its lease runs, and comes again and again."""
        joined = self.said(f"{name}-node").count("SuperNode ID")
        self.node(name)
        self.wait_until(
            f"{name} was taken back", lambda: self.said(f"{name}-node").count("SuperNode ID") > joined, seconds
        )

    def app(self, name: str, **environment: str) -> None:
        """The SuperExec that starts a site's ClientApps, with what the site says for itself in its environment."""
        site = self.init_folder.site(name)
        data = {"FEDHA_DATA": str(site / "data"), "FEDHA_CACHE": str(site / "cache")}
        data |= {"FEDHA_SIGNING_KEY": str(site / "secrets" / "signing.key"), "FEDHA_ROSTER": str(site / "roster.json")}
        data |= {"FEDHA_ACCEPTED": str(site / "accepted.txt")}
        executor = self._executor(self.node_ports[name], site / "secrets", "fedha.deploy.launcher")
        self._run(f"{name}-app", sys.executable, *executor, **data, **environment)

    @property
    def runs(self) -> Path:
        return self.init_folder.server / "runs"

    def end(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a process with all that it started: its session."""
        process = self.processes.pop(name)
        for pid in sessions.living([process.pid]):
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself, as those of a session do
                os.kill(pid, how)
        process.wait(timeout=60)
        sessions.end([process.pid])

    def stop(self) -> None:
        """End all; clients before the server, which would else keep them on its list for a minute."""
        nodes = [process.pid for name, process in self.processes.items() if name.endswith("-node")]
        sessions.end(nodes)
        sessions.end([process.pid for process in self.processes.values()])
        for process in self.processes.values():
            process.wait()

    def said(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def wait_until(self, what: str, condition: "object", seconds: float = 300) -> None:
        """Wait for something that another process does."""
        deadline = time.monotonic() + seconds
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
            for name, process in self.processes.items():
                assert process.poll() is None or name.endswith("-node"), f"{name} ended: {self.said(name)[-2000:]}"
            time.sleep(0.1)

    def _executor(self, port: int, secrets: Path, module: str = "fedha.deploy.executor") -> tuple[object, ...]:
        return (
            *("-m", module),
            *("--runtime-api-address", f"127.0.0.1:{port}", "--root-certificates", secrets / "ca.crt"),
            *("--superexec-auth-secret-file", secrets / "superexec.secret"),
        )

    def _run(self, name: str, command: str, *arguments: object, **environment: str) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(SCRIPTS / command), *map(str, arguments)],
                env=self._environment(name) | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _environment(self, name: str) -> dict[str, str]:
        home = self.logs / f"{name}-home"
        home.mkdir(exist_ok=True)
        return os.environ | {
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FEDHA_TESTS_PAUSE": NODE_LOOK,
            "FLWR_HOME": str(home),
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": LOOK,
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": os.pathsep.join((str(SCRIPTS), os.environ.get("PATH", os.defpath))),
        }
