"""TensorBoard, MLflow and Weights & Biases hear of a run, each read back by its own library."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.testing

import fedha
from fedha import plugins
from fedha.cli.commands import app
from fedha.config import Config, parse
from fedha.errors import FedhaError, StoppedError
from fedha.loggers import Logged, logger, with_loggers
from fedha.loggers.numbers import chosen, scalars, settings
from fedha.run import execute
from fedha.runs import own_files, runfolder
from fedha.runs.listener import Silent


def config(rounds: int = 4, every: int = 1) -> Config:
    content = {
        "name": "logged",
        "data": {"name": "digits_background", "target": "background3"},
        "model": {"name": "linear"},
        "recipe": "vrex",
        "training": {"rounds": rounds, "optimizer": "sgd"},
        "evaluation": {"every": 2},
        "checkpoint": {"every": every},
        "engine": {"name": "inline"},
    }
    return parse(content)


class Failing(Silent):
    def round_done(self, record: Mapping[str, Any]) -> None:
        raise OSError("no space left")


class Heard(Silent):
    def __init__(self) -> None:
        self.rounds: list[int] = []
        self.notes: list[str] = []

    def round_done(self, record: Mapping[str, Any]) -> None:
        self.rounds.append(record["round"])

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_numbers_of_a_record_have_names_and_what_has_no_value_is_left_out() -> None:
    record = {"round": 3, "risk": {"a": 0.5, "b": None}, "clients": 2, "note": "text", "stopped": True}
    assert scalars(record) == {"risk/a": 0.5, "clients": 2.0}
    told = chosen({"selection": {"oracle": {"round": 2, "target_accuracy": 0.5}}, "seconds": 1.5, "rounds": 9})
    assert told == {"selection/oracle/round": 2.0, "selection/oracle/target_accuracy": 0.5, "seconds": 1.5}
    assert settings(config())["training.optimizer"] == "sgd"
    assert settings(config())["recipe.name"] == "vrex"
    assert settings(config())["seed"] == "0"


def test_tensorboard_reads_every_round(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with with_loggers(Silent(), ["tensorboard"]) as listener:
        execute(config(), tmp_path / "run", listener)
    assert "tensorboard/" in own_files.owned(tmp_path / "run")
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    losses = read.Scalars("loss")
    records = runfolder.read_metrics(tmp_path / "run")
    assert [one.step for one in losses] == [1, 2, 3, 4]
    assert [one.value for one in losses] == pytest.approx([one["loss"] for one in records], rel=1e-6)
    assert [one.step for one in read.Scalars("target/background3/accuracy")] == [2, 4]
    assert read.Scalars("selection/oracle/round")[0].step == 4


def test_a_run_that_goes_on_is_the_same_run_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    heard = Heard()
    with with_loggers(heard, ["mlflow"]) as listener, pytest.raises(StoppedError):
        execute(config(), tmp_path / "run", listener, stop=lambda: 2 in heard.rounds)
    with with_loggers(heard, ["mlflow"]) as listener:
        execute(config(), tmp_path / "run", listener, resume=True)
    from mlflow.tracking import MlflowClient

    client = MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("logged")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.rounds"] == "4"
    assert [one.step for one in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4]
    assert "selection/oracle/target_accuracy" in run.data.metrics


def test_weights_and_biases_writes_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with with_loggers(Silent(), ["wandb"]) as listener:
        execute(config(rounds=2), tmp_path / "run", listener)
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = written.read_bytes()
    assert b"target/background3/accuracy" in content
    assert b"selection/oracle/round" in content


def _experiments(folder: Path) -> list[str]:
    return [one.name for one in (folder / "mlruns").iterdir() if one.name.isdigit() and one.name != "0"]


def test_names_that_a_tracker_refuses_are_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    heard = Heard()
    odd = config().model_copy(update={"name": "a/b: 50 % #1?"})
    with with_loggers(heard, ["mlflow", "wandb"]) as listener:
        listener.started(odd, tmp_path, 1)
        listener.round_done({"round": 1, "risk": {"ward #1": 0.5, "ward ?1": 0.25, "Zürich": float("nan")}})
        listener.finished({"seconds": 1.0})
    assert heard.notes == []
    from mlflow.tracking import MlflowClient

    (run,) = MlflowClient((tmp_path / "mlruns").as_uri()).search_runs(["0", *_experiments(tmp_path)])
    told = {name: value for name, value in run.data.metrics.items() if "ward" in name}
    assert told == {"risk/ward _23_1": 0.5, "risk/ward _3f_1": 0.25}  # two domains stay two


def test_a_logger_that_fails_is_told_once_and_the_run_goes_on() -> None:
    first, other = Heard(), Heard()
    logged = Logged(first, {"mine": Failing(), "other": other})
    for round in (1, 2):
        logged.round_done({"round": round})
    logged.close()
    assert first.rounds == other.rounds == [1, 2]
    assert first.notes == ["mine hears no more of this run: OSError: no space left"]


def test_loggers_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FedhaError, match=r"--log is 'tensorbord'; did you mean 'tensorboard'\? Or name your own as"):
        logger("tensorbord")
    with pytest.raises(FedhaError, match="which makes a dict; it needs the methods of a Listener"):
        logger("builtins:dict")
    monkeypatch.setattr("fedha.loggers.logged.find_spec", lambda name: None)
    with pytest.raises(FedhaError, match=r"needs a package that is not installed: pip install 'fedha\[wandb\]'"):
        logger("wandb")
    assert isinstance(logger(f"{__name__}:Heard"), Heard)
    assert set(plugins.BUILT_IN[plugins.LOGGERS]) == {"mlflow", "tensorboard", "wandb"}


def test_a_wrong_logger_leaves_no_folder(tmp_path: Path) -> None:
    asked = ["run", "digits-background", "--log", "nosuch", "--out", str(tmp_path / "run")]
    result = typer.testing.CliRunner().invoke(app, asked)
    assert isinstance(result.exception, FedhaError)
    assert not (tmp_path / "run").exists()


def test_a_program_gives_a_logger_as_its_listener(tmp_path: Path) -> None:
    from tests.test_simulation import DOMAINS, network

    fedha.simulate(
        DOMAINS, network, "erm", training={"rounds": 2}, listener=logger("tensorboard"), out=tmp_path / "run"
    )
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
