"""Sites with folders of images: each decodes its own, and the run has the bits of a simulation that sees them all."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedha import config as configs
from fedha.deploy import inventory
from fedha.deploy.create import Wanted, create
from fedha.deploy.locations import InitFolder
from fedha.features.keys import KEY_BYTES
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


FROZEN = CONFIG.replace(
    "model: {name: cnn, hidden: [4]}",
    "model: {name: timm, architecture: test_resnet, weights: none, frozen: true, hidden: [4]}",
).replace("rounds: 3, batch_size: 4", "rounds: 2")
EACH = 10  # images of each site


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Three sites, each with the folder of its own domain; west is its own master."""
    pytest.importorskip("timm")
    pytest.importorskip("torchvision.transforms.v2")
    place = tmp_path_factory.mktemp("images")
    images = image_folder(place / "images", (*DOMAINS, "clipart"))

    def fill(init_folder: InitFolder) -> None:
        for name, domain in zip(CLIENTS, DOMAINS, strict=True):
            (images / domain).rename(init_folder.site(name) / "data" / domain)

    create(place / "federation", Wanted(CLIENTS, (), 8443, 30), inventory.now(), US, {}, fill)
    (place / "logs").mkdir()
    running = Running(InitFolder(place / "federation"), place / "logs", CLIENTS)
    try:
        running.start()
        running.end("west-app")
        (place / "limits.yaml").write_text("cache_features: true\n")
        running.app("west", FEDHA_LIMITS=str(place / "limits.yaml"))
        yield running
    finally:
        running.stop()


def deployed(federation: Running, tmp_path: Path, text: str, *overrides: str) -> Path:
    """The folder of a run."""
    (tmp_path / "config.yaml").write_text(text)
    run = Deployed(federation, tmp_path.name, *overrides, config=tmp_path / "config.yaml")
    code, said = run.end()
    assert code == 0, said
    return run.folder


def simulated(tmp_path: Path, *overrides: str) -> Path:
    """The folder of the same run where one process sees all images."""
    whole = image_folder(tmp_path / "again", (*DOMAINS, "clipart"))
    config = configs.load(tmp_path / "config.yaml", [*overrides, f"data.root={whole}", "engine.name=inline"])
    execute(config, tmp_path / "simulated", Silent())
    return tmp_path / "simulated"


def kept(federation: Running, name: str) -> dict[Path, tuple[int, int]]:
    """The files of features that a site keeps: their rights, and how many rows they are."""
    files = (federation.init_folder.site(name) / "cache" / "features").glob("*/*.keys")
    return {one: (stat.S_IMODE(one.stat().st_mode), one.stat().st_size // KEY_BYTES) for one in files}


def test_each_site_decodes_its_own_and_the_run_is_the_simulations(federation: Running, tmp_path: Path) -> None:
    run = deployed(federation, tmp_path, CONFIG)
    assert (run / runfolder.MODEL).read_bytes() == (simulated(tmp_path) / runfolder.MODEL).read_bytes()


def test_a_site_keeps_views_of_a_frozen_backbone_where_its_own_file_allows_it(
    federation: Running, tmp_path: Path
) -> None:
    """What north may not keep it computes in each of its processes, to the same bits."""
    run = deployed(federation, tmp_path, FROZEN, "model.features.views=2")
    own = simulated(tmp_path, "model.features.views=2")
    assert (run / runfolder.MODEL).read_bytes() == (own / runfolder.MODEL).read_bytes()
    assert kept(federation, "north") == {}
    found = kept(federation, "west")
    assert {rights for rights, _ in found.values()} == {0o600}
    assert sum(rows for _, rows in found.values()) == EACH + 2 * 8  # 8 of its 10 are trained on


def test_secure_sums_and_protected_examples_take_the_features_that_a_site_keeps(
    federation: Running, tmp_path: Path
) -> None:
    """The case that matters in practice: a frozen public backbone, and what is behind it trained with noise."""
    still = ("data.augment=none", "recipe=erm", "training.rounds=1")
    secure = ("privacy.secure_aggregation=true", "privacy.minimum=3")
    (tmp_path / "secure").mkdir()
    run = deployed(federation, tmp_path / "secure", FROZEN, *still, *secure)
    own = simulated(tmp_path / "secure", *still, *secure)
    assert (run / runfolder.MODEL).read_bytes() == (own / runfolder.MODEL).read_bytes()
    before = kept(federation, "west")
    assert sum(rows for _, rows in before.values()) >= EACH

    pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')
    noisy = ("privacy.protect=examples", "privacy.noise_multiplier=4.0", "privacy.delta=1e-3")
    (tmp_path / "private").mkdir()
    run = deployed(federation, tmp_path / "private", FROZEN, *still, *noisy, *secure)
    assert runfolder.read_results(run)["privacy"]["noise"].startswith("cryptographic")
    assert kept(federation, "west") == before  # nothing is computed again
