"""No run is lost to another, and every run is found."""

import shlex
from pathlib import Path

import pytest

from fedha import config as configs
from fedha.errors import FedhaError
from fedha.runs import folders, runfolder
from tests import made_runs
from tests.made_runs import write_run


def _experiment(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True)
    content = {"name": "made", "recipe": ["erm", "hgp"], "seed": [0, 1], **changes}
    (folder / "experiment.yaml").write_text(configs.to_yaml(configs.parse(content)))
    return folder


def test_claiming_a_name_again_counts_on(tmp_path: Path) -> None:
    claimed = [folders.claim(tmp_path / "runs" / "quick") for _ in range(3)]
    assert [folder.name for folder in claimed] == ["quick", "quick-2", "quick-3"]
    assert all(folder.is_dir() for folder in claimed)


def test_a_file_in_the_way_is_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "quick").write_text("mine")
    assert folders.claim(tmp_path / "quick").name == "quick-2"


def test_a_folder_with_a_run_is_taken_only_to_overwrite_it_and_other_files_stay(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "mine").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FedhaError, match="--overwrite"):
        folders.take(folder)
    assert folders.take(folder, overwrite=True) == folder
    assert {path.name for path in folder.rglob("*")} == {"checkpoint", "mine", "notes.txt"}
    assert folders.take(folder) == folder


def test_an_experiments_runs_are_overwritten_with_it(tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "experiment")
    write_run(folder / "erm-seed0")
    with pytest.raises(FedhaError, match="--overwrite"):
        folders.take(folder)
    folders.take(folder, overwrite=True)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_collects_runs_is_never_emptied(tmp_path: Path, overwrite: bool) -> None:
    write_run(tmp_path / "a")
    write_run(_experiment(tmp_path / "b") / "erm-seed0")
    with pytest.raises(FedhaError, match="already holds other runs"):
        folders.take(tmp_path, overwrite=overwrite)
    assert len(folders.find_runs([tmp_path])) == 2


def test_runs_are_found_at_and_below_paths_in_natural_order_each_once(tmp_path: Path) -> None:
    for name in ("x/hgp-seed10", "x/hgp-seed2", "x/erm-seed0", "y", ".hidden"):
        write_run(tmp_path / name)
    write_run(tmp_path / "y" / "folds" / "inner")
    found = [str(path.relative_to(tmp_path)) for path in folders.find_runs([tmp_path / "y", tmp_path])]
    assert found == ["y", "x/erm-seed0", "x/hgp-seed2", "x/hgp-seed10"]


def test_a_path_without_runs_is_named(tmp_path: Path) -> None:
    for find in (lambda path: folders.find_runs([path]), folders.planned_runs):
        with pytest.raises(FedhaError, match="there is no run in"):
            find(tmp_path)
        with pytest.raises(FedhaError, match=r"there is no folder .*nowhere"):
            find(tmp_path / "nowhere")


def test_a_plan_names_also_the_runs_that_never_started(tmp_path: Path) -> None:
    write_run(_experiment(tmp_path / "runs" / "made") / "erm-seed1")
    write_run(tmp_path / "runs" / "single", "coral", 7)
    plan = folders.planned_runs(tmp_path / "runs", ["engine.name=inline"])
    assert [folder.name for _, folder in plan] == ["erm-seed0", "erm-seed1", "hgp-seed0", "hgp-seed1", "single"]
    assert all(config.engine.name == "inline" for config, _ in plan)
    for config, folder in plan[:4]:
        assert folders.run_name(config) == folder.name
    assert plan[4][0].recipe[0].name == "coral"


@pytest.mark.parametrize(
    ("name", "safe"),
    [("hgp", "hgp"), ("a b/c", "a-b-c"), ("../../x", "-..-x"), ("..", "experiment"), ("é_1.5", "é_1.5")],
)
def test_a_name_becomes_one_folder_that_stays_where_it_belongs(tmp_path: Path, name: str, safe: str) -> None:
    assert folders.folder_name(name) == safe
    assert (tmp_path / safe).resolve().parent == tmp_path.resolve()


def test_a_run_that_began_is_told_from_one_that_finished(tmp_path: Path) -> None:
    begun = write_run(tmp_path / "a", rounds=7)
    done = write_run(tmp_path / "b")
    assert [(runfolder.holds_run(one), runfolder.is_finished(one)) for one in (begun, done, tmp_path)] == [
        (True, False),
        (True, True),
        (False, False),
    ]
    assert len(runfolder.read_metrics(begun)) == 7
    assert made_runs.config() == configs.load(done / "config.yaml")


@pytest.mark.parametrize("name", ["a b", "it's", 'a"b', "-out", "[red]a", "a\nb", "$(true)", "ü", "*"])
def test_a_sentence_names_a_folder_as_a_command_line_takes_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path(name))
    with pytest.raises(FedhaError) as caught:
        folders.take(Path(name))
    command = str(caught.value).split("`")[1]
    assert Path(shlex.split(command)[2]) == Path(name)
    assert not shlex.split(command)[2].startswith("-")
