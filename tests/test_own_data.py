"""A data set, a network and a recipe of one's own by name: through every command, and by entry points of a package."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fedha import data, plugins
from fedha.config import Config, DataConfig, load_written, parse, to_yaml
from fedha.data.domain import Domain
from fedha.errors import FedhaError
from fedha.models import build
from fedha.report.tables import recipe_table
from fedha.run import execute
from fedha.runs.listener import Silent
from fedha.runs.resuming import differences
from fedha.runs.runfolder import read_model, read_results
from tests.commands import Command

WARDS = {"name": "tests.data_of_others:wards", "rows": 24, "shift": 0.5, "target": "ward2"}


def config(section: object = WARDS, **more: object) -> Config:
    content = {
        "data": section,
        "model": {"name": "linear"},
        "recipe": "hgp",
        "seed": 3,
        "training": {"rounds": 2},
        "engine": {"name": "inline"},
    }
    return parse({**content, **more})


def test_the_sections_other_keys_are_the_functions_arguments(tmp_path: Path) -> None:
    given = config()
    assert given.data.options == {"rows": 24, "shift": 0.5}
    found = data.load(given.data, 3)
    assert [one.name for one in found.sources] == ["ward0", "ward1"]
    assert [one.name for one in found.targets] == ["ward2"]
    assert len(found.targets[0].held_out) == 24
    assert len(found.sources[0].held_out) == round(0.2 * 24)
    assert "domains of tests.data_of_others:wards: ward0 19, ward1 19 examples, unseen ward2" in found.description
    again, other = data.load(given.data, 3), data.load(given.data, 4)
    assert torch.equal(found.sources[0].train.take(), again.sources[0].train.take())
    assert not torch.equal(found.sources[0].train.take(), other.sources[0].train.take())
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(given))
    written = load_written(path)
    assert differences(written.model_dump(mode="json"), given) == []
    assert torch.equal(data.load(written.data, 3).sources[0].train.take(), found.sources[0].train.take())


def test_what_a_config_does_not_say_is_the_functions_default() -> None:
    name = "tests.data_of_others:with_its_own_numbers"
    found = data.load(parse({"data": {"name": name}}).data, 0)
    assert [one.name for one in found.sources] == [f"ward{place} of 3, not ward1" for place in range(3)]
    given = parse({"data": {"name": name, "classes": 4}}).data
    assert [one.name for one in data.load(given, 0).sources] == [f"ward{place} of 4, not ward1" for place in range(3)]


@pytest.mark.parametrize("name", ["inline", "ray"])
def test_a_run_on_every_engine_and_its_resume(tmp_path: Path, name: str) -> None:
    long = config(training={"rounds": 4}, engine={"name": name, "batching": False})
    execute(long, tmp_path / "long", Silent())
    short = config(training={"rounds": 2}, engine={"name": name, "batching": False})
    execute(short, tmp_path / "short", Silent())
    execute(long, tmp_path / "short", Silent(), resume=True)
    whole, parts = (read_model(tmp_path / one) for one in ("long", "short"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    assert "ward2" in read_results(tmp_path / "short")["target"]
    other = config({**WARDS, "shift": 0.7}, training={"rounds": 5}, engine={"name": name})
    with pytest.raises(FedhaError, match=r"data\.options\.shift was 0\.5 and is now 0\.7"):
        execute(other, tmp_path / "short", Silent(), resume=True)


def test_a_whole_set_keeps_its_target_and_clients_share_domains() -> None:
    found = data.load(config({"name": "tests.data_of_others:whole", "clients_per_domain": 2}).data, 0)
    assert ([one.name for one in found.sources], [one.name for one in found.targets]) == (["ward0", "ward1"], ["t"])
    several = data.load(config({**WARDS, "target": ["ward1", "ward2"]}).data, 0)
    assert [one.name for one in several.targets] == ["ward1", "ward2"]
    chosen = data.load(config({**WARDS, "sources": ["ward1"]}).data, 0)
    assert [one.name for one in chosen.sources] == ["ward1"]


def test_a_folder_is_the_functions_and_a_sites(tmp_path: Path) -> None:
    for place, name in enumerate("abt"):
        (tmp_path / name).mkdir()
        table = np.random.default_rng(place).normal(size=(20, 4))
        np.save(tmp_path / f"{name}.npy", np.c_[table, np.arange(20) % 2])
        np.save(tmp_path / name / f"{name}.npy", np.c_[table, np.arange(20) % 2])
    section = DataConfig(name="tests.data_of_others:from_folder", root=tmp_path, target="t", held_out=0.3, classes=2)
    found = data.load(section, 0)
    assert [len(one.held_out) for one in found.sources] == [6, 6]
    for place, name in enumerate("ab"):
        own = data.load_own(section.model_copy(update={"root": tmp_path / name}), 0, place)
        assert own.name == name
        assert torch.equal(own.train.take(), found.sources[place].train.take())
    (target,) = data.load_targets(section.model_copy(update={"root": tmp_path / "t"}), 0)
    assert torch.equal(target.held_out.take(), found.targets[0].held_out.take())
    assert data.load_targets(section.model_copy(update={"root": tmp_path / "none"}), 0) == ()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "tests.data_of_others:nothing"}, r"has no 'nothing', only .*wards"),
        ({"name": "tests.no_such:make"}, r"there is no such module"),
        (
            {"name": "tests.data_of_others:fails"},
            r"data\.name is 'tests.data_of_others:fails', which fails with KeyError",
        ),
        ({"name": "tests.data_of_others:no_domains"}, r"makes a str; let it return a list of fedha\.data\.Domain"),
        ({**WARDS, "wide": 3}, r"data: got an unexpected keyword argument 'wide'; .*wards takes cut.*, wards: int = 3"),
        ({**WARDS, "root": "."}, r"data\.root is .*, which tests.data_of_others:wards does not take"),
        ({"name": "tests.data_of_others:whole", "held_out": 0.3}, r"data\.held_out is 0\.3, which .* does not take"),
        (
            {**WARDS, "target": "ward7"},
            r"target names 'ward7', which is no domain; the domains are ward0, ward1, ward2",
        ),
        ({**WARDS, "sources": ["ward9"]}, r"data\.sources names 'ward9', which is no domain; did you mean 'ward"),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_anything_is_written(
    tmp_path: Path, section: dict, message: str
) -> None:
    with pytest.raises(FedhaError, match=message):
        execute(config(section), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_names_that_nobody_knows_are_answered_with_the_nearest() -> None:
    with pytest.raises(FedhaError, match=r"there is no data set 'hart'; did you mean 'heart'\? Or name your own"):
        config({"name": "hart"})
    with pytest.raises(FedhaError, match=r"data\.target is \['va', 'cleveland'\]: it should be text"):
        config({"name": "heart", "target": ["va", "cleveland"]})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package that adds one of each kind, and some that are broken."""
    info = tmp_path / "wards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fedha.data]\nwards = tests.data_of_others:wards\ngone = tests.gone:wards\n"
        "empty = tests.data_of_others:nobody\n"
        "[fedha.models]\nfitted = tests.models_of_others:fitted\n"
        "[fedha.recipes]\nhalf = tests.data_of_others:half\nrow = tests.data_of_others:HALF\n"
        "bad = tests.data_of_others:broken\nnumber = tests.data_of_others:no_recipe\n"
        "[fedha.rules]\nplain = fedha.rules.optimizers:sgd\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.installed.cache_clear()
    yield
    sys.path.remove(str(tmp_path))
    plugins.installed.cache_clear()


