"""A site that lends its data to diagnoses: they are the simulation's, and runs never notice that it is there."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedha.config import Config, to_json
from fedha.deploy import apps
from fedha.deploy.agreements import read
from fedha.diagnosis import record
from fedha.diagnosis.diagnose import diagnose
from fedha.diagnosis.settings import Asked, Settings
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.flower.client import register
from fedha.flower.job import Job
from fedha.flower.serve import load_domains, serve
from fedha.loading import load
from fedha.run import execute
from fedha.runs.listener import Silent
from tests.deploy.volunteers import ANY, SITES, WORDS, agree, experiment, simulated, write_data

ROWS = ("transfer", "curvature")


class Sites:
    """A federation's sites in one process: each message finds its site's environment, and a process that knows nothing.

    Args:
        place: Where their folders are.
        config: What they agreed to.
        words: Of each site, its own.
    """

    def __init__(self, place: Path, config: Config, words: Any = WORDS) -> None:
        self.place, self.config, self.names = place, config, list(words)
        for name in self.names:
            write_data(place / name / "data", SITES[name])
            agree(place / name, config, words[name])

    def grid(self, monkeypatch: pytest.MonkeyPatch) -> InlineGrid:
        inner, app = apps.deployed_client_app(), ClientApp()

        def answer(message: Message, context: Context) -> Message:
            site = self.place / self.names[int(str(context.node_config["partition-id"]))]
            for key, part in (("CONTRACTS", "contracts"), ("CACHE", "cache"), ("DATA", "data")):
                monkeypatch.setenv(f"FEDHA_{key}", str(site / part))
            apps._clients.cache_clear()
            return inner(message, context)

        register(app, answer)
        return InlineGrid(app, len(self.names), {"settings": to_json(self.config), "out": "run"})

    def book(self, name: str) -> dict[str, Any]:
        (path,) = (self.place / name / "cache" / "contracts").glob("*.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Sites, InlineGrid]]:
    monkeypatch.delenv("FEDHA_LIMITS", raising=False)

    def made(config: Config, words: Any = WORDS) -> tuple[Sites, InlineGrid]:
        found = Sites(tmp_path / "sites", config, words)
        return found, found.grid(monkeypatch)

    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the experiment, from all data in one place."""
    place = tmp_path_factory.mktemp("trained")
    execute(simulated(experiment(), place / "all"), place / "run", Silent())
    return place / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "run")


def asked(grid: InlineGrid, config: Config, folder: Path, settings: Settings) -> dict[str, Any]:
    serve(Job(config, folder, diagnose=Asked(settings, 1)), grid, Silent(), domains=None)
    return record.read(folder)


def plain(config: Config, folder: Path, settings: Settings, root: Path) -> Any:
    """The same in this process, from all data."""
    here = simulated(config, root)
    found = diagnose(load(folder), here, load_domains(here), settings, lambda *_: None, round=1)
    return json.loads(json.dumps(found))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[part] == other[part] for part in ("domains", *ROWS)) and one["made"]["head"] == other["made"]["head"]


def test_a_diagnosis_with_a_volunteer_is_the_simulations(sites: Any, run: Path, tmp_path: Path) -> None:
    config, settings = experiment(), Settings(rows=ROWS, logits=(0.3,))
    made, grid = sites(config)
    found = asked(grid, config, run, settings)
    assert same(found, plain(config, run, settings, tmp_path / "all"))
    assert [one["role"] for one in found["domains"]] == ["source", "source", "source", "target"]
    book = made.book("lender")
    assert book["asked"]["heads"] > 10
    assert book["asked"]["directions"] == 18  # the whole of a small Hessian
    assert book["latest"] == {}  # no round was ever answered


def test_a_run_has_the_same_bits_with_a_volunteer_and_without(sites: Any, tmp_path: Path) -> None:
    config = experiment()
    for name, words in (("with", WORDS), ("without", dict.fromkeys(("north", "south", "west"), ANY))):
        _, grid = sites(config, words)
        serve(Job(config, tmp_path / name), grid, Silent(), domains=None)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("with", "without"))
    assert one == other


