"""Distances in units of the features' mean square: one weight means the same at any scale of the features."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from fedha.config import FederationConfig, ModelConfig, RecipeConfig, TrainingConfig, parse
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.exchange import Task
from fedha.federation import run_round
from fedha.flower import HessianAlignment
from fedha.flower.serve import Job
from fedha.measurement import Circumstances, measure, view_head
from fedha.models import SplitModel
from fedha.penalty import term_value
from fedha.recipes import Distance, Recipe, Term
from fedha.registry import statistic
from fedha.runs.listener import Silent
from fedha.table import COUNTED, STATISTICS
from tests.batching.twins import assert_same, local, make_cohort, twin_rounds
from tests.driving import LOCAL, SYNCHRONOUS, app_of, assert_same_bits, train_over
from tests.jobs import run_job
from tests.killed_runs import assert_resumes
from tests.problems import PROBES, ROWS, SEED, Problem, make_problem

DEGREES = {name: row.degree for name, row in STATISTICS.items() if row.degree and not row.representation}
SGD = TrainingConfig(rounds=3, optimizer="sgd", learning_rate=0.1)
FEW = ("hgp", "hutchinson_expected", "fishr", "coral", "fediir")


def in_units(recipe: Recipe) -> Recipe:
    return replace(recipe, terms=tuple(replace(term, units="features") for term in recipe.terms), probes=PROBES)


ALIGNED = [name for name, row in ROWS.items() if in_units(row).in_units]


# --- the scale does not matter ---


def distance_at(scale: float, term: Term) -> Tensor:
    """A term of two domains at one linear head; features times the scale, the head over it, so that logits stay."""
    draws = torch.Generator().manual_seed(3)
    features = scale * torch.randn(2, 9, 5, generator=draws, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 9), generator=draws)
    head = nn.Linear(4, 3, dtype=torch.float64)
    view = view_head(SplitModel(nn.Identity(), head), {"head.weight": torch.zeros(3, 4), "head.bias": torch.zeros(3)})
    matrix = torch.randn(3, 5, generator=draws, dtype=torch.float64) / scale
    view, around = replace(view, arguments=(matrix,)), Circumstances(1, 1, "a", PROBES, {})
    wanted = ["gradient", "feature_size"]

    def of_both(name: str, around: Circumstances) -> list[Tensor]:
        return [measure(name, view, z, y, around) for z, y in zip(features, labels, strict=True)]

    references = {name: torch.stack(of_both(name, around)).mean(0) for name in wanted}
    values = of_both(term.statistic, replace(around, references=references))
    row = statistic(term.statistic)
    references[row.reference or term.statistic] = (values[0] + values[1]) / 2
    return term_value(term, values[0], references, {term.statistic: values[0]}, 0.5)


@pytest.mark.parametrize("distance", ["squared", "mean_squared", "inner"])
@pytest.mark.parametrize("name", DEGREES)
def test_a_distance_in_units_is_the_same_for_features_of_any_scale(name: str, distance: Distance) -> None:
    term = Term(name, distance=distance, target="others" if distance == "inner" else "mean", units="features")
    assert_close(distance_at(10.0, term), distance_at(1.0, term), rtol=1e-9, atol=0)
    raw = replace(term, units="raw")
    assert_close(distance_at(10.0, raw), 100.0 ** DEGREES[name] * distance_at(1.0, raw), rtol=1e-9, atol=0)


def test_a_value_in_units_is_the_same_for_features_of_any_scale() -> None:
    term = Term("off_diagonal_energy", target="zero", distance="value", units="features")
    assert_close(distance_at(10.0, term), distance_at(1.0, term), rtol=1e-9, atol=0)


def test_every_statistic_says_with_what_power_it_grows() -> None:
    degrees = {name: row.degree for name, row in {**STATISTICS, **COUNTED}.items()}
    free = {"risk", "scale_gradient", "random_features", "risk_distribution", "conditional_information", "accuracy"}
    assert {name for name, degree in degrees.items() if not degree} == free | {"representation_norm"}


# --- what a round does ---


def feature_size(problem: Problem, parameters: dict[str, Tensor]) -> tuple[float, float]:
    """The mean over clients of their features' mean square, by hand: of an entry, of a row."""
    sizes = []
    for domain in problem.domains:
        featurizer = {name.removeprefix("featurizer."): v for name, v in parameters.items() if "featurizer" in name}
        features = torch.func.functional_call(problem.model.featurizer, featurizer, (domain.train.inputs,))
        squares = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], 1).square()
        sizes.append((squares.mean().item(), squares.sum(1).mean().item()))
    return sum(one for one, _ in sizes) / 3, sum(row for _, row in sizes) / 3


@pytest.mark.parametrize("training", [SGD, LOCAL], ids=["synchronous", "local"])
@pytest.mark.parametrize("name", ALIGNED)
def test_a_round_in_units_is_a_raw_one_at_weights_over_the_units(name: str, training: TrainingConfig) -> None:
    problem, recipe = make_problem(), in_units(ROWS[name])
    one, row = feature_size(problem, dict(problem.model.named_parameters()))
    terms = []
    for term in Task(recipe, training, SEED).recipe.terms:
        power = statistic(term.statistic).degree / (2 if term.distance == "value" else 1)
        size = one if term.distance == "mean_squared" else row
        terms.append(replace(term, weight=term.weight / size**power, units="raw"))
    by_hand = problem.train(replace(recipe, terms=tuple(terms)), training, 1)
    for parameter, value in problem.train(recipe, training, 1).items():
        assert_close(value, by_hand[parameter], rtol=1e-9, atol=1e-12)


