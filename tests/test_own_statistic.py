"""Somebody's own statistic works like fedha's own, without a line changed in fedha."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from torch.testing import assert_close

from fedha import Mean, add_statistic, plugins, registry
from fedha.config import LocalConfig, TrainingConfig, from_json, parse, to_json
from fedha.errors import FedhaError
from fedha.exchange import Task
from fedha.federation import run_round
from fedha.flower.wire import pack_task, unpack_task
from fedha.measurement import shapes
from fedha.recipes import Recipe, Term
from tests.batching.twins import assert_same, local, make_cohort, twin_rounds
from tests.problems import make_problem
from tests.statistics_of_others import confidence, logit_mean

NAME = "tests.statistics_of_others:confidence"
PRIVATE = {"protect": "examples", "noise_multiplier": 1.0}
SYNCHRONOUS = TrainingConfig(rounds=6, optimizer="sgd", learning_rate=0.1)
PIECES = SYNCHRONOUS.model_copy(update={"chunk": 9})
STEPS = LocalConfig(steps=2, batch_size=6, learning_rate=0.1)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds is forgotten with it."""
    monkeypatch.setattr(registry, "_added", dict(registry._added))


def recipe(name: str = NAME, weight: float = 3.0) -> Recipe:
    return parse({"recipe": {"name": "mine", "align": {name: weight}}}).recipe[0].resolve()


def by_hand(head: str, rounds: int) -> dict[str, Tensor]:
    """The same training, with one autograd graph over all domains."""
    problem = make_problem(head)
    parameters = {name: value.detach().clone() for name, value in problem.model.named_parameters()}
    for _ in range(rounds):
        live = {name: value.requires_grad_() for name, value in parameters.items()}
        risks, spreads = [], []
        for domain in problem.domains:
            logits = functional_call(problem.model, live, (domain.train.inputs,))
            risks.append(functional.cross_entropy(logits, domain.train.labels))
            spreads.append(torch.softmax(logits, 1).var(0, correction=0))
        mean = torch.stack(spreads).mean(0).detach()
        penalties = [(one - mean).square().sum() for one in spreads]
        loss = torch.stack([risk + 3 * penalty for risk, penalty in zip(risks, penalties, strict=True)]).mean()
        slopes = torch.autograd.grad(loss, list(live.values()))
        parameters = {
            name: (value - 0.1 * slope).detach() for (name, value), slope in zip(live.items(), slopes, strict=True)
        }
    return parameters


@pytest.mark.parametrize("head", ["three classes", "network"])
def test_its_recipe_trains_as_an_independent_loop_does(head: str) -> None:
    trained = make_problem(head).train(recipe(), SYNCHRONOUS, 6)
    assert_close(trained, by_hand(head, 6), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("head", ["three classes", "network"])
@pytest.mark.parametrize("training", [SYNCHRONOUS, TrainingConfig(mode="local", rounds=4, local=STEPS)])
def test_no_piece_changes_it(training: TrainingConfig, head: str) -> None:
    whole = make_problem(head).train(recipe(), training, 4)
    pieces = make_problem(head).train(recipe(), training.model_copy(update={"chunk": 4}), 4)
    assert_close(pieces, whole, rtol=1e-10, atol=1e-10)


def test_clients_that_train_together_get_it_too() -> None:
    clients = make_cohort(parse({"model": {"hidden": [6], "precision": "float64"}}).model, (4,))
    assert_same(twin_rounds(clients, recipe(), local(epochs=1, batch_size=5), 2))
    assert_same(twin_rounds(clients, recipe(), SYNCHRONOUS, 2))


def test_an_engines_worker_knows_it_from_the_config_that_it_reads() -> None:
    text = to_json(parse({"recipe": {"name": "mine", "align": {NAME: 1.0}}}))
    registry._added.pop(NAME)
    assert from_json(text).recipe[0].resolve().least_examples == 1


def test_a_message_makes_nobody_import_a_module() -> None:
    told = Recipe("theirs", (Term("os:getcwd"),))
    with pytest.raises(FedhaError, match="there is no statistic 'os:getcwd'"):
        unpack_task(pack_task(Task(told, SYNCHRONOUS, 0))).recipe.measurements()


def test_where_examples_are_protected_it_is_refused_by_name() -> None:
    with pytest.raises(FedhaError, match=f"aligns {NAME}, which cannot be covered: nobody has bounded"):
        parse({"recipe": {"name": "mine", "align": {NAME: 1.0}}, "privacy": PRIVATE})


def test_one_that_says_what_each_example_adds_is_released_and_pulled() -> None:
    add_statistic(logit_mean())
    mine = recipe("logit_mean")
    privacy = parse({"recipe": "iga", "privacy": {**PRIVATE, "noise_multiplier": 1e-9, "clip": 1e6}}).privacy
    wide = privacy.model_copy(update={"statistics_clip": 1e6})
    problem = make_problem()
    plain, covered = problem.server(mine, SYNCHRONOUS), problem.server(mine, SYNCHRONOUS)
    covered.task = replace(covered.task, privacy=wide)
    for server in (plain, covered):
        for number in (1, 2):
            run_round(server, problem.clients(), number)
    assert_close(covered.parameters, plain.parameters, rtol=1e-3, atol=1e-4)


def test_what_is_no_mean_over_examples_is_refused_where_pieces_would_be_added_up() -> None:
    with pytest.raises(FedhaError, match="'spread' of 8 examples is not the mean of its values"):
        make_problem().train(
            recipe("tests.statistics_of_others:spread"), SYNCHRONOUS.model_copy(update={"chunk": 9}), 1
        )


def test_one_that_fails_is_named_with_its_line() -> None:
    mine = recipe("tests.statistics_of_others:fails")
    with pytest.raises(FedhaError, match=r"'tests.statistics_of_others:fails' fails with KeyError: .*others.py, line"):
        shapes(make_problem().model, (4,), mine.measurements()[0], 1)


def test_a_package_adds_one_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "theirs-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[fedha.statistics]\ntheir_confidence = tests.statistics_of_others:confidence\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plugins.installed.cache_clear()
    try:
        assert recipe("their_confidence").measurements() == (("their_confidence",),)
        assert registry.statistic("their_confidence").summary == "variance of the probabilities"
    finally:
        plugins.installed.cache_clear()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "gradient"}, "'gradient' is one of fedha's own"),
        ({"means": (Mean("squared_gradient", confidence().means[0].of),)}, "calls a mean 'squared_gradient'"),
        ({"means": ()}, "needs a name and one mean or more"),
        ({"derive": None}, "has 2 means; give derive"),
    ],
)
def test_what_could_not_work_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FedhaError, match=message):
        add_statistic(replace(confidence(), **change))


def test_two_means_of_one_name_are_refused() -> None:
    add_statistic(replace(confidence(), name="first"))
    add_statistic(replace(confidence(), name="second"))
    both = Recipe("both", (Term("first"), Term("second")))
    with pytest.raises(FedhaError, match="'second' calls a mean 'probability', as another one does"):
        make_problem().train(both, PIECES, 1)
