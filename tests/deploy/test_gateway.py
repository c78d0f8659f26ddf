"""The gateway between sites and server, with a real SuperLink, a real nginx and real SuperNodes on loopback."""

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

from fedha.cli.commands import app
from fedha.cli.exits import exit_code
from fedha.deploy import change, control, healthy, inventory, locations
from fedha.deploy.certificates import authority_pem, make_authority, make_identity
from fedha.deploy.locations import InitFolder
from fedha.errors import FedhaError
from tests.deploy.federations import CLIENTS, US, make
from tests.deploy.running import SCRIPTS, Running, free_port

START = Path(__file__).resolve().parents[2] / "server" / "proxy" / "start.py"
NEEDED = {
    *("activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages"),
    *("get-run", "get-fab", "pull-object", "push-object", "confirm-message-received"),
}
# Nodes with a key of their own that the server knows neither register nor unregister themselves.
NOT_NEEDED = {"register-node", "unregister-node"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx, from Debian's package of that name"),
]


@dataclass
class Gateway:
    """A SuperLink with a proxy in front of it.

    Attributes:
        folder: The federation's.
        running: The SuperLink.
        port: The proxy's.
        said: What the proxy has said so far.
    """

    folder: Path
    running: Running
    port: int
    said: Callable[[], str]

    def ask(self, method: str, path: str, port: int | None = None, body: bytes = b"") -> tuple[int, bytes]:
        """The answer's status and body; of the proxy, or of the SuperLink itself where its port is given."""
        context = ssl.create_default_context(cafile=str(locations.find(self.folder).trusted))
        connection = http.client.HTTPSConnection("127.0.0.1", port or self.port, context=context, timeout=30)
        try:
            connection.request(method, path, body, {"content-type": PROTOBUF_MEDIA_TYPE})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def start_proxy(secrets: Path, superlink: str, port: int, folder: Path) -> "subprocess.Popen[bytes]":
    environment = {"LISTEN": f"127.0.0.1:{port}", "SUPERLINK": superlink, "SECRETS": str(secrets)}
    environment |= {"FOLDER": str(folder / "nginx"), "RESOLVER": "127.0.0.1", "PATH": os.environ["PATH"]}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, START], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def wait_for(url: str, trusted: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while not answers(url, trusted):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str, trusted: Path) -> bool:
    try:
        healthy.check([url], str(trusted))
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    base = tmp_path_factory.mktemp("gateway")
    folder, logs = base / "fed", base / "logs"
    logs.mkdir()
    make(folder, now=inventory.now())
    running = Running(InitFolder(folder), logs, CLIENTS)
    open_to_workers = Path(tempfile.mkdtemp(prefix="fedha-proxy-"))  # nginx's workers may be another user than root
    open_to_workers.chmod(0o755)
    trusted, port = folder / "ca" / "ca.crt", free_port()
    try:
        running.superlink()
        proxy = start_proxy(folder / "server" / "secrets", running.address, port, open_to_workers)
        try:
            superlink = running.processes["superlink"]
            wait_for(f"https://{running.address}/health", trusted, superlink, logs / "superlink.log")
            wait_for(f"https://127.0.0.1:{port}/health", trusted, proxy, open_to_workers / "log")
            yield Gateway(folder, running, port, (open_to_workers / "log").read_text)
        finally:
            proxy.terminate()
            proxy.wait()
    finally:
        running.stop()
        shutil.rmtree(open_to_workers)


@pytest.fixture(scope="module")
def routes(gateway: Gateway) -> set[str]:
    """Every path that this SuperLink serves."""
    status, body = gateway.ask("GET", "/openapi.json", gateway.running.port)
    assert status == 200
    return set(json.loads(body)["paths"])


