"""A SuperLink and a SuperExec of our own: started for one run, reached by Flower's command line, gone afterwards.

`flwr run` would start a SuperLink by itself, leave it running, and write into the user's ~/.flwr. These two have their
own port and home, and lead a session each. Whatever they start, Ray included, stays in the second one's session, so
that everything can be ended by numbers that we know.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from fedha.engine import sessions
from fedha.errors import FedhaError

START_SECONDS = 180.0  # a loaded machine takes ten times as long as an idle one
_HOST = "127.0.0.1"
_CONNECTION = "fedha"


@dataclass(frozen=True)
class LocalFlower:
    """Flower's processes on this machine.

    Attributes:
        folder: Holds Flower's home, Ray's files and the logs.
        environment: Of every process.
        processes: Those we started, each the leader of a session.
    """

    folder: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        """Start a process that ends with us; what it says goes to ``<name>.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)
        return process

    def log(self, name: str) -> str:
        """What a process has said so far."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def ask(self, *command: str | Path) -> dict[str, Any]:
        """Run one of flwr's commands and read its answer.

        Raises:
            FedhaError: It failed.
        """
        words = ["flwr", *command, _CONNECTION, "--format", "json"]
        try:
            done = subprocess.run(
                words, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=START_SECONDS
            )
            answer = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            raise FedhaError(f"`flwr {command[0]}` gave no answer within {START_SECONDS:g} s") from None
        except ValueError:
            answer = {"error-message": " ".join((done.stderr or done.stdout).decode(errors="replace").split())}
        if not answer.get("success"):
            raise FedhaError(f"`flwr {command[0]}` failed: {answer.get('error-message') or done.returncode}")
        return dict(answer)


@contextmanager
def local_flower(folder: Path) -> Iterator[LocalFlower]:
    """Flower's processes for as long as the block lasts, however it ends.

    Args:
        folder: An empty one, which will be removed. Its path is short: Ray puts sockets there, whose paths have at most
            103 characters.

    Raises:
        FedhaError: They cannot be started.
    """
    port = _free_port()
    flower = LocalFlower(folder, environment(folder))
    home = Path(flower.environment["FLWR_HOME"])
    home.mkdir()
    connection = f'default = "{_CONNECTION}"\n[superlink.{_CONNECTION}]\naddress = "{_HOST}:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(f"[superlink]\n{connection}", encoding="utf-8")
    superlink = ("--insecure", "--simulation", "--isolation", "process", "--host", _HOST, "--port", str(port))
    try:
        flower.start("superlink", ["flower-superlink", *superlink])
        flower.start("superexec", ["flower-superexec", "--insecure", "--runtime-api-address", f"{_HOST}:{port}"])
        with sessions.guard(folder, [process.pid for process in flower.processes]):
            _wait_for_health(flower, port)
            yield flower
    finally:
        sessions.end([process.pid for process in flower.processes])
        for process in flower.processes:
            process.wait()


def environment(folder: Path) -> dict[str, str]:
    """Ours, without telemetry, downloads and proxies, and with Flower's commands on the path."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    direct = ",".join(filter(None, (_HOST, "localhost", environment.get("NO_PROXY") or environment.get("no_proxy"))))
    environment |= {
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
        "FLWR_TELEMETRY_ENABLED": "0",
        "NO_PROXY": direct,
        "no_proxy": direct,
        "PATH": os.pathsep.join((sysconfig.get_path("scripts"), environment.get("PATH", os.defpath))),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    for command in ("flwr", "flower-superlink", "flower-superexec", "flwr-simulation"):
        if shutil.which(command, path=environment["PATH"]) is None:
            raise FedhaError(
                f"Flower's command {command} is not on the path; "
                f"add the folder where pip put it to PATH, or reinstall fedha into the environment of {sys.executable}"
            )
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _wait_for_health(flower: LocalFlower, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _is_healthy(port):
        for process, name in zip(flower.processes, ("superlink", "superexec"), strict=True):
            if process.poll() is not None:
                last = (flower.log(name).strip().splitlines() or ["it said nothing"])[-1]
                raise FedhaError(f"Flower's {name} stopped at its start with status {process.returncode}: {last}")
        if time.monotonic() > deadline:
            raise FedhaError(f"Flower's SuperLink did not start within {START_SECONDS:g} s; is the machine overloaded?")
        time.sleep(0.1)


def _is_healthy(port: int) -> bool:
    connection = HTTPConnection(_HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