@pytest.mark.usefixtures("package")
def test_a_package_adds_data_networks_recipes_and_rules_by_name(tmp_path: Path) -> None:
    by_name = config(
        {"name": "wards", "rows": 24, "target": "ward2"},
        model={"name": "fitted", "width": 3},
        recipe="half",
        training={"rounds": 2, "optimizer": "plain"},
    )
    by_place = config(
        {"name": "tests.data_of_others:wards", "rows": 24, "target": "ward2"},
        model={"name": "tests.models_of_others:fitted", "width": 3},
        recipe={"name": "mine", "align": {"gradient": 0.5}},
        training={"rounds": 2, "optimizer": "sgd"},
    )
    assert [one.resolve().name for one in config(recipe=["half", "row"]).recipe] == ["half", "row"]
    for name, one in (("named", by_name), ("placed", by_place)):
        execute(one, tmp_path / name, Silent())
    named, placed = (read_model(tmp_path / one) for one in ("named", "placed"))
    assert all(torch.equal(value, placed[key]) for key, value in named.items())
    assert build(by_name.model, (4,), 2, 0).featurizer[1].out_features == 3


@pytest.mark.usefixtures("package")
def test_a_broken_package_is_named_where_it_is_used_and_only_there(fedha: Command) -> None:
    with pytest.raises(FedhaError, match=r"package wards adds fedha\.recipes 'bad' as .*, which fails with Runtime"):
        config(recipe="bad")
    with pytest.raises(FedhaError, match=r"package wards adds recipe 'number' as .*, which is a int"):
        config(recipe="number")
    gone = r"data\.name: package wards adds 'gone' as tests\.gone:wards, which cannot be imported: .*; mend or remove"
    with pytest.raises(FedhaError, match=gone):
        data.load(config({"name": "gone"}).data, 0)
    with pytest.raises(FedhaError, match=r"package wards adds 'empty' as .*:nobody, but tests\.data_of_others has no"):
        data.load(config({"name": "empty"}).data, 0)
    code, out, _ = fedha("data", "list")
    assert code == 0
    assert re.search(gone, " ".join(out.split()))
    table = recipe_table(2, 3, 9)
    assert {"half", "row", "hgp"} <= {row[0] for row in table.rows}
    assert any("no licence" in note for note in table.notes)
    with pytest.raises(FedhaError, match=r"did you mean 'wards'"):
        config({"name": "ward"})


def test_a_domain_alone_is_a_client() -> None:
    found = data.load(config({"name": "tests.data_of_others:wards", "wards": 1}).data, 0)
    assert isinstance(found.sources[0], Domain)
    assert len(found.sources) == 1
