"""FedSR minimises its paper's objective, on a network that gives a Gaussian of each example."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.func import functional_call
from torch.nn.functional import cross_entropy, softplus
from torch.testing import assert_close

from fedha.client import Client
from fedha.config import ModelConfig, RecipeConfig, TrainingConfig, parse
from fedha.data.domain import Examples
from fedha.errors import FedhaError
from fedha.exchange import Task
from fedha.federation import Server, run_round
from fedha.flower.serve import Job
from fedha.models import SplitModel, build, gaussian
from fedha.models.random_layers import DrawSource, drawing, random_parts
from fedha.recipes import RECIPES
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.jobs import run_job
from tests.killed_runs import assert_resumes
from tests.problems import LOCAL, SEED, SGD, Problem, make_problem


def problem() -> Problem:
    plain = make_problem()
    config = ModelConfig(hidden=[5], precision="float64", representation="gaussian")
    return replace(plain, model=build(config, (4,), 3, SEED))


def published(model: SplitModel, own: dict[str, Tensor], part: Examples, draws: DrawSource) -> Tensor:
    """Risk of one draw, plus 0.3 times E|z|^2, plus 0.2 times KL[p(z|x), r(z|y)], by torch's distributions."""
    body = {name.removeprefix("featurizer."): value for name, value in own.items() if name.startswith("featurizer.")}
    mean, raw = functional_call(model.featurizer, body, (part.inputs,)).chunk(2, 1)
    each = Independent(Normal(mean, softplus(raw)), 1)
    with drawing(draws, torch.device("cpu")):
        sample = mean + softplus(raw) * torch.randn_like(mean)
    logits = sample @ own["head.linear.weight"].T + own["head.linear.bias"]
    classes = Normal(own["head.reference_mean"][part.labels], softplus(own["head.reference_spread"])[part.labels])
    norm = each.variance.sum(1) + each.mean.square().sum(1)
    divergence = kl_divergence(each, Independent(classes, 1))
    return cross_entropy(logits, part.labels) + 0.3 * norm.mean() + 0.2 * divergence.mean()


def test_the_update_is_the_gradient_of_the_published_objective() -> None:
    given = problem()
    weights = {"representation_norm": 0.3, "conditional_information": 0.2}
    recipe = RecipeConfig(name="fedsr", align=weights).resolve()
    server, clients = given.server(recipe, SGD), given.clients()
    drawn = random_parts(given.model, given.domains[0].train.form).head
    for number in range(1, 4):
        before = {name: value.detach().clone().requires_grad_() for name, value in server.parameters.items()}
        losses = [
            published(
                given.model, before, domain.train, DrawSource((SEED, "chance", number, client, 0, "head"), drawn, 0)
            )
            for client, domain in enumerate(given.domains)
        ]
        slopes = torch.autograd.grad(torch.stack(losses).mean(), list(before.values()))
        run_round(server, clients, number)
        for (name, start), slope in zip(before.items(), slopes, strict=True):
            assert_close(server.parameters[name], start.detach() - 0.1 * slope, rtol=0, atol=1e-12)
    assert float((server.parameters["head.reference_mean"]).abs().max()) > 1e-4  # r(z|y) is trained


@pytest.mark.parametrize("training", [SGD, LOCAL], ids=["synchronous", "local"])
def test_it_is_the_same_in_pieces(training: TrainingConfig) -> None:
    whole = problem().train(RECIPES["fedsr"], training, 3)
    pieces = problem().train(RECIPES["fedsr"], training.model_copy(update={"chunk": 5}), 3)
    assert_close(pieces, whole, rtol=0, atol=1e-12)


def test_an_example_is_its_mean_where_it_is_evaluated() -> None:
    model = problem().model.eval()
    inputs = torch.randn(6, 4, dtype=torch.float64)
    assert_close(model(inputs), model(inputs), rtol=0, atol=0)
    model.train()
    assert not torch.equal(model(inputs), model(inputs))


def test_the_recipe_asks_for_the_network_and_config_and_sweep_need_not() -> None:
    config = parse({"recipe": ["erm", "fedsr"], "model": {"hidden": [6]}})
    plain, asked = (one.network.representation for one in config.runs())
    assert (plain, asked) == (None, "gaussian")
    with pytest.raises(FedhaError, match="'fedsr' aligns a gaussian representation, and"):
        parse({"recipe": "fedsr", "model": {"representation": "point"}})


def test_networks_without_it_are_refused_before_the_first_round() -> None:
    model = make_problem().model
    clients = [Client(place, domain, model) for place, domain in enumerate(make_problem().domains)]
    server = Server(Task(RECIPES["fedsr"], SGD, SEED), dict(model.named_parameters()))
    with pytest.raises(FedhaError, match=r"this network gives points; take fedha\.models\.gaussian\(network\)"):
        run_round(server, clients, 1)
    deep = SplitModel(nn.Identity(), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    with pytest.raises(FedhaError, match="takes a network whose head is one linear layer"):
        gaussian(deep)
    privacy = {"protect": "examples", "noise_multiplier": 1.0, "sampling": "whole"}
    with pytest.raises(FedhaError, match="'fedsr' aligns representation_norm, which cannot be covered"):
        parse({"recipe": "fedsr", "privacy": privacy})


BASE: dict[str, Any] = {
    "model": {"hidden": [6]},
    "recipe": "fedsr",
    "training": {"mode": "local", "rounds": 4, "local": {"epochs": 1, "batch_size": 60}},
    "checkpoint": {"every": 2},
    "engine": {"name": "inline"},
}


def test_a_killed_run_resumes_to_the_same_bits_and_secure_sums_agree(tmp_path: Path) -> None:
    assert_resumes(parse(BASE), tmp_path, 3)
    secure = {**BASE, "privacy": {"secure_aggregation": True, "minimum": 2}}
    run_job(Job(parse(secure), tmp_path / "secure"), Silent())
    one, other = (load_file(tmp_path / name / runfolder.MODEL) for name in ("whole", "secure"))
    assert_close(one, other, rtol=0, atol=1e-5)
