"""A run that breaks off, for whatever reason, can be continued to the same end."""

import io
from pathlib import Path

import numpy
import pytest
import torch
from rich.console import Console

from fedha.cli import launch
from fedha.cli.exits import EndedError
from fedha.errors import FedhaError
from fedha.runs import runfolder
from fedha.runs.folders import planned_runs
from tests.made_runs import FAST, changed


class _Breaks(io.StringIO):
    """A terminal that raises when a text is written: what breaks a run off does so between two rounds."""

    def __init__(self, at: str, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def write(self, text: str) -> int:
        if self.at in text:
            raise self.error
        return super().write(text)


def _plan(out: Path, *changes: str) -> tuple[Path, launch.Plan]:
    return launch.plan_new(launch.find_config("quickstart", changed(FAST, *changes)), out)


def test_after_ctrl_c_resume_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    changes = ("recipe=[erm, hgp]", "seed=0", "checkpoint.every=3", "training.rounds=12")
    folder, plan = _plan(tmp_path / "stopped", *changes)
    with pytest.raises(EndedError, match=r"stopped; continue with: fedha resume .*stopped") as stopped:
        launch.train(plan, Console(file=_Breaks("round 8/", KeyboardInterrupt())), quiet=False, common=folder)
    assert stopped.value.code == 130
    assert len(runfolder.read_metrics(folder / "erm-seed0")) == 8
    assert not (folder / "hgp-seed0").exists()

    lines = io.StringIO()
    launch.train(planned_runs(folder), Console(file=lines, width=500), quiet=False, common=folder)
    assert "run 1 of 2: erm, seed 0: 12 rounds" in lines.getvalue()
    assert "erm-seed0, continued at round 7" in lines.getvalue()
    assert "run 2 of 2: hgp, seed 0" in lines.getvalue()

    straight, plan = _plan(tmp_path / "straight", *changes)
    launch.train(plan, Console(file=io.StringIO()), quiet=True, common=straight)
    for name in ("erm-seed0", "hgp-seed0"):
        models = [runfolder.read_model(place / name) for place in (folder, straight)]
        assert models[0].keys() == models[1].keys()
        assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
        assert [one["round"] for one in runfolder.read_metrics(folder / name)] == list(range(1, 13))


def test_an_unexpected_error_leaves_its_traceback_until_the_run_is_resumed(tmp_path: Path) -> None:
    folder, plan = _plan(tmp_path / "run", "recipe=erm", "seed=0")
    broken = Console(file=_Breaks("round 2/", ZeroDivisionError("by\nzero")), width=500)
    said = r"^failed with ZeroDivisionError: by zero \(traceback: .*error\.txt\); continue with: fedha resume "
    with pytest.raises(EndedError, match=said) as stopped:
        launch.train(plan, broken, quiet=False, common=folder)
    assert stopped.value.code == 1
    assert "in write" in (folder / "error.txt").read_text()
    launch.train(planned_runs(folder), broken, quiet=True, common=folder)
    assert runfolder.is_finished(folder)
    assert not (folder / "error.txt").exists()


def test_a_plan_names_every_run_and_keeps_the_whole_config_beside_several(tmp_path: Path) -> None:
    folder, plan = _plan(tmp_path / "several", "recipe=[erm, hgp]", "seed=[0, 1]")
    assert [place.name for _, place in plan] == ["erm-seed0", "erm-seed1", "hgp-seed0", "hgp-seed1"]
    assert [(config, place) for config, place in planned_runs(folder)] == list(plan)
    single, plan = _plan(tmp_path / "single", "recipe=erm", "seed=0")
    assert [place for _, place in plan] == [single]
    assert not single.exists()


def test_a_file_goes_before_a_shipped_config_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch.find_config("quickstart").name == "quickstart"
    Path("quickstart").write_text("name: mine")
    assert launch.find_config("quickstart", engine="inline").name == "mine"
    assert launch.find_config("quickstart", engine="inline").engine.name == "inline"


def test_a_folder_is_no_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("heart", "mine"):
        Path(name).mkdir()
    assert launch.find_config("heart").name == "heart"
    with pytest.raises(FedhaError, match="mine is a folder; name a YAML file, or one of"):
        launch.find_config("mine")


def test_a_folder_of_data_is_absolute_wherever_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given, meant in (("data", "data"), ("../x", "../x"), ("~/data", "home/data"), ("/there", "/there")):
        found = launch.find_config("heart", [f"data.root={given}"])
        assert found.data.root == tmp_path / meant
        assert launch.find_config("heart", [f"data.root={given}"], elsewhere=True).data.root == Path(given)
    with pytest.raises(FedhaError, match="nobody here has that home"):
        launch.find_config("heart", ["data.root=~nobody-of-this-name/data"])


def test_a_run_of_data_beside_it_goes_on_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "t"):
        (tmp_path / "here" / "data").mkdir(parents=True, exist_ok=True)
        inputs = numpy.random.default_rng(ord(name)).normal(size=(20, 3))
        numpy.savez(tmp_path / "here" / "data" / f"{name}.npz", inputs=inputs, labels=[0, 1] * 10)
    monkeypatch.chdir(tmp_path / "here")
    changes = ("data={name: arrays, root: data, target: t}", "model.one_logit=false", "recipe=erm", "seed=0")
    folder, plan = _plan(tmp_path / "run", *changes)
    with pytest.raises(EndedError):
        launch.train(plan, Console(file=_Breaks("round 2/", KeyboardInterrupt())), quiet=False, common=folder)
    monkeypatch.chdir(tmp_path)
    launch.train(planned_runs(folder), Console(file=io.StringIO()), quiet=True, common=folder)
    assert runfolder.is_finished(folder)
