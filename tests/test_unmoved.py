"""A recipe that cannot move a network is told before the first round, and in what is written."""

from pathlib import Path

import pytest
from torch import nn

from fedha.cli.launch import find_config
from fedha.config import ModelConfig, TrainingConfig
from fedha.models import SplitModel, build
from fedha.recipes import RECIPES
from fedha.run import execute
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from fedha.unmoved import unmoved
from tests.made_runs import FAST, changed


def told(recipe: str, model: SplitModel, sources: int = 3, **training: object) -> list[str]:
    return unmoved(RECIPES[recipe], model, (2, 3), sources, TrainingConfig(**training))


@pytest.mark.parametrize("recipe", RECIPES)
def test_of_a_linear_network_only_the_features_stay_where_they_are(recipe: str) -> None:
    linear = build(ModelConfig(name="linear"), (2, 3), 2, 0)
    assert bool(told(recipe, linear)) == (recipe in ("coral", "mmd"))
    assert not told(recipe, build(ModelConfig(hidden=[3]), (2, 3), 2, 0))


def test_a_featurizer_that_is_frozen_counts_as_one_without_parameters() -> None:
    model = SplitModel(nn.Sequential(nn.Flatten(), nn.Linear(6, 4).requires_grad_(False)), nn.Linear(4, 2))
    (sentence,) = told("coral", model)
    assert sentence.startswith(
        "recipe 'coral' cannot move this network: feature_mean, feature_covariance do not depend"
    )
    assert not told("hgp", model)


def test_a_single_client_has_nobody_to_align_with() -> None:
    model = build(ModelConfig(hidden=[3]), (2, 3), 2, 0)
    assert "there is one client" in told("hgp", model, 1)[0]
    assert not told("irm", model, 1)
    assert not told("erm", model, 1)
    assert not told("hgp", model, 1, mode="local")


def test_an_option_that_the_network_does_not_read_is_told() -> None:
    assert ModelConfig(name="linear", hidden=[64]).unread == [
        "model.hidden is [64], which network 'linear' does not read"
    ]
    assert ModelConfig(name="linear").unread == ModelConfig(name="mlp", hidden=[64]).unread == []
    assert ModelConfig(name="pkg.nets:make", options={"hidden": 3}).unread == []


class Heard(Silent):
    """Keeps what it is told before the first round."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.begun = False

    def note(self, text: str) -> None:
        self.notes += [] if self.begun else [text]

    def round_done(self, record: object) -> None:
        self.begun = True


def test_it_is_said_before_the_first_round_and_kept(tmp_path: Path) -> None:
    config = find_config("quickstart", changed(FAST, "recipe=coral", "seed=0", "model.name=linear"))
    heard = Heard()
    execute(config, tmp_path / "run", heard)
    remarks = runfolder.read_results(tmp_path / "run")["remarks"]
    assert [one.partition(" is ")[0].partition(":")[0] for one in remarks] == [
        "model.hidden",
        "recipe 'coral' cannot move this network",
    ]
    assert set(remarks) <= set(heard.notes)


def test_a_run_that_came_apart_says_so_in_its_results(tmp_path: Path) -> None:
    wild = ("training.optimizer=adam", "training.learning_rate=1e6", "training.rounds=12")
    config = find_config("quickstart", changed(FAST, "recipe=erm", "seed=0", *wild))
    results = execute(config, tmp_path / "run", Silent())
    assert "where a uniform guess has 0.69" in results["diverged"]
    assert runfolder.read_results(tmp_path / "run")["diverged"] == results["diverged"]
