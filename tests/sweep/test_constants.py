"""What of a network never moves is kept once for a sweep, and nobody who reads a run sees a difference."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fedha import load
from fedha.errors import FedhaError
from fedha.models.state import named_state
from fedha.runs import constants, own_files, runfolder
from fedha.sweep.jobs import Task
from fedha.sweep.work import DONE, STOPPED, Worker
from tests.commands import Command
from tests.sweep.made import finished, opened, sweep

STILL = "model={name: 'tests.models_of_others:mostly_still'}"
FEW = (STILL, "recipe=erm", "data.target=a")
FROZEN = 4 * (3 * 128 + 128 + 128 * 128 + 2 * 128)  # bytes, what is tied once


def shared(folder: str = "s") -> list[Path]:
    return sorted((Path(folder) / "constants").glob("*.safetensors"))


def told(path: Path) -> dict[str, torch.Tensor]:
    """What is in one file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def test_runs_keep_what_they_trained_and_the_sweep_the_rest(fedha: Command) -> None:
    assert sweep(fedha, "-q", *FEW, "checkpoint.keep=best")[0] == 0
    (once,) = shared()
    assert once.stat().st_size > FROZEN
    runs = [one.parent for one in finished()]
    assert len(runs) == 2
    for run in runs:
        assert set(told(run / "model.safetensors")) == {"head.weight", "head.bias"}
        assert sum(one.stat().st_size for one in run.rglob("*.safetensors")) < FROZEN / 2
        assert fedha("run", str(run / "config.yaml"), "--out", f"alone/{run.name}", "-q")[0] == 0
        alone, state = Path("alone") / run.name, named_state(load(run))
        assert told(alone / "model.safetensors").keys() == state.keys()  # a run of its own is whole
        assert all(torch.equal(value, state[name]) for name, value in named_state(load(alone)).items())
        assert list(runfolder.read_model(run)) == list(runfolder.read_model(alone))
    number = runfolder.read_results(runs[0])["selection"]["oracle"]["round"]
    assert torch.isfinite(load(runs[0], round=number).head.weight).all()


def test_a_sweep_can_be_moved_and_a_run_be_begun_with(fedha: Command) -> None:
    assert sweep(fedha, "-q", *FEW, "seed=0")[0] == 0
    Path("elsewhere").mkdir()
    Path("s").rename("elsewhere/moved")
    run = finished("elsewhere")[0].parent
    for command in (
        ("predict", str(run), "--data", "d/c.npz"),
        ("run", "c.yaml", "recipe=erm", "seed=0", "data.target=a", STILL, f"model.start={run}", "--out", "next", "-q"),
        ("resume", str(run), "training.rounds=3", "-q"),
    ):
        code, _, err = fedha(*command)
        assert code == 0, err
    assert set(told(run / "model.safetensors")) > {"head.weight", "head.bias"}  # resumed alone, it is whole


def test_a_run_that_was_copied_alone_says_what_is_missing_and_where_it_was(fedha: Command) -> None:
    assert sweep(fedha, "-q", *FEW, "seed=0")[0] == 0
    shutil.copytree(finished()[0].parent, "copied")
    (once,) = shared()
    with pytest.raises(FedhaError, match=f"kept once for the whole sweep, at ../../constants/{once.name}"):
        load("copied")
    shutil.copy(once, "copied")
    same = zip(named_state(load("copied")).values(), named_state(load(finished()[0].parent)).values(), strict=True)
    assert all(torch.equal(*pair) for pair in same)


def test_a_run_that_was_stopped_ends_with_the_same_bytes_whatever_became_of_the_shared_file(fedha: Command) -> None:
    changes = (*FEW, "seed=0", "training.rounds=6", "checkpoint.every=1")
    assert sweep(fedha, "-q", *changes)[0] == 0
    store, (job,) = opened("other", *changes)
    assert Worker(store, lambda: bool(shared("other"))).work(Task(job)).state == STOPPED
    (path,) = shared("other")
    path.write_bytes(path.read_bytes()[:-4] + b"dust")  # the disk's fault
    assert Worker(store).work(Task(job)).state == DONE
    assert path.read_bytes() == shared()[0].read_bytes()
    model = Path("jobs") / job.name / "model.safetensors"
    assert ("other" / model).read_bytes() == ("s" / model).read_bytes()


def test_a_damaged_shared_file_is_told(fedha: Command) -> None:
    assert sweep(fedha, "-q", *FEW, "seed=0")[0] == 0
    (path,) = shared()
    path.write_bytes(path.read_bytes()[:-4] + b"dust")
    with pytest.raises(FedhaError, match="holds other numbers than its name says"):
        load(finished()[0].parent)
    path.write_bytes(b"short")
    with pytest.raises(FedhaError, match="put it back"):
        load(finished()[0].parent)


def test_workers_write_side_by_side_and_every_file_stands_in_the_list(tmp_path: Path) -> None:
    parts = [{"a": torch.full((1 << 15,), float(number // 2))} for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda one: constants.keep(tmp_path / "c", tmp_path / "jobs" / "x", one), parts))
    assert len(set(names)) == 8
    assert own_files.owned(tmp_path / "c") == {Path(one).name for one in names if one}
    for name, part in zip(names, parts, strict=True):
        assert torch.equal(constants.read(Path("m"), tmp_path / "jobs" / "x", name)["a"], part["a"])
    assert constants.keep(tmp_path / "c", tmp_path, {"a": torch.ones(9)}) is None  # a run's folder is rather whole
    with pytest.raises(FedhaError, match="no such file"):
        constants.read(Path("m"), tmp_path, "../../etc/passwd")
