"""What is wrong with a sweep is said in a sentence before its first run, and nothing is half begun."""

import threading
from pathlib import Path

import pytest

from fedha.sweep.store import entries
from fedha.sweep.work import FAILED, Worker
from tests.commands import Command
from tests.disks import full_disk
from tests.sweep.made import finished, opened, sweep, whole


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("data.target=[a, x]",), "data.target names 'x', which is no domain; the domains are a, b, c"),
        (("data.target=[a, b]", "data.sources=[a, c]"), "'a' is both data.target and in data.sources"),
        (("data.target=a", "data.sources=[b, y]"), "data.sources names 'y', which is no domain"),
        (("data.target=[a, c]", "data.validation_domain=c"), "'c' is data.validation_domain and in data.target"),
        (("data.target=a", "data.validation_domain=e"), "data.validation_domain names 'e', which is no domain"),
        (("data={name: 'tests.data_of_others:wards', target: [ward0, ward9]}",), "'ward9', which is no domain"),
    ],
)
def test_domains_that_are_none_are_refused_before_the_first_run(
    fedha: Command, changes: tuple[str, ...], says: str
) -> None:
    code, _, err = sweep(fedha, *changes)
    assert (code, says in err) == (2, True), err
    assert not Path("s").exists()


WRONG = [
    ("evaluation.groups=hospital", "evaluation.groups is 'hospital', which the examples do not have"),
    ("evaluation.metrics=['math:sqrt']", "metric 'math:sqrt' takes x"),
    ("training.clients_per_round=50", "training.clients_per_round is 50 but there are 2 clients"),
    ("training.class_weights=[1, 2, 3]", "training.class_weights has 3 weights"),
    ("model.name=cnn", "model 'cnn' takes images"),
    ("model.features.cache=kept", "no part of network 'mlp' that gives features is frozen"),
    ("model.start={run: nowhere}", "there is no run in it"),
    ("data.partition=lambda", "data.partition: missing a required argument: 'clients'"),
    ("data.root=nowhere", "nowhere is no folder"),
]


@pytest.mark.parametrize(("change", "says"), WRONG)
def test_a_fixed_value_that_no_run_could_have_is_refused_before_the_folder_is_made(
    fedha: Command, change: str, says: str
) -> None:
    code, _, err = sweep(fedha, "recipe=[erm, coral]", change)
    assert (code, says in err, err.count("\n")) == (2, True, 1), err
    assert not Path("s").exists()
    code, _, err = fedha("check", "c.yaml", "recipe=erm", "data.target=a", change)
    assert (code, says in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.parametrize(("recipe", "meant"), [("corall", "coral"), ("{name: coral, wieght: [1, 2]}", "weight")])
def test_a_misspelt_recipe_or_key_is_refused_where_the_others_could_go_on(
    fedha: Command, recipe: str, meant: str
) -> None:
    code, _, err = sweep(fedha, f"recipe=[erm, {recipe}]")
    assert (code, f"did you mean '{meant}'" in err, Path("s").exists()) == (2, True, False), err


def test_where_every_run_came_apart_it_is_said(fedha: Command) -> None:
    code, _, err = sweep(fedha, "-q", "seed=0", "data.target=a", "recipe=erm", "training.learning_rate=1e9")
    assert (code, "every run of s that ended came apart, the first: its loss is" in err) == (2, True), err


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("training.learning_rate=[0.1, 0.01]", "training.learning_rate"),
        ("training.learning_rate={log_uniform: [-2, -1]}", "training.learning_rate"),
        ("recipe={name: coral, weight: [1, 2]}", "recipe.weight"),
        ("model.hidden={choice: [[4], [8]]}", "model.hidden"),
        ("data.target=[a, b]", "data.target"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_run_of_what_is_a_sweep_names_the_command_that_takes_it(
    fedha: Command, command: str, change: str, key: str
) -> None:
    code, _, err = fedha(command, "c.yaml", *_one(change))
    assert code == 2
    assert f"{key} has several values" in err
    assert "fedha sweep c.yaml" in err
    assert not Path("runs").exists()


def _one(change: str) -> list[str]:
    """The overrides of one run, with a change."""
    usual = {"data.target": "data.target=a", "recipe": "recipe=erm"}
    return [*(text for key, text in usual.items() if not change.startswith(f"{key}=")), change]


def test_a_recipe_that_changed_under_its_name_is_refused_and_the_sweep_stays(fedha: Command) -> None:
    few = ("-q", "seed=0", "data.target=a")
    assert sweep(fedha, *few, "recipe={name: coral, weight: 1}")[0] == 0
    before = Path("s/sweep.json").read_bytes()
    code, _, err = sweep(fedha, *few, "recipe={name: coral, weight: 2}")
    assert code == 2
    assert "recipe 'coral' has weight '1', and now it is '2'" in err
    assert Path("s/sweep.json").read_bytes() == before
    assert sweep(fedha, *few, "recipe={name: coral, weight: [1, 2]}")[0] == 0
    assert len(finished()) == 2


def test_two_sweeps_that_begin_at_once_in_one_folder_are_one_or_one_is_refused(fedha: Command) -> None:
    told: list[str] = []

    def begin(*changes: str) -> None:
        from fedha.errors import FedhaError

        try:
            opened("s", *changes)
        except FedhaError as error:
            told.append(str(error))

    threads = [threading.Thread(target=begin, args=(f"training.rounds={rounds}",)) for rounds in (2, 3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(told) == 1
    assert "holds a sweep of another config (training.rounds was" in told[0]
    assert len(entries(Path("s"))) == 12


@pytest.mark.parametrize("limit", [300, 1500, 4000])
def test_a_disk_that_is_full_in_mid_sweep_ends_it_with_a_sentence_and_it_goes_on(fedha: Command, limit: int) -> None:
    few = ("-q", "data.target=a")
    every = (*few, "recipe=[erm, coral]")
    code, whole_table, _ = fedha("sweep", "c.yaml", "--out", "t", "--jobs", "1", *every)
    assert sweep(fedha, *few, "seed=0", "recipe=erm")[0] == 0
    with full_disk(limit):
        code, _, err = sweep(fedha, *every)
    assert (code, err.count("\n")) == (2, 1), err
    assert "cannot" in err
    code, table, _ = sweep(fedha, *every)
    assert code == 0
    assert _accuracies(table) == _accuracies(whole_table)


def _accuracies(text: str) -> list[str]:
    return [line for line in text.splitlines() if "±" in line]


@pytest.mark.usefixtures("fedha")
def test_draws_that_the_schema_refuses_are_those_runs_failures_and_say_the_value() -> None:
    store, jobs = opened("s", "recipe=erm", "data.target=a", "training.learning_rate={uniform: [-1, 1]}", draws=4)
    refused = [one for one in jobs if one.config is None]
    assert 0 < len(refused) < len(jobs)
    assert all("learning_rate is -0." in one.refused for one in refused)
    assert Worker(store).work(whole(refused)[0][0]).state == FAILED
