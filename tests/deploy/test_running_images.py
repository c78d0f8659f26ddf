"""Sites with folders of images: each decodes its own, and the run has the bits of a simulation that sees them all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedha import config as configs
from fedha.deploy import inventory
from fedha.deploy.create import Wanted, create
from fedha.deploy.locations import InitFolder
from fedha.run import execute
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.data.image_folders import image_folder
from tests.deploy.deployed import Deployed
from tests.deploy.federations import CLIENTS, US
from tests.deploy.running import Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DOMAINS = ("art", "photo", "sketch")
CONFIG = """
data:
  name: folder
  sources: [art, photo, sketch]
  target: clipart
  class_names: [cat, dog]
  size: 8
  channels: 3
  augment: domainbed
model: {name: cnn, hidden: [4]}
recipe: [exact_diagonal]
seed: 0
training: {mode: synchronous, rounds: 3, batch_size: 4}
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """All domains, as nobody but a simulation has them."""
    return image_folder(tmp_path / "images", (*DOMAINS, "clipart"))


@pytest.fixture
def federation(tmp_path: Path, images: Path) -> Iterator[Running]:
    """Three sites, each with the folder of its own domain."""

    def fill(init_folder: InitFolder) -> None:
        for name, domain in zip(CLIENTS, DOMAINS, strict=True):
            (images / domain).rename(init_folder.site(name) / "data" / domain)

    create(tmp_path / "federation", Wanted(CLIENTS, (), 8443, 30), inventory.now(), US, {}, fill)
    (tmp_path / "logs").mkdir()
    running = Running(InitFolder(tmp_path / "federation"), tmp_path / "logs", CLIENTS)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def test_each_site_decodes_its_own_and_the_run_is_the_simulations(federation: Running, tmp_path: Path) -> None:
    pytest.importorskip("torchvision.transforms.v2")
    (tmp_path / "config.yaml").write_text(CONFIG)
    run = Deployed(federation, "images", config=tmp_path / "config.yaml")
    code, said = run.end()
    assert code == 0, said
    whole = image_folder(tmp_path / "again", (*DOMAINS, "clipart"))
    config = configs.load(tmp_path / "config.yaml", [f"data.root={whole}", "engine.name=inline"])
    execute(config, tmp_path / "simulated", Silent())
    models = [(folder / runfolder.MODEL).read_bytes() for folder in (run.folder, tmp_path / "simulated")]
    assert models[0] == models[1]
