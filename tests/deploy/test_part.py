"""Which sites of a federation take part in a run: those that hold one of its sources, whatever others are connected."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy
import pytest
from flwr.app import Message

from fedha.config import Config, DataConfig, to_json
from fedha.data import load_own
from fedha.data.part import no_part
from fedha.deploy import apps
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.flower.serve import Job, serve
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.privacy.rounds import settings


class Federation(InlineGrid):
    """Sites with folders and places of their own, each message to a new process."""

    def __init__(self, sites: dict[int, Path], run_config: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
        super().__init__(apps.deployed_client_app(), len(sites), run_config)
        self.folders, self.patch = list(sites.values()), patch
        for context, place in zip(self._contexts.values(), sites, strict=True):
            context.node_config["partition-id"] = place

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names: list[str] = []
        for message in messages:
            apps._clients.cache_clear()
            folder = self.folders[list(self._contexts).index(message.metadata.dst_node_id)]
            self.patch.setenv("FEDHA_DATA", str(folder))
            self.patch.setenv("FEDHA_CACHE", str(folder / "cache"))
            names += super().push_messages([message])
        return names


class Said(Silent):
    """Keeps the notes of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def hospital(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = numpy.random.default_rng(len(name)).normal(100, 5, (30, 13)).round(1)
    lines = [",".join(map(str, row)) + f",{place % 2}" for place, row in enumerate(rows)]
    (folder / f"processed.{name}.data").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def sites(tmp_path: Path) -> dict[int, Path]:
    names = ("cleveland", "hungarian", "switzerland", "va")
    return {place: hospital(tmp_path / name, name) for place, name in enumerate(names)}


def run(config: Config, sites: dict[int, Path], folder: Path, patch: pytest.MonkeyPatch) -> tuple[Any, list[str]]:
    patch.delenv("FEDHA_LIMITS", raising=False)
    said = Said()
    grid = Federation(sites, {"settings": to_json(config), "out": folder.name}, patch)
    return serve(Job(config, folder), grid, said, domains=None), said.notes


HEART = settings("iga", privacy={"protect": "nothing"}, data={"name": "heart"})


def test_a_fourth_site_has_no_part_in_a_run_of_three_hospitals_and_the_run_is_the_same(
    sites: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = {place: folder for place, folder in sites.items() if place < 3}
    run(HEART, three, tmp_path / "three", monkeypatch)
    results, notes = run(HEART, sites, tmp_path / "four", monkeypatch)
    assert results["rounds"] == 3
    (note,) = [one for one in notes if "no part in this run" in one]
    assert "it holds va, and this run has 3 sources (cleveland, hungarian, switzerland)" in note
    models = [(tmp_path / name / runfolder.MODEL).read_bytes() for name in ("three", "four")]
    assert models[0] == models[1]


def test_the_fourth_site_takes_part_where_the_config_says_so(
    sites: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = ["cleveland", "hungarian", "va"]
    config = settings(
        "iga", privacy={"protect": "nothing"}, data={"name": "heart", "sources": sources, "target": "switzerland"}
    )
    without = {place: folder for place, folder in sites.items() if place != 2}  # places with a hole, as after a removal
    run(config, without, tmp_path / "run", monkeypatch)
    (first, *_) = runfolder.read_metrics(tmp_path / "run")
    assert list(first["risk"]) == sources
    assert any("no part" in note for note in run(config, sites, tmp_path / "all", monkeypatch)[1])


def test_sites_without_a_part_do_not_count_among_those_that_are_waited_for(
    sites: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {place: folder for place, folder in sites.items() if place != 0}
    config = settings("iga", privacy={"protect": "nothing"}, data={"name": "heart"}, federation={"patience": 0.1})
    with pytest.raises(FedhaError, match="2 of 3 clients connected within"):
        run(config, two, tmp_path / "run", monkeypatch)


def test_a_source_that_two_sites_hold_is_refused_by_their_places(
    sites: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = {0: sites[0], 1: hospital(tmp_path / "copy", "cleveland"), 2: sites[2]}
    with pytest.raises(FedhaError, match="clients 0 and 1 both hold the domain 'cleveland', which would count twice"):
        run(HEART, twice, tmp_path / "run", monkeypatch)


def test_a_site_is_what_its_file_says_and_else_what_its_place_says(sites: dict[int, Path], tmp_path: Path) -> None:
    heart = DataConfig(name="heart", root=sites[2])
    assert load_own(heart, 0, 7).name == "switzerland"
    assert no_part(heart, 7) is None
    assert no_part(heart.model_copy(update={"root": sites[3]}), 3) is not None
    for name in ("a", "b"):
        numpy.savez(tmp_path / f"{name}.npz", inputs=numpy.ones((9, 2)), labels=numpy.arange(9) % 2)
    both = DataConfig(name="arrays", root=tmp_path, sources=["a", "b"], classes=2)
    assert [load_own(both, 0, place).name for place in (0, 1)] == ["a", "b"]
    assert no_part(both.model_copy(update={"root": tmp_path / "none"}), 2) is not None
    assert no_part(both.model_copy(update={"sources": None}), 9) is None
    digits = DataConfig(name="colored_digits")
    assert [no_part(digits, place) is None for place in (0, 1, 2)] == [True, True, False]
