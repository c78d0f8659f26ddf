"""Runs share a row when nothing but the seed, the target or the place tells them apart."""

from pathlib import Path
from typing import Any

import pytest

from fedha.errors import FedhaError
from fedha.report.comparison import Variant, read_runs, variants
from tests import made_runs
from tests.made_runs import write_run

NOTHING = Variant("", "")


def _configs(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [made_runs.config(**one).model_dump(mode="json") for one in changes]


def test_seeds_recipes_targets_and_places_make_no_variant() -> None:
    assert variants(_configs({"seed": 0}, {"seed": 1}, {"recipe": "erm"})) == [NOTHING] * 3
    hearts = _configs(
        {"data": {"name": "heart", "target": "va", "root": "/a"}, "checkpoint": {"every": 7}},
        {"data": {"name": "heart", "target": "hungarian", "root": "/b"}, "engine": {"threads": 2}},
    )
    assert variants(hearts) == [NOTHING] * 2


def test_the_share_of_flips_is_not_taken_for_the_target_domain() -> None:
    found = variants(_configs({"data": {"target_color_flip": 0.9}}, {"data": {"target_color_flip": 0.5}}))
    assert [one.experiment for one in found] == ["data.target_color_flip=0.9", "data.target_color_flip=0.5"]


def test_experiments_go_by_name_where_each_has_its_own() -> None:
    found = variants(
        _configs(
            {"name": "short", "training": {"rounds": 5}},
            {"name": "long", "training": {"rounds": 9}},
            {"name": "long", "training": {"rounds": 9}, "seed": 1},
        )
    )
    assert found == [Variant("short", ""), Variant("long", ""), Variant("long", "")]


def test_experiments_of_one_name_go_by_what_differs() -> None:
    found = variants(_configs({"training": {"rounds": 5}}, {"training": {"rounds": 9}}))
    assert found == [Variant("training.rounds=5", ""), Variant("training.rounds=9", "")]


def test_settings_of_a_recipe_are_compared_within_the_recipe() -> None:
    found = variants(
        _configs(
            {"recipe": {"name": "hgp", "weight": 2.0}}, {"recipe": {"name": "hgp", "weight": 4.0}}, {"recipe": "erm"}
        )
    )
    assert found == [Variant("", "recipe.weight=2.0"), Variant("", "recipe.weight=4.0"), NOTHING]


def test_no_runs_have_no_variants() -> None:
    assert variants([]) == []


def test_finished_runs_are_read_and_others_named(tmp_path: Path) -> None:
    done, begun = write_run(tmp_path / "done", accuracy=0.5), write_run(tmp_path / "begun", rounds=3)
    finished, unfinished = read_runs([done, begun])
    assert [run.folder for run in finished] == [done]
    assert finished[0].results["target"]["faraway"]["accuracy"] == 0.5
    assert len(finished[0].records) == 20
    assert unfinished == [begun]
    with pytest.raises(FedhaError, match=r"no run has finished yet.*fedha resume"):
        read_runs([begun])


def test_a_foreign_folder_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "done")
    (folder / "config.yaml").write_text("just a text")
    with pytest.raises(FedhaError, match="does not hold a run of fedha"):
        read_runs([folder])
    (folder / "config.yaml").write_text("{")
    with pytest.raises(FedhaError, match=r"config\.yaml is not YAML"):
        read_runs([folder])


def test_results_that_lack_what_every_run_has_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "done")
    (folder / "results.json").write_text('{"recipe": "hgp"}')
    with pytest.raises(FedhaError, match="does not hold a run of fedha"):
        read_runs([folder])