def test_blocks_of_directions_take_three_exchanges_for_all_pairs(
    sites: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedha.diagnosis.curvature.DENSE", 0)
    config = experiment()
    _, grid = sites(config)
    kinds: list[str] = []
    pushed = grid.push_messages
    monkeypatch.setattr(
        grid, "push_messages", lambda some: pushed([kinds.append(some[0].metadata.message_type) or one for one in some])
    )
    settings = Settings(rows=("curvature",), products="block")
    found = asked(grid, config, run, settings)
    assert found["curvature"] == plain(config, run, settings, tmp_path / "all")["curvature"]
    assert sum(kind == "query.directions" for kind in kinds) == 3 * 4
    assert {one["rule"] for one in found["curvature"]} <= {"block, probed", "the larger of the two"}


def test_what_no_site_agreed_to_is_refused_by_name(sites: Any, run: Path) -> None:
    config = experiment()
    words = {**WORDS, "south": {}, "west": {"diagnose": 15}}
    _, grid = sites(config, words)
    with pytest.raises(FedhaError, match="no diagnosis: the site's file has diagnose: 0"):
        asked(grid, config, run, Settings(rows=("curvature",)))
    assert not record.exists(run)
    made, grid = sites(config, {**WORDS, "west": {"diagnose": 15}})
    with pytest.raises(FedhaError, match=r"diagnose .* more, and agreed was 15 heads and directions in all, of which"):
        asked(grid, config, run, Settings(rows=("curvature",)))
    book = made.book("west")
    assert sum(book["asked"].values()) <= 15
    assert book["refused"] == {"diagnose": 1}


def test_without_a_volunteer_sources_are_held_against_each_other(sites: Any, run: Path) -> None:
    config = experiment()
    _, grid = sites(config, dict.fromkeys(("north", "south", "west"), ANY))
    found = asked(grid, config, run, Settings(rows=("curvature",)))
    assert "no target" in found["made"]["notes"][0]
    assert [one["name"] for one in found["domains"]] == ["a", "b", "c"]
    brisk = config.federation.model_copy(update={"patience": 0.2})
    with pytest.raises(FedhaError, match="3 of 4 clients connected within"):
        asked(grid, config.model_copy(update={"federation": brisk}), run, Settings(to=("t",), rows=ROWS))


@pytest.mark.parametrize(
    ("sections", "settings", "told"),
    [
        ({"privacy": {"secure_aggregation": True}}, {"mode": "pairs"}, "privacy.secure_aggregation hides"),
        ({"privacy": {"secure_aggregation": True}}, {}, "answered by single clients"),
        ({"privacy": {"protect": "examples", "noise_multiplier": 2.0}}, {}, "privacy.protect: examples"),
        ({}, {"rows": ("attributes",)}, "--rows attributes reads features, which leave no site"),
        ({}, {"method": "published"}, "--method published takes minibatches of features"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anybody_is_asked(
    sections: dict[str, Any], settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    config = experiment(**sections)
    with pytest.raises(FedhaError, match=told):
        asked(None, config, tmp_path, Settings(**{"rows": ROWS, **settings}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("section", "known"),
    [
        ({}, "t, a, b, c"),
        (
            {"name": "heart", "classes": None, "sources": None, "target": None},
            "cleveland, hungarian, switzerland, va",
        ),
    ],
    ids=["named", "of the data set"],
)
def test_a_name_that_is_no_domain_is_refused_before_anybody_is_waited_for(
    section: dict[str, Any], known: str, run: Path
) -> None:
    config = experiment()
    config = config.model_copy(update={"data": config.data.model_copy(update=section)})
    with pytest.raises(FedhaError, match=f"'moon', which is no domain of the run; take some of {known}"):
        asked(None, config, run, Settings(to=("moon",), rows=ROWS))  # type: ignore[arg-type]


def test_the_words_of_a_contract_are_read_and_told(tmp_path: Path) -> None:
    agree(tmp_path, experiment(), {"volunteer": "t", "diagnose": 100})
    agreement = read(tmp_path / "contracts" / "lent.yaml")
    ((_, held),) = agreement.runs()
    assert (held.volunteer, held.diagnose) == ("t", 100)
    for words, wrong in (({"volunteer": "t"}, "say how many heads"), ({"diagnose": -1}, "diagnose -1")):
        agree(tmp_path, experiment(), words)
        with pytest.raises(FedhaError, match=wrong):
            read(tmp_path / "contracts" / "lent.yaml")
    assert os.environ.get("FEDHA_CONTRACTS") is None