def test_every_route_that_a_node_needs_is_passed_on_and_no_other(gateway: Gateway, routes: set[str]) -> None:
    fleet = {route for route in routes if route.startswith("/v1/fleet/")}
    assert fleet == {f"/v1/fleet/{name}" for name in NEEDED | NOT_NEEDED}
    assert sum(route.startswith("/v1/control/") for route in routes) > 30
    assert sum(route.startswith("/v1/runtime/") for route in routes) > 10
    for route in sorted(routes - {"/health"}):
        through = gateway.ask("POST", route)
        if route.removeprefix("/v1/fleet/") in NEEDED:
            assert through == gateway.ask("POST", route, gateway.running.port), route
            assert through[0] == 401, route  # the SuperLink's own word: no signature
        else:
            assert through[0] == 404, route
            assert b"nginx" in through[1], route


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/..%2fcontrol/list-nodes",
        "/v1/fleet/%2e%2e/control/list-nodes",
        "/v1/fleet/pull-messages/../../control/list-nodes",
        "/v1/fleet/pull-messages%2f..%2f..%2fcontrol/list-nodes",
        "/v1/fleet/pull-messages/..;/..;/control/list-nodes",
        "/v1/fleet/pull-messages%00/../../control/list-nodes",
        "/v1/fleet//../control/list-nodes",
        "//v1/control/list-nodes",
        "/./v1/control/list-nodes",
        "/v1/control/list-nodes?/v1/fleet/pull-messages",
        "/v1/control/list-nodes#/v1/fleet/pull-messages",
        "/V1/CONTROL/LIST-NODES",
        "/v1/control%2flist-nodes",
        "https://superlink:8000/v1/control/list-nodes",
        "/docs",
        "/fedha/troubles",
        "/openapi.json",
        "/",
    ],
)
def test_no_spelling_of_a_path_leads_to_control(gateway: Gateway, path: str) -> None:
    before = gateway.running.said("superlink").count("list-nodes")
    assert gateway.ask("POST", path)[0] in {400, 404}
    assert gateway.running.said("superlink").count("list-nodes") == before


def test_a_path_that_only_ends_at_a_needed_route_is_passed_on_as_that_route_alone(gateway: Gateway) -> None:
    assert gateway.ask("POST", "/v1/control/list-nodes/../../fleet/pull-messages?x=1")[0] == 401
    last = [line for line in gateway.running.said("superlink").splitlines() if "uvicorn.access" in line][-1]
    assert '"POST /v1/fleet/pull-messages HTTP' in last


