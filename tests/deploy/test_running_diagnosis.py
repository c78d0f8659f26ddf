"""A deployment in real processes, three sites that train and one that volunteers: its diagnosis is the simulation's."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedha.cli.commands import app
from fedha.cli.exits import exit_code
from fedha.deploy import inventory
from fedha.deploy.create import Wanted, create
from fedha.deploy.locations import InitFolder
from fedha.run import execute
from fedha.runs.listener import Silent
from tests.deploy.deployed import Deployed
from tests.deploy.federations import US
from tests.deploy.running import Running
from tests.deploy.volunteers import SITES, WORDS, agree, experiment, simulated, write_config, write_data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def federation(tmp_path: Path) -> Any:
    folder, logs = tmp_path / "federation", tmp_path / "logs"
    logs.mkdir()
    create(folder, Wanted(tuple(SITES), (), 8443, 30), inventory.now(), US, {})
    running = Running(InitFolder(folder), logs, tuple(SITES))
    for name, domain in SITES.items():
        site = running.init_folder.site(name)
        write_data(site / "data", domain)
        agree(site, experiment(), WORDS[name])
    try:
        running.superlink()
        running.server()
        running.register()
        for name in SITES:
            running.node(name)
            running.app(name, FEDHA_CONTRACTS=str(running.init_folder.site(name) / "contracts"))
        yield running
    finally:
        running.stop()


def diagnosed(federation: Running, run: Path, *options: str) -> tuple[int, str]:
    there = ["--to", str(federation.init_folder.folder), "--address", federation.address]
    done = subprocess.run(
        [sys.executable, "-m", "fedha", "deploy", "diagnose", str(run), *there, *options],
        capture_output=True,
        text=True,
        timeout=1500,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_diagnosis_over_supernodes_is_the_simulations(federation: Running, tmp_path: Path) -> None:
    config = write_config(tmp_path / "lent.yaml", experiment())
    run = Deployed(federation, "run", config=config)
    code, said = run.end()
    assert code == 0, said
    assert "site 'lender' has no part in this run" in said
    place = tmp_path / "simulated"
    execute(simulated(experiment(), tmp_path / "all"), place, Silent())
    assert (run.folder / "model.safetensors").read_bytes() == (place / "model.safetensors").read_bytes()

    code, said = diagnosed(federation, run.folder, "--radius", "0.3", "--target", "t")
    assert code == 0, said
    assert "measured, at least" in said
    arguments = ["diagnose", str(place), "--radius", "0.3", "--rows", "transfer,curvature", "--to", "t", "-q"]
    assert exit_code(lambda **settings: app(arguments, **settings)) == 0
    one, other = (json.loads((folder / "diagnosis.json").read_text()) for folder in (run.folder, place))
    for part in ("domains", "transfer", "curvature"):
        assert one[part] == other[part]
    assert "Diagnosis" in (run.folder / "report.html").read_text()
    (book,) = (federation.init_folder.site("lender") / "cache" / "contracts").glob("*-3.json")
    told = json.loads(book.read_text())
    assert told["latest"] == {}
    assert told["asked"]["heads"] > 0

    agree(federation.init_folder.site("south"), experiment(), {})  # its people take back what they allowed
    code, said = diagnosed(federation, run.folder, "--rows", "curvature")
    assert code == 2
    assert "no diagnosis: the site's file has diagnose: 0" in said