def test_hgp_of_large_features_stays_of_the_size_of_a_risk() -> None:
    problem = make_problem(precision="float32")
    with torch.no_grad():
        for layer in problem.model.featurizer.parameters():
            layer.mul_(30)
    losses = {}
    for units in ("raw", "features"):
        recipe = RecipeConfig(name="hgp", units=units).resolve()
        record = run_round(problem.server(recipe, SGD), problem.clients(), 1)
        losses[units] = record["loss"] - sum(record["risk"].values()) / 3
    assert losses["raw"] > 1e4
    assert 0 < losses["features"] < 1


# --- one answer ---


@pytest.mark.parametrize("schedule", ["exact", "piggyback"])
@pytest.mark.parametrize("training", [SYNCHRONOUS, LOCAL], ids=["synchronous", "local"])
@pytest.mark.parametrize("name", FEW)
def test_the_strategy_gives_the_bits_of_the_plain_loop(name: str, training: TrainingConfig, schedule: Any) -> None:
    problem, recipe = make_problem(precision="float32"), in_units(ROWS[name])
    server, clients = problem.server(recipe, training), problem.clients()
    server.piggyback = schedule == "piggyback"
    if server.piggyback and name == "hgp":
        assert "feature_size" in server.riders(1)
    records = [run_round(server, clients, number) for number in range(1, training.rounds + 1)]
    federation = FederationConfig(schedule=schedule)
    strategy = HessianAlignment(recipe, training, seed=SEED, clients=3, federation=federation)
    over_grid = train_over(InlineGrid(app_of(problem), 3), strategy, problem, training.rounds)
    assert_same_bits(over_grid[0], server.parameters)
    assert over_grid[1] == records


@pytest.mark.parametrize("name", FEW)
def test_training_in_pieces_is_training_in_one(name: str) -> None:
    recipe = in_units(ROWS[name])
    whole = make_problem().train(recipe, SGD, 3)
    pieces = make_problem().train(recipe, SGD.model_copy(update={"chunk": 5}), 3)
    for parameter, value in pieces.items():
        assert_close(value, whole[parameter], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [SGD, local(steps=2, batch_size=5)], ids=["synchronous", "local"])
def test_clients_that_are_answered_together_have_the_same_units(training: TrainingConfig) -> None:
    clients = make_cohort(ModelConfig(hidden=[5], precision="float64"), (4,))
    assert_same(twin_rounds(clients, in_units(ROWS["exact_diagonal"]), training, 2))


def test_on_a_piggyback_schedule_all_clients_have_the_same_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, seen = make_problem(), list[Tensor]()
    monkeypatch.setattr("fedha.penalty.unit", lambda term, references: seen.append(references["feature_size"]) or 1.0)
    server = problem.server(in_units(ROWS["iga"]), SGD)
    server.piggyback = True
    clients = problem.clients()
    for number in (1, 2):
        run_round(server, clients, number)
    assert len(seen) == 6
    assert torch.equal(seen[3], seen[4])
    assert torch.equal(seen[4], seen[5])


RUN = {
    "data": {"name": "colored_digits"},
    "model": {"name": "mlp", "hidden": [4]},
    "recipe": {"name": "hgp", "units": "features"},
    "training": {"rounds": 4},
}


@pytest.mark.parametrize("schedule", ["exact", "piggyback"])
def test_a_killed_run_resumes_to_the_same_bits(schedule: str, tmp_path: Path) -> None:
    config = parse({**RUN, "federation": {"schedule": schedule}, "checkpoint": {"every": 1}})
    assert_resumes(config, tmp_path, 2)


def test_units_pass_secure_sums(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("plain", "secure")}
    run_job(Job(parse({**RUN, "training": {"rounds": 2}}), folders["plain"]), Silent())
    secure = {**RUN, "training": {"rounds": 2}, "privacy": {"secure_aggregation": True, "minimum": 2}}
    run_job(Job(parse(secure), folders["secure"]), Silent())
    one, other = (load_file(folder / "model.safetensors") for folder in folders.values())
    assert_close(one, other, rtol=0, atol=1e-4)


# --- refusals ---


@pytest.mark.parametrize("name", ["erm", "irm", "vrex", "mmd"])
def test_units_of_what_has_none_are_refused(name: str) -> None:
    with pytest.raises(FedhaError, match=f"'{name}' does not use units"):
        parse({"recipe": {"name": name, "units": "features"}})


@pytest.mark.parametrize("protect", ["examples", "clients"])
def test_units_are_refused_where_something_is_protected(protect: str) -> None:
    privacy = {"protect": protect, "noise_multiplier": 1.0, "clip": 1.0}
    content = {**RUN, "recipe": {"name": "exact_diagonal", "units": "features"}, "privacy": privacy}
    content["training"] = {"rounds": 4, "averaging": "clients"}
    with pytest.raises(FedhaError, match=rf"privacy.protect is '{protect}', and recipe.units is 'features'"):
        parse(content)
    task = parse({**content, "recipe": "exact_diagonal"})
    with pytest.raises(FedhaError, match=r"recipe.units is 'features'"):
        Task(in_units(ROWS["exact_diagonal"]), task.training, SEED, task.privacy)


def test_units_of_a_head_that_is_not_linear_are_refused() -> None:
    with pytest.raises(FedhaError, match=r"units of a linear head.*set recipe.units: raw"):
        make_problem("network").train(in_units(ROWS["iga"]), SGD, 1)


def test_published_rows_are_raw() -> None:
    assert {term.units for row in ROWS.values() for term in row.terms} == {"raw"}