def test_what_needs_no_answer_gets_none(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/v1/fleet/pull-messages")[0] == 403
    assert gateway.ask("POST", "/health")[0] == 403
    assert gateway.ask("GET", "/health")[0] == 200


def test_a_piece_of_a_model_passes_and_a_flood_does_not(gateway: Gateway) -> None:
    assert gateway.ask("POST", "/v1/fleet/push-object", body=b"x" * 6 * 2**20)[0] in {400, 401}
    assert gateway.ask("POST", "/v1/fleet/push-object", body=b"x" * 17 * 2**20)[0] == 413


def test_what_was_refused_is_written_down_with_who_asked(gateway: Gateway) -> None:
    assert gateway.ask("POST", "/v1/control/start-run")[0] == 404
    assert any("127.0.0.1 404" in line and "/v1/control/start-run" in line for line in gateway.said().splitlines())
    assert gateway.ask("GET", "/health")[0] == 200
    assert '"GET /health' not in gateway.said()


def test_old_protocols_are_refused(gateway: Gateway) -> None:
    context = ssl.create_default_context(cafile=str(locations.find(gateway.folder).trusted))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    connection = http.client.HTTPSConnection("127.0.0.1", gateway.port, context=context, timeout=30)
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        connection.request("GET", "/health")
    connection.close()


def test_the_proxy_speaks_with_no_superlink_but_the_federations(gateway: Gateway, tmp_path: Path) -> None:
    """It trusts the authority, not the address: behind it another one's certificate is as good as none."""
    secrets = tmp_path / "secrets"
    shutil.copytree(gateway.folder / "server" / "secrets", secrets)
    (secrets / "ca.crt").write_bytes(authority_pem(make_authority(inventory.now()))[0])
    port = free_port()
    process = start_proxy(secrets, gateway.running.address, port, tmp_path)
    try:
        deadline = time.monotonic() + 60
        while not listens(port):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert gateway.ask("GET", "/health", port)[0] == 502
    finally:
        process.terminate()
        process.wait()


# --- registered or not ---


def register(gateway: Gateway) -> str:
    """What `fedha deploy register` says."""
    done = subprocess.run(
        [SCRIPTS / "fedha", "deploy", "register", "--to", gateway.folder, "--address", gateway.running.address],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Started:
    """A SuperNode that tries to join through the proxy."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def outcome(self) -> str:
        """Its log, as soon as it has joined or given up; it is then ended."""
        deadline = time.monotonic() + 120
        while self.process.poll() is None and "SuperNode ID" not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        self.process.terminate()
        self.process.wait(timeout=60)
        return self.log.read_text()


def start_node(gateway: Gateway, folder: Path, *options: object) -> Started:
    folder.mkdir()
    log = folder / "log"
    command = [SCRIPTS / "flower-supernode", "--superlink", f"127.0.0.1:{gateway.port}", "--isolation", "process"]
    command += ["--port", free_port(), "--max-retries", 2, *options]
    environment = os.environ | {"FLWR_HOME": str(folder / "home")}
    with log.open("ab") as file:
        process = subprocess.Popen(
            [str(word) for word in command], env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    return Started(process, log)


def test_who_is_registered_joins_and_nobody_else(gateway: Gateway, tmp_path: Path) -> None:
    assert register(gateway).count("registered as node") == 3
    assert register(gateway).count("known already") == 3
    secrets = gateway.folder / "clients" / "north" / "secrets"
    (tmp_path / "stranger").write_bytes(make_identity("stranger").private)
    (tmp_path / "other.crt").write_bytes(authority_pem(make_authority(inventory.now()))[0])
    trusting = ("--root-certificates", secrets / "ca.crt")
    known = ("--auth-supernode-private-key", secrets / "client.key")
    nodes = {  # all at once: each takes seconds to start
        "registered": start_node(gateway, tmp_path / "a", *trusting, *known),
        "stranger": start_node(
            gateway, tmp_path / "b", *trusting, "--auth-supernode-private-key", tmp_path / "stranger"
        ),
        "keyless": start_node(gateway, tmp_path / "c", *trusting),
        "without CA": start_node(gateway, tmp_path / "d", *known),
        "other CA": start_node(gateway, tmp_path / "e", "--root-certificates", tmp_path / "other.crt", *known),
        "no TLS": start_node(gateway, tmp_path / "f", "--insecure"),
    }
    outcomes = {name: node.outcome() for name, node in nodes.items()}
    assert {name for name, said in outcomes.items() if "SuperNode ID" in said} == {"registered"}
    assert "[code: 2004]" in outcomes["stranger"]
    assert "404" in outcomes["keyless"]
    assert "CERTIFICATE_VERIFY_FAILED" in outcomes["without CA"]
    assert "CERTIFICATE_VERIFY_FAILED" in outcomes["other CA"]
    assert "400" in outcomes["no TLS"]


def test_a_key_that_was_replaced_is_refused_for_ever(gateway: Gateway, tmp_path: Path) -> None:
    register(gateway)
    secrets = gateway.folder / "clients" / "south" / "secrets"
    shutil.copytree(secrets, tmp_path / "former")
    change.rotate_client(gateway.folder, "south", inventory.now(), US)
    said = register(gateway)
    assert "south: former key refused from now on" in said
    assert "south: registered as node" in said
    nodes = {
        place: start_node(
            gateway,
            tmp_path / place,
            *("--root-certificates", secrets / "ca.crt", "--auth-supernode-private-key", key),
        )
        for place, key in {"new": secrets / "client.key", "old": tmp_path / "former" / "client.key"}.items()
    }
    outcomes = {name: node.outcome() for name, node in nodes.items()}
    assert "SuperNode ID" in outcomes["new"]
    assert "SuperNode ID" not in outcomes["old"]
    assert "[code: 2004]" in outcomes["old"]


def test_the_control_api_is_asked_only_where_its_certificate_is_the_federations(
    gateway: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "other.crt").write_bytes(authority_pem(make_authority(inventory.now()))[0])
    with (
        control.connect(gateway.running.address, tmp_path / "other.crt") as connection,
        pytest.raises(FedhaError, match="authority did not sign"),
    ):
        connection.nodes()


def test_through_the_proxy_nobody_registers(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["deploy", "register", "--to", str(gateway.folder), "--address", f"127.0.0.1:{gateway.port}"]
    assert exit_code(lambda **settings: app(words, **settings)) == 2
    assert "refuses: status 404" in capsys.readouterr().err


def test_a_superlink_that_is_not_there_is_waited_for_and_then_a_sentence(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "deploy",
        "register",
        "--to",
        str(gateway.folder),
        "--address",
        f"127.0.0.1:{free_port()}",
        "--wait",
        "1.5",
    ]
    begun = time.monotonic()
    assert exit_code(lambda **settings: app(words, **settings)) == 2
    assert time.monotonic() - begun > 1.5
    assert "no SuperLink answers at 127.0.0.1" in capsys.readouterr().err


def test_the_health_check_tells_the_federations_server_from_any_other(gateway: Gateway, tmp_path: Path) -> None:
    trusted = str(locations.find(gateway.folder).trusted)
    healthy.check([f"https://127.0.0.1:{gateway.port}/health", f"https://{gateway.running.address}/health"], trusted)
    (tmp_path / "other.crt").write_bytes(authority_pem(make_authority(inventory.now()))[0])
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        healthy.check([f"https://127.0.0.1:{gateway.port}/health"], str(tmp_path / "other.crt"))
    with pytest.raises(OSError, match="404"):
        healthy.check([f"https://127.0.0.1:{gateway.port}/v1/control/list-nodes"], trusted)
    with pytest.raises(OSError, match="refused"):
        healthy.check([f"https://127.0.0.1:{free_port()}/health"], trusted)
