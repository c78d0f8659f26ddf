"""What fedha did not write is never written over and never removed."""

import json
from pathlib import Path

import pytest

from fedha import config as configs
from fedha.cli import launch
from fedha.errors import FedhaError
from fedha.runs import folders, own_files, runfolder
from fedha.runs.files import RUN
from tests.made_runs import FAST, changed, record, write_run

NAMES = [*RUN, "checkpoint", "sent/letter.txt", "folds/f", "notes.txt", "audit.json", "checkpoint/mine.pt"]
TAKEN = {*RUN, "checkpoint"}  # what a run would write, or have to make a folder of


def put(folder: Path, name: str, text: str = "mine") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def plan(folder: Path, *changes: str, overwrite: bool = False) -> launch.Plan:
    config = launch.find_config("quickstart", changed(FAST, "seed=0", "recipe=erm", *changes))
    return launch.plan_new(config, folder, overwrite=overwrite)[1]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_file_stays_and_refuses_a_run_that_would_write_there(
    name: str, overwrite: bool, tmp_path: Path
) -> None:
    file = put(tmp_path, name)
    for changes, inside in (((), tmp_path), (("recipe=[erm, hgp]",), tmp_path)):
        if name in TAKEN and (not changes or name == "report.html"):
            with pytest.raises(FedhaError, match="is there already and fedha did not write it; move it"):
                plan(inside, *changes, overwrite=overwrite)
    if name not in TAKEN:
        runfolder.create(tmp_path, plan(tmp_path, overwrite=overwrite)[0][0])
        own_files.remove(tmp_path)
    assert file.read_text() == "mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_a_run_of_several_looks_into_its_runs_folders_first(tmp_path: Path) -> None:
    file = put(tmp_path, "hgp-seed0/results.json")
    with pytest.raises(FedhaError, match=r"hgp-seed0.results\.json is there already"):
        plan(tmp_path, "recipe=[erm, hgp]", overwrite=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


@pytest.mark.parametrize("name", ["results.json", "checkpoint", "config.yaml", "checkpoint/state.safetensors"])
def test_a_link_counts_as_what_is_there_even_where_it_leads_nowhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(FedhaError, match="is there already and fedha did not write it"):
        plan(tmp_path / "run")
    assert not (tmp_path / "nowhere").exists()


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    other = write_run(tmp_path / "other")
    own_files.claim(tmp_path, "erm-seed0/", "model.safetensors")
    (tmp_path / "erm-seed0").symlink_to(other)
    (tmp_path / "model.safetensors").symlink_to(other / "results.json")
    own_files.remove(tmp_path)
    assert runfolder.is_finished(other)
    assert (tmp_path / "erm-seed0").is_symlink()


def test_overwriting_removes_what_is_listed_and_no_more(tmp_path: Path) -> None:
    runfolder.create(tmp_path, plan(tmp_path)[0][0])
    runfolder.MetricsLog(tmp_path).append(record(1))
    kept = [put(tmp_path, name) for name in ("audit.json", "error.txt", "checkpoint/mine.pt", "sent/letter.txt")]
    assert folders.take(tmp_path, overwrite=True) == tmp_path
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(kept)


def test_a_foreign_file_that_came_later_stops_what_would_write_it(tmp_path: Path) -> None:
    runfolder.create(tmp_path, plan(tmp_path)[0][0])
    put(tmp_path, "results.json")
    with pytest.raises(FedhaError, match=r"results\.json is there already"):
        own_files.write_json(tmp_path, "results.json", {})


def test_a_run_of_0_1_0_is_known_by_its_files_and_only_those_of_its_formats_are_its_own(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    foreign = [put(run, name) for name in ("model.safetensors", "report.html", "audit.json", "error.txt", "sent/x")]
    assert own_files.owned(run) == {"config.yaml", "metrics.jsonl", "results.json"}
    with pytest.raises(FedhaError, match="already holds a run"):
        plan(run)
    with pytest.raises(FedhaError, match=r"(model\.safetensors|report\.html|error\.txt) is there already"):
        plan(run, overwrite=True)
    assert all(path.read_text() == "mine" for path in foreign)


@pytest.mark.parametrize("config", ["mine", "name: [", "recipe: nonsense", "- 1"])
def test_a_config_that_does_not_parse_or_has_no_metrics_beside_it_makes_no_run(config: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(config)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "config.yaml").write_text(configs.to_yaml(configs.parse({})))
    for name in ("run", "alone"):
        assert not runfolder.holds_run(tmp_path / name)
        with pytest.raises(FedhaError, match="is there already and fedha did not write it"):
            plan(tmp_path / name, overwrite=True)


def test_an_experiment_that_a_person_wrote_is_not_fedhas(tmp_path: Path) -> None:
    file = put(tmp_path, "experiment.yaml", "recipe: [erm, hgp]\n")
    write_run(tmp_path / "erm-seed0", "erm")
    with pytest.raises(FedhaError, match="already holds other runs"):
        plan(tmp_path, "recipe=[erm, hgp]", overwrite=True)
    assert file.exists()


def test_a_run_that_somebody_put_into_an_experiment_is_not_overwritten_with_it(tmp_path: Path) -> None:
    for _, place in plan(tmp_path, "recipe=[erm, hgp]"):
        runfolder.create(place, configs.parse({}))
    other = write_run(tmp_path / "other")
    with pytest.raises(FedhaError, match=r"already holds other runs, such as .*other"):
        plan(tmp_path, "recipe=[erm, hgp]", overwrite=True)
    assert runfolder.is_finished(other)


@pytest.mark.parametrize("listed", ["mine", "[]", '{"files": 3}', '{"files": ["../x"]}', '{"files": ["/etc/passwd"]}'])
def test_a_list_that_is_none_of_fedhas_removes_nothing(listed: str, tmp_path: Path) -> None:
    put(tmp_path, "run/.fedha.json", listed)
    put(tmp_path, "x")
    with pytest.raises(FedhaError, match="move it away"):
        plan(tmp_path / "run", overwrite=True)
    assert (tmp_path / "x").exists()


def refused(out: Path, *changes: str, rounds: int = 0) -> None:
    """A command that trains so many rounds and is then refused."""
    with launch.leaving_nothing(out) as made:
        planned = plan(out, *changes)
        made += [out, *(place for _, place in planned if place != out)]
        config, first = planned[0]
        runfolder.create(first, config)
        log = runfolder.MetricsLog(first)
        for number in range(rounds):
            log.append(record(number + 1))
        raise FedhaError("refused")


def test_a_refused_run_leaves_nothing_and_what_was_there_stays(tmp_path: Path) -> None:
    notes = put(tmp_path / "a", "notes.txt")
    for out, changes in ((tmp_path / "a", ()), (tmp_path / "b" / "c", ("recipe=[erm, hgp]",)), (tmp_path / "d", ())):
        with pytest.raises(FedhaError, match="refused"):
            refused(out, *changes)
    assert [path for path in tmp_path.rglob("*") if path != tmp_path / "a"] == [notes]


def test_what_a_run_has_done_stays_when_it_is_refused_later(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match="refused"):
        refused(tmp_path / "run", rounds=2)
    assert len(runfolder.read_metrics(tmp_path / "run")) == 2


def test_the_list_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    own_files.claim(tmp_path, "b", "a")
    assert json.loads((tmp_path / ".fedha.json").read_text())["files"] == ["a", "b"]
