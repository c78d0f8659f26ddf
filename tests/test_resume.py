"""A run that was killed and resumed is the run that was not: the same model, to the bit, and the same log."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load, save

from fedha.config import Config, parse, to_yaml
from fedha.config import load as load_config
from fedha.errors import FedhaError
from fedha.flower.serve import Job, fold_folder
from fedha.run import execute
from fedha.runs.listener import Silent
from fedha.runs.runfolder import read_metrics
from tests.jobs import run_job
from tests.killed_runs import Killed, Rounds, without_time
from tests.made_runs import as_in_0_1_0

ROUNDS = 7
BASE = {
    "model": {"hidden": [6], "one_logit": True},
    "training": {"rounds": ROUNDS, "weight_decay": 0.001},
    "evaluation": {"every": 2},
    "checkpoint": {"every": 3},
}
LOCAL = {"mode": "local", "rounds": ROUNDS, "local": {"epochs": 1, "batch_size": 100, "momentum": 0.5}}
RUNS: dict[str, dict[str, Any]] = {
    "hgp with adam": {"recipe": {"name": "hgp", "weight": 3.0, "warmup_rounds": 4}},
    "hgp with a fresh optimiser between checkpoint and kill": {
        "recipe": {"name": "hgp", "weight": 3.0, "warmup_rounds": 3, "reset_optimizer": True}
    },
    "hgp with a fresh optimiser before the checkpoint": {
        "recipe": {"name": "hgp", "weight": 3.0, "warmup_rounds": 1, "reset_optimizer": True}
    },
    "hutchinson with new signs a round": {"recipe": {"name": "hutchinson", "probes": 3}},
    "fishr with the clients' moving averages": {"recipe": {"name": "fishr", "weight": 30.0}},
    "fediir with the server's moving average": {"recipe": {"name": "fediir", "weight": 3.0}},
    "groupdro with the domains' weights": {"recipe": {"name": "groupdro", "step_size": 1.0}},
    "sgd with momentum and a schedule": {
        "recipe": "erm",
        "training": {"rounds": ROUNDS, "optimizer": "sgd", "momentum": 0.9, "schedule": "cosine"},
    },
    "adamw with two rates and a warm-up": {
        "recipe": "hgp",
        "training": {
            "rounds": ROUNDS,
            "optimizer": {"name": "adamw", "amsgrad": True},
            "rates": {"featurizer": 0.1},
            "clip_norm": 0.5,
            "schedule": {"name": "linear", "warmup": 2},
        },
    },
    "adafactor, whose state has other shapes than the parameters": {
        "recipe": "erm",
        "training": {"rounds": ROUNDS, "optimizer": "adafactor"},
    },
    "clients' rates by the step": {
        "recipe": "erm",
        "training": {**LOCAL, "schedule": {"name": "step", "every": 5, "by": "step", "warmup": 4}},
    },
    "fedavg with minibatches": {"recipe": "hgp", "training": LOCAL},
    "fedadam with minibatches and moving averages": {
        "recipe": {"name": "fishr", "weight": 30.0},
        "training": {**LOCAL, "optimizer": "fedadam"},
    },
}


def settings(**changes: Any) -> Config:
    return parse({**BASE, **changes})


def assert_same_run(resumed: Path, whole: Path, results: str = "results.json") -> None:
    for name in ("config.yaml", "model.safetensors"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    for name in ("metrics.jsonl", results):
        assert without_time(resumed / name) == without_time(whole / name)
    assert [one["round"] for one in without_time(resumed / "metrics.jsonl")] == [*range(1, ROUNDS + 1)]


def kill(config: Config, folder: Path, killer: Killed, *, resume: bool = False) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(config, folder, killer, resume=resume)
    assert not (folder / "results.json").exists()


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    config = settings(**RUNS[name])
    execute(config, tmp_path / "whole", Silent())
    kill(config, tmp_path / "killed", Killed(5))
    resumed = Rounds()
    results = execute(config, tmp_path / "killed", resumed, resume=True)
    assert resumed.seen == [4, 5, 6, 7]  # from the checkpoint of round 3
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert results["target"] == json.loads((tmp_path / "whole" / "results.json").read_text())["target"]


def test_a_run_may_be_killed_often_and_anywhere(tmp_path: Path) -> None:
    config = settings(recipe={"name": "fishr", "weight": 30.0})
    execute(config, tmp_path / "whole", Silent())
    kill(config, tmp_path / "killed", Killed(2))  # before any checkpoint
    kill(config, tmp_path / "killed", Killed(3), resume=True)  # just after one
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"round": 4, "lo')  # a line that was being written
    kill(config, tmp_path / "killed", Killed(7), resume=True)  # before the results
    resumed = Rounds()
    execute(config, tmp_path / "killed", resumed, resume=True)
    assert resumed.seen == []
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_leave_one_domain_out_resumes_in_a_fold_between_folds_and_after_them(tmp_path: Path) -> None:
    flips = {"name": "colored_digits", "color_flips": [0.3, 0.2, 0.1]}
    config = settings(recipe="hgp", data=flips, evaluation={"every": 2, "leave_one_domain_out": True})
    execute(config, tmp_path / "whole", Silent())
    folds = sorted(one.name for one in (tmp_path / "whole" / "folds").iterdir())
    assert len(folds) == 3
    kill(config, tmp_path / "killed", Killed(note=f"leave-one-domain-out: training without {folds[1]}"))
    job = Job(config, fold_folder(tmp_path / "killed", folds[1]), left_out=folds[1])
    with pytest.raises(KeyboardInterrupt):
        run_job(job, Killed(5))
    kill(config, tmp_path / "killed", Killed(5), resume=True)
    results = execute(config, tmp_path / "killed", Silent(), resume=True)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    for fold in folds:
        assert_same_run(tmp_path / "killed" / "folds" / fold, tmp_path / "whole" / "folds" / fold, "fold.json")
    assert [path.parent for path in (tmp_path / "whole").rglob("results.json")] == [tmp_path / "whole"]
    assert set(results["selection"]) == {"final", "training_domain_validation", "leave_one_domain_out", "oracle"}


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    config = settings(recipe="erm")
    results = execute(config, tmp_path / "run", Silent())
    again = Rounds()
    assert execute(config, tmp_path / "run", again, resume=True) == results
    assert again.seen == []
    with pytest.raises(FedhaError, match="already holds a run; continue it with `fedha resume"):
        execute(config, tmp_path / "run", Silent())


def test_several_runs_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match="asks for 4 runs"):
        execute(settings(recipe=["erm", "hgp"], seed=[0, 1]), tmp_path, Silent())


@pytest.mark.parametrize("damage", ["empty", "truncated", "no header", "text"])
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    config = settings(recipe="erm")
    kill(config, tmp_path, Killed(4))
    path = tmp_path / "checkpoint" / "state.safetensors"
    content = path.read_bytes()
    changed = {"empty": b"", "truncated": content[:-9], "no header": content[8:], "text": b"not tensors at all"}
    path.write_bytes(changed[damage])
    with pytest.raises(FedhaError, match=r"cannot read the checkpoint .*state\.safetensors.*delete it"):
        execute(config, tmp_path, Silent(), resume=True)


def test_a_checkpoint_without_its_numbers_is_named(tmp_path: Path) -> None:
    config = settings(recipe="erm")
    kill(config, tmp_path, Killed(4))
    path = tmp_path / "checkpoint" / "state.safetensors"
    tensors = load(path.read_bytes())
    for metadata in (None, {"state": "{}"}, {"state": "no json"}):
        path.write_bytes(save(tensors, metadata=metadata))
        with pytest.raises(FedhaError, match="cannot read the checkpoint"):
            execute(config, tmp_path, Silent(), resume=True)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    kill(settings(recipe="erm"), tmp_path, Killed(4))
    wider = settings(recipe="erm", model={"hidden": [8], "one_logit": True})
    with pytest.raises(FedhaError, match=r"model\.hidden was \[6\] and is now \[8\]"):
        execute(wider, tmp_path, Silent(), resume=True)
    as_in_0_1_0(tmp_path)  # which did not say what it was made with
    (tmp_path / "config.yaml").write_text(to_yaml(wider))
    with pytest.raises(FedhaError, match="is of another model; was config"):
        execute(wider, tmp_path, Silent(), resume=True)


@pytest.mark.parametrize(
    "name",
    [
        "fishr with the clients' moving averages",
        "fediir with the server's moving average",
        "groupdro with the domains' weights",
        "sgd with momentum and a schedule",
        "fedadam with minibatches and moving averages",
    ],
)
def test_a_run_of_0_1_0_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    config = settings(**RUNS[name])
    execute(config, tmp_path / "whole", Silent())
    kill(config, tmp_path / "killed", Killed(5))
    as_in_0_1_0(tmp_path / "killed")
    execute(config, tmp_path / "killed", Silent(), resume=True)
    as_in_0_1_0(tmp_path / "killed")
    as_in_0_1_0(tmp_path / "whole")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_more_rounds_are_the_rounds_of_a_longer_run_and_a_line_says_from_which_on(tmp_path: Path) -> None:
    config = settings(recipe={"name": "fishr", "weight": 30.0}, training={"rounds": 4})
    longer = settings(recipe={"name": "fishr", "weight": 30.0})
    execute(
        settings(recipe={"name": "fishr", "weight": 30.0}, training={"rounds": ROUNDS}), tmp_path / "whole", Silent()
    )
    execute(config, tmp_path / "run", Silent())
    execute(parse({**longer.model_dump(), "training": {"rounds": ROUNDS}}), tmp_path / "run", Silent(), resume=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    lines = without_time(tmp_path / "run" / "metrics.jsonl")
    assert lines[4] == {"from_round": 5, "changes": {"training.rounds": {"was": 4, "now": 7}}}
    assert [one["round"] for one in read_metrics(tmp_path / "run")] == [*range(1, ROUNDS + 1)]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["changes"] == [lines[4]]
    assert load_config(tmp_path / "run" / "config.yaml").training.rounds == ROUNDS


@pytest.mark.parametrize(
    ("killed_in", "told"),
    [(5, f"goes on after round 3 of {ROUNDS}"), (2, "there is no checkpoint: it starts with round 1")],
)
def test_a_resumed_run_says_where_it_goes_on(killed_in: int, told: str, tmp_path: Path) -> None:
    config, rest = settings(recipe="erm"), Rounds()
    kill(config, tmp_path / "run", Killed(killed_in))
    execute(config, tmp_path / "run", rest, resume=True)
    assert told in rest.notes
    assert rest.seen[0] == (4 if killed_in == 5 else 1)


def test_a_new_run_is_not_told_where_it_goes_on(tmp_path: Path) -> None:
    first = Rounds()
    execute(settings(recipe="erm", evaluation={"leave_one_domain_out": True}), tmp_path / "run", first)
    assert not [note for note in first.notes if "checkpoint" in note or "goes on" in note]


def test_a_network_that_does_not_take_the_inputs_is_refused_before_a_run_begins(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match="the network cannot take the inputs of domain"):
        execute(settings(model={"name": "tests.models_of_others:too_narrow"}), tmp_path / "run", Silent())
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_other_data_under_the_same_names_are_refused(tmp_path: Path) -> None:
    for folder, shift in (("one", 0.0), ("other", 1e-6)):
        (tmp_path / folder).mkdir()
        for place, name in enumerate(("a", "b", "t")):
            inputs = np.random.default_rng(place).normal(size=(20, 3)).astype(np.float32)
            inputs[:, 2] += shift * (name == "b")
            np.savez(tmp_path / folder / f"{name}.npz", inputs=inputs, labels=np.arange(20) % 2)
    data = {"name": "arrays", "root": str(tmp_path / "one"), "target": "t"}
    config = settings(recipe="erm", data=data)
    kill(config, tmp_path / "run", Killed(5))
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    other = settings(recipe="erm", data={**data, "root": str(tmp_path / "other")})
    with pytest.raises(FedhaError, match=r"the data are not those that the run in .* was trained with so far"):
        execute(other, tmp_path / "run", Silent(), resume=True)
    moved = settings(recipe="erm", data={**data, "root": str(tmp_path / "moved")})
    assert execute(moved, tmp_path / "run", Silent(), resume=True)["rounds"] == config.training.rounds
