"""What tests of running deployments share: one federation for those of a file, and runs to compare with."""

from collections.abc import Iterator

import pytest

from fedha import config as configs
from fedha.deploy import demo, inventory
from fedha.deploy.create import Wanted, create
from fedha.deploy.locations import InitFolder
from tests.deploy.deployed import CONFIG, Simulated
from tests.deploy.federations import CLIENTS, US
from tests.deploy.running import Running


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, logs = tmp_path_factory.mktemp("made") / "federation", tmp_path_factory.mktemp("logs")
    create(
        folder,
        Wanted(CLIENTS, (), 8443, 30),
        inventory.now(),
        US,
        {},
        lambda init_folder: demo.fill(init_folder, CLIENTS, configs.load(CONFIG)),
    )
    running = Running(InitFolder(folder), logs, CLIENTS)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """The same runs in one process."""
    return Simulated(tmp_path_factory.mktemp("simulated"))
