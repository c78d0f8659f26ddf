"""A site's node, as a real process, through what happens between it and the server."""

import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedha.deploy import control, healthy, inventory, troubles
from fedha.deploy.certificates import authority_pem, make_authority, make_identity
from fedha.deploy.locations import InitFolder
from tests.deploy.federations import make
from tests.deploy.running import Running

SITES = ("north", "south")
FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A SuperLink that knows two sites, and north's node."""
    base = tmp_path_factory.mktemp("site")
    (base / "logs").mkdir()
    make(base / "fed", SITES, now=inventory.now())
    running = Running(InitFolder(base / "fed"), base / "logs", SITES)
    try:
        running.superlink()
        running.register()
        running.node("north")
        running.wait_until("north joined", lambda: joined(running, "north") == 1)
        yield running
    finally:
        running.stop()


def joined(running: Running, name: str) -> int:
    return running.said(f"{name}-node").count("SuperNode ID")


def complains(running: Running, words: str) -> Callable[[], bool]:
    """Whether the SuperLink tells an operator of this."""
    trusted = running.init_folder.authority[0]
    return lambda: any(words in one for one in troubles.ask(running.address, trusted))


def test_a_foreign_certificate_at_the_servers_address_does_not_end_a_site(federation: Running, tmp_path: Path) -> None:
    certificate, key = authority_pem(make_authority(inventory.now()))
    (tmp_path / "other.pem").write_bytes(certificate + key)
    federation.end("superlink")
    stranger = subprocess.Popen(
        ["openssl", "s_server", "-accept", f"127.0.0.1:{federation.port}", "-cert", tmp_path / "other.pem", "-quiet"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        told = "no certificate of this federation's server"
        federation.wait_until("north saw it", lambda: told in federation.said("north-node"), 60)
        tries = federation.said("north-node").count("retrying in")
        federation.wait_until(
            "north asked on", lambda: federation.said("north-node").count("retrying in") >= tries + 2, 60
        )
    finally:
        stranger.kill()
        stranger.wait()
    with pytest.raises(OSError, match="minutes ago"):
        healthy.check_connected(federation.connected("north"), time.time() + 200)
    federation.connected("north").unlink()
    federation.superlink()
    federation.wait_until("north is answered", federation.connected("north").exists, 60)
    healthy.check_connected(federation.connected("north"), time.time())
    assert joined(federation, "north") == 1


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime, from Debian's package faketime")
def test_a_clock_that_is_off_is_named_at_the_site_and_at_the_server(federation: Running) -> None:
    federation.node("south", LD_PRELOAD=str(FAKETIME), FAKETIME="-10m")
    try:
        said = "the clock of this machine is 10 minutes behind the server's"
        federation.wait_until("the site's log says so", lambda: said in federation.said("south-node"))
        wanted = "the clock of south is 10 minutes behind the server's"
        federation.wait_until("the server says so", complains(federation, wanted), 30)
        assert wanted in federation.said("superlink")
        with pytest.raises(OSError, match="not answered this node yet"):
            healthy.check_connected(federation.connected("south"), time.time())
    finally:
        federation.end("south-node")


def test_a_state_that_cannot_be_written_is_named_and_everything_goes_on_afterwards(
    federation: Running, tmp_path: Path
) -> None:
    (tmp_path / "east.pub").write_bytes(make_identity("east").public)
    pid, before = federation.processes["superlink"].pid, joined(federation, "north")
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        federation.wait_until("the server says so", complains(federation, "cannot write its state"), 60)
        with (
            control.connect(federation.address, federation.init_folder.authority[0]) as superlink,
            pytest.raises(control.UnreachableError, match=r"cannot write its state .*state\.db: disk I/O error"),
        ):
            superlink.register("east", control.public_key(tmp_path / "east.pub"))
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    federation.connected("north").unlink()
    federation.wait_until("north is answered", federation.connected("north").exists, 60)
    assert joined(federation, "north") == before


def test_a_node_ends_with_what_keeps_it_and_at_once_where_it_is_asked_to(federation: Running) -> None:
    federation.node("south")
    federation.wait_until("south joined", lambda: joined(federation, "south") == 1)
    ended = federation.said("south-node").count("terminated gracefully")
    keeper = federation.processes["south-node"]
    keeper.send_signal(signal.SIGKILL)
    keeper.wait()
    federation.wait_until(
        "its node ended", lambda: federation.said("south-node").count("terminated gracefully") > ended, 30
    )
    federation.node("south")
    federation.wait_until("south is back", lambda: joined(federation, "south") == 2)
    keeper = federation.processes.pop("south-node")
    keeper.terminate()
    assert keeper.wait(timeout=30) == 0
    assert federation.said("south-node").count("terminated gracefully") == ended + 2
