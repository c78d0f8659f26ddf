"""A deployment's run has the bits of the simulation whatever is killed, stopped or silent meanwhile."""

import json
import os
import re
import signal

import pytest

from fedha.engine import sessions
from fedha.runs import runfolder
from tests.deploy.deployed import ERM, Deployed, Simulated, assert_same_run
from tests.deploy.running import Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

THREE_ROUNDS, FOUR_ROUNDS = ((*ERM, f"training.rounds={rounds}") for rounds in (3, 4))


def test_a_run_that_was_stopped_goes_on_and_a_client_that_ends_in_mid_round_is_waited_for(
    federation: Running, simulated: Simulated
) -> None:
    run = Deployed(federation, "stopped", *FOUR_ROUNDS)
    federation.wait_until("round 1", lambda: run.rounds >= 1)
    run.process.send_signal(signal.SIGINT)
    code, said = run.end()
    assert code == 130
    assert "continue with: fedha deploy resume" in said
    stopped = run.rounds
    again = Deployed(federation, "stopped", command="resume")
    federation.wait_until("a round after the stop", lambda: again.rounds > stopped)
    federation.end("south-node", signal.SIGKILL)
    federation.node_until_it_is_taken("south")
    code, said = again.end()
    assert code == 0, said
    assert_same_run(again.folder, simulated.run(*FOUR_ROUNDS), events=True)
    assert {(one["event"], one["client"]) for one in again.events()} == {
        (what, "client 1 (domain 'flip-0.2') at south") for what in ("missing", "returned")
    }
    assert "missing: client 1" in said


def test_a_superlink_and_a_server_process_that_are_killed_cost_no_bit(
    federation: Running, simulated: Simulated
) -> None:
    """The SuperLink comes back with its state; the server's process is sent again, from its checkpoint."""
    run = Deployed(federation, "killed", *THREE_ROUNDS)
    federation.wait_until("round 1", lambda: run.rounds >= 1)
    federation.end("superlink", signal.SIGKILL)
    federation.superlink()
    federation.wait_until("round 2", lambda: run.rounds >= 2)
    federation.end("server", signal.SIGKILL)
    federation.server()
    code, said = run.end()
    assert code == 0, said
    assert "the server's process was lost" in said
    assert re.search("goes on after round [123] of 3", " ".join(said.split()))
    assert_same_run(run.folder, simulated.run(*THREE_ROUNDS), events=True)


def test_a_client_that_is_too_slow_is_passed_over_and_comes_back(federation: Running) -> None:
    rules = ("federation.on_missing=skip", "federation.timeout=40", "federation.min_clients=2")
    run = Deployed(federation, "slow-client", *THREE_ROUNDS, *rules)
    federation.wait_until("round 1", lambda: run.rounds >= 1)
    app = federation.processes["west-app"].pid
    for pid in sessions.living([app]):
        os.kill(pid, signal.SIGSTOP)
    try:
        federation.wait_until("a round without it", lambda: any(one["event"] == "skipped" for one in run.events()))
    finally:
        for pid in sessions.living([app]):
            os.kill(pid, signal.SIGCONT)
    code, said = run.end()
    assert code == 0, said
    skipped = [one for one in run.events() if one["event"] == "skipped"]
    # a machine under load may be too slow for another one, too
    assert "client 2 (domain 'flip-0.1') at west" in {one["client"] for one in skipped}
    assert "skipped: client 2" in said
    clients = [json.loads(line)["clients"] for line in (run.folder / runfolder.METRICS).read_text().splitlines()]
    assert 2 in clients
    assert clients[0] == 3
