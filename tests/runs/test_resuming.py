"""A run's past is what its config says it is: what would change it is refused by name, what does not is taken."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedha import config as configs
from fedha.config import Config, may_change, parse
from fedha.config.overrides import apply_override
from fedha.errors import FedhaError
from fedha.exchange import Task
from fedha.federation import Server
from fedha.runs import own_files, resuming, runfolder
from fedha.runs.checkpoint import save_checkpoint
from tests.made_runs import results

BASE: dict[str, Any] = {"recipe": "fishr", "training": {"rounds": 100}, "data": {"label_noise": 0.25}}


def made(folder: Path, config: Config, round: int = 60, *, finished: bool = False) -> Path:
    """A run's folder with a checkpoint."""
    runfolder.create(folder, config)
    task = Task(config.recipe[0].resolve(), config.training, 0, config.privacy)
    server = Server(task, {"w": torch.ones(1)})
    save_checkpoint(folder, round, server, [], None, config.model_dump(mode="json"))
    log = runfolder.MetricsLog(folder)
    for number in range(1, round + 3):
        log.append({"round": number, "loss": 1.0})
    if finished:
        own_files.write_json(folder, "results.json", results())
    return folder


def changed(content: dict[str, Any], override: str) -> Config:
    copy = parse(content).model_dump(mode="json")
    if override.startswith("recipe."):
        copy["recipe"] = copy["recipe"][0]
    apply_override(copy, override)
    return parse(copy)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.label_noise=0.0", "data.label_noise was 0.25 and is now 0.0"),
        ("data.held_out=0.3", "data.held_out was 0.2 and is now 0.3"),
        ("training.learning_rate=3", "training.learning_rate was null and is now 3.0"),
        ("training.schedule=cosine", 'training.schedule was "constant" and is now "cosine"'),
        ("training.optimizer=sgd", 'training.optimizer was null and is now "sgd"'),
        ("recipe.weight=2", "recipe.weight was 1.0 and is now 2.0"),
        ("recipe.moving_average=0.5", "recipe.moving_average was null and is now 0.5"),
        ("seed=1", r"seed was \[0\] and is now \[1\]"),
        ("model.hidden=[4, 4]", r"model.hidden was \[128\] and is now \[4, 4\]"),
        ("training.rounds=59", "has done 60 rounds: training.rounds was 100 and is now 59; give at least 60"),
    ],
)
def test_what_would_change_the_past_is_refused_with_both_values(override: str, said: str, tmp_path: Path) -> None:
    folder = made(tmp_path / "run", parse(BASE))
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(FedhaError, match=said):
        resuming.changes(folder, changed(BASE, override))
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_all_that_was_changed_is_named(tmp_path: Path) -> None:
    config = changed({**BASE, "data": {"label_noise": 0.0}}, "training.weight_decay=1")
    with pytest.raises(FedhaError, match=r"data\.label_noise was .*; training\.weight_decay was .*; put them back"):
        resuming.changes(made(tmp_path / "run", parse(BASE)), config)


@pytest.mark.parametrize(
    "override",
    [
        "training.rounds=400",
        "training.rounds=60",
        "engine.name=inline",
        "engine.address=auto",
        "checkpoint.every=7",
        "checkpoint.minutes=null",
        "evaluation.every=5",
        "data.root=/elsewhere",
        "federation.patience=5",
    ],
)
def test_what_a_person_may_want_to_change_is_taken_and_kept(override: str, tmp_path: Path) -> None:
    folder, config = made(tmp_path / "run", parse(BASE)), changed(BASE, override)
    (found,) = resuming.changes(folder, config)
    assert found.key == override.partition("=")[0]
    resuming.take_up(folder, config, [found])
    assert configs.load(folder / "config.yaml") == config


def test_an_edited_config_is_compared_with_what_the_checkpoint_was_made_with(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", parse(BASE))
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("label_noise: 0.25", "label_noise: 0.0"))
    with pytest.raises(FedhaError, match=r"label_noise was 0\.25 and is now 0\.0"):
        resuming.changes(folder, configs.load(folder / "config.yaml"))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_with_a_schedule_the_number_of_rounds_is_part_of_the_past(schedule: str, tmp_path: Path) -> None:
    content = {**BASE, "training": {"rounds": 100, "schedule": schedule}}
    with pytest.raises(
        FedhaError, match=f"training.rounds was 100 and is now 400, but training.schedule is '{schedule}'"
    ):
        resuming.changes(made(tmp_path / "run", parse(content)), changed(content, "training.rounds=400"))


def test_a_finished_run_goes_on_where_another_end_is_asked_for_and_else_stays(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", parse(BASE), 100, finished=True)
    assert resuming.is_done(folder, parse(BASE))
    assert resuming.is_done(folder, changed(BASE, "engine.workers=3"))
    more = changed(BASE, "training.rounds=400")
    assert not resuming.is_done(folder, more)
    resuming.take_up(folder, more, resuming.changes(folder, more))
    assert not runfolder.is_finished(folder)
    (folder / "checkpoint" / "state.safetensors").unlink()
    own_files.write_json(folder, "results.json", results())
    with pytest.raises(FedhaError, match="its checkpoint is gone"):
        resuming.changes(folder, changed(BASE, "training.rounds=500"))
    assert runfolder.is_finished(folder)


def test_before_the_first_checkpoint_there_is_no_past(tmp_path: Path) -> None:
    runfolder.create(tmp_path / "run", parse(BASE))
    other = changed(BASE, "data.label_noise=0.0")
    assert resuming.changes(tmp_path / "run", other) == []
    resuming.take_up(tmp_path / "run", other, [])
    assert configs.load(tmp_path / "run" / "config.yaml") == other


def test_a_line_between_rounds_is_no_round_and_goes_with_the_rounds_after_it(tmp_path: Path) -> None:
    log = runfolder.MetricsLog(tmp_path)
    log.append({"round": 1})
    log.append_changes(2, {"training.rounds": {"was": 1, "now": 3}})
    log.append({"round": 2})
    assert [one["round"] for one in runfolder.read_metrics(tmp_path)] == [1, 2]
    assert [one["from_round"] for one in runfolder.read_changes(tmp_path)] == [2]
    log.truncate_after(2)
    assert len(runfolder.read_changes(tmp_path)) == 1
    log.truncate_after(1)  # it will be written again, if it still holds
    assert runfolder.read_changes(tmp_path) == []


def test_what_may_change_is_what_the_schema_says_and_nothing_by_default() -> None:
    assert all(may_change(f"engine.{name}") for name in configs.EngineConfig.model_fields)
    for key in ("name", "seed", "recipe.name", "recipe.align.gradient", "training.local.steps", "privacy.clip", "x.y"):
        assert not may_change(key)
