"""Mixup, sharpness-aware minimization and the head alone: what changes a client's step, whatever is aligned."""

from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy, one_hot
from torch.testing import assert_close

from fedha.audit.examine import examine
from fedha.audit.settings import Settings
from fedha.config import LocalConfig, PrivacyConfig, RecipeConfig, TrainingConfig, parse
from fedha.data.domain import Examples
from fedha.errors import FedhaError
from fedha.exchange import Request, Task
from fedha.federation import run_round
from fedha.minibatches import minibatches
from fedha.mixup import Mixing
from fedha.models import SplitModel
from fedha.recipes import RECIPES
from tests.problems import LOCAL, SEED, SGD, Problem, make_problem

RATE = 0.1
STEPS = TrainingConfig(
    mode="local", rounds=4, averaging="clients", local=LocalConfig(steps=3, batch_size=5, learning_rate=RATE)
)


def leaves(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}


def slopes(loss: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


def risk(model: SplitModel, parameters: dict[str, Tensor], part: Examples, rows: Tensor) -> Tensor:
    return cross_entropy(functional_call(model, parameters, (part.inputs[rows],)), part.labels[rows])


# --- sharpness-aware minimization ---


def ascended(model: SplitModel, parameters: dict[str, Tensor], part: Examples, rows: Tensor) -> dict[str, Tensor]:
    """The gradient of Foret et al., equation 3, with 2-norms."""
    first = slopes(risk(model, parameters, part, rows), parameters)
    norm = torch.cat([value.flatten() for value in first.values()]).norm()
    up = leaves({name: value + 0.3 * first[name] / norm for name, value in parameters.items()})
    return slopes(risk(model, up, part, rows), up)


def test_sam_steps_along_the_gradient_uphill() -> None:
    problem, recipe = make_problem(), RecipeConfig(name="sam", sam_radius=0.3).resolve()
    expected = {name: value.detach() for name, value in problem.model.named_parameters()}
    for _ in range(4):
        own = leaves(expected)
        each = [ascended(problem.model, own, one.train, torch.arange(len(one.train))) for one in problem.domains]
        expected = {
            name: value - 0.1 * torch.stack([one[name] for one in each]).mean(0) for name, value in expected.items()
        }
    found = problem.train(recipe, SGD, 4)
    assert_close(found, expected, rtol=0, atol=1e-12)
    plain = problem.train(RECIPES["erm"], SGD, 4)
    assert max(float((found[name] - plain[name]).abs().max()) for name in plain) > 1e-3


def test_fedsam_takes_every_local_step_uphill() -> None:
    problem, recipe = make_problem(), RecipeConfig(name="sam", sam_radius=0.3).resolve()
    now = {name: value.detach() for name, value in problem.model.named_parameters()}
    task = Task(recipe, STEPS, SEED)
    for number in range(1, 3):
        ends = []
        for client, domain in enumerate(problem.domains):
            own = leaves(now)
            for rows in minibatches(Request(task, number, {}), len(domain.train), client):
                step = ascended(problem.model, own, domain.train, rows)
                own = leaves({name: value - RATE * step[name] for name, value in own.items()})
            ends.append(own)
        now = {name: torch.stack([end[name].detach() for end in ends]).mean(0) for name in now}
    assert_close(problem.train(recipe, STEPS, 2), now, rtol=0, atol=1e-12)


def test_sam_goes_with_any_recipe_and_in_pieces() -> None:
    recipe = RecipeConfig(name="hgp", sam_radius=0.2).resolve()
    for training in (SGD, LOCAL):
        whole = make_problem().train(recipe, training, 3)
        pieces = make_problem().train(recipe, training.model_copy(update={"chunk": 5}), 3)
        assert_close(pieces, whole, rtol=0, atol=1e-11)
    still = make_problem().train(RecipeConfig(name="hgp", sam_radius=0.0).resolve(), SGD, 3)
    assert_close(still, make_problem().train(RECIPES["hgp"], SGD, 3), rtol=0, atol=0)


# --- mixup ---


def mixed_loss(model: SplitModel, parameters: dict[str, Tensor], part: Examples, rows: Tensor, how: Mixing) -> Tensor:
    """Zhang et al., section 2, the convex combination of the losses of both labels."""
    others, keep = rows[how.order(len(rows))], how.part
    logits = functional_call(model, parameters, (keep * part.inputs[rows] + (1 - keep) * part.inputs[others],))
    own, other = cross_entropy(logits, part.labels[rows]), cross_entropy(logits, part.labels[others])
    return keep * own + (1 - keep) * other


def test_mixup_minimises_the_mixed_loss_in_synchronous_steps() -> None:
    problem, recipe = make_problem(), RecipeConfig(name="mixup", mixup_alpha=0.8).resolve()
    expected = {name: value.detach() for name, value in problem.model.named_parameters()}
    for number in range(1, 4):
        own = leaves(expected)
        losses = [
            mixed_loss(problem.model, own, domain.train, torch.arange(len(domain.train)), how(0.8, number, client))
            for client, domain in enumerate(problem.domains)
        ]
        step = slopes(torch.stack(losses).mean(), own)
        expected = {name: value - 0.1 * step[name] for name, value in expected.items()}
    assert_close(problem.train(recipe, SGD, 3), expected, rtol=0, atol=1e-12)


def test_mixup_minimises_the_mixed_loss_in_local_steps() -> None:
    problem, recipe = make_problem(), RecipeConfig(name="mixup", mixup_alpha=0.8).resolve()
    now, task = dict(problem.model.named_parameters()), Task(recipe, STEPS, SEED)
    ends = []
    for client, domain in enumerate(problem.domains):
        own = leaves(now)
        for step, rows in enumerate(minibatches(Request(task, 1, {}), len(domain.train), client), 1):
            moved = slopes(mixed_loss(problem.model, own, domain.train, rows, how(0.8, 1, client, step)), own)
            own = leaves({name: value - RATE * moved[name] for name, value in own.items()})
        ends.append(own)
    expected = {name: torch.stack([end[name].detach() for end in ends]).mean(0) for name in now}
    assert_close(problem.train(recipe, STEPS, 1), expected, rtol=0, atol=1e-12)


def how(alpha: float, number: int, client: int, step: int = 0) -> Mixing:
    return Mixing(alpha, (SEED, "mixup", number, client, step))


def test_parts_are_those_of_a_beta_distribution_folded() -> None:
    parts = numpy.array([Mixing(0.4, (seed, "mixup", 1, 0, 0)).part for seed in range(1500)])
    drawn = numpy.random.default_rng(0).beta(0.4, 0.4, 100_000)
    folded = numpy.maximum(drawn, 1 - drawn)
    assert parts.min() >= 0.5
    for share in (0.1, 0.5, 0.9):
        assert (parts < numpy.quantile(folded, share)).mean() == pytest.approx(share, abs=0.04)


def test_mixup_goes_with_any_recipe_in_pieces_and_with_smoothed_labels() -> None:
    recipe = RecipeConfig(name="coral", mixup_alpha=0.5).resolve()
    smooth = SGD.model_copy(update={"label_smoothing": 0.1})
    for training in (SGD, smooth, LOCAL):
        whole = make_problem().train(recipe, training, 3)
        pieces = make_problem().train(recipe, training.model_copy(update={"chunk": 5}), 3)
        assert_close(pieces, whole, rtol=0, atol=1e-11)


def test_inputs_between_which_there_is_nothing_are_refused() -> None:
    tokens = Examples(torch.arange(12).view(6, 2), one_hot(torch.arange(6) % 2)[:, 1])
    with pytest.raises(FedhaError, match=r"mixup_alpha is 0\.5, which mixes inputs, and these are whole numbers"):
        Mixing(0.5, (0, "mixup")).inputs(tokens.inputs, tokens.inputs)


# --- what they do not go with ---


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"name": "mixup"}, "recipe 'mixup' mixes examples with each other"),
        ({"name": "erm", "sam_radius": 0.1}, "recipe 'erm' takes two gradients a step"),
    ],
)
def test_protected_examples_are_refused_by_name(recipe: dict[str, Any], said: str) -> None:
    privacy = {"protect": "examples", "noise_multiplier": 1.0, "sampling": "whole"}
    with pytest.raises(FedhaError, match=said):
        parse({"recipe": recipe, "privacy": privacy})
    with pytest.raises(FedhaError, match=said):
        Task(RecipeConfig(**recipe).resolve(), TrainingConfig(), SEED, PrivacyConfig(**privacy))
    with pytest.raises(FedhaError, match=r"head_rounds is 2, and where privacy\.protect is 'examples'"):
        parse({"recipe": "erm", "privacy": privacy, "training": {"head_rounds": 2}})


# --- the head alone, then all ---


@pytest.mark.parametrize("training", [SGD, LOCAL], ids=["synchronous", "local"])
def test_the_head_alone_moves_at_first(training: TrainingConfig) -> None:
    problem = make_problem()
    given = training.model_copy(update={"head_rounds": 2, "weight_decay": 0.01})
    server, clients = problem.server(RECIPES["hgp"], given), problem.clients()
    for number in range(1, 4):
        before = {name: value.clone() for name, value in server.parameters.items()}
        run_round(server, clients, number)
        moved = {name for name, value in server.parameters.items() if not torch.equal(value, before[name])}
        assert moved == (set(before) if number > 2 else {"head.weight", "head.bias"})


def test_probing_is_training_a_network_whose_featurizer_is_frozen_then_beginning_afresh() -> None:
    """LP-FT as two runs: one with the featurizer frozen, then one of all from where that ended, with a fresh Adam."""
    given = TrainingConfig(rounds=5, optimizer="adam", learning_rate=0.05, head_rounds=2)
    found = make_problem().train(RECIPES["erm"], given, 5)
    first = make_problem()
    for value in first.model.featurizer.parameters():
        value.requires_grad_(False)
    probed = Problem(first.model, first.domains)
    head = {name: value for name, value in first.model.named_parameters() if value.requires_grad}
    server = probed.server(RECIPES["erm"], given.model_copy(update={"head_rounds": 0}))
    server = type(server)(server.task, head, constants={}, kinds={})
    for number in (1, 2):
        run_round_of_head(server, probed, number)
    second = make_problem()
    with torch.no_grad():
        for name, value in second.model.named_parameters():
            value.copy_(server.parameters.get(name, value))
    whole = second.server(RECIPES["erm"], given.model_copy(update={"head_rounds": 0}))
    for number in (3, 4, 5):
        run_round(whole, second.clients(), number)
    assert_close(found, whole.parameters, rtol=0, atol=1e-13)


def run_round_of_head(server: Any, problem: Problem, number: int) -> None:
    state = {name: value for name, value in problem.model.state_dict().items() if name not in server.parameters}
    server.constants = state
    run_round(server, problem.clients(), number)


def test_more_rounds_of_the_head_than_there_are_is_refused() -> None:
    with pytest.raises(FedhaError, match="head_rounds is 9, but there are 4 rounds in all"):
        parse({"training": {"rounds": 4, "head_rounds": 9}})


@pytest.mark.parametrize("recipe", [{"name": "mixup"}, {"name": "hgp", "sam_radius": 0.1}])
def test_an_audit_refuses_steps_that_its_attacks_do_not_know(recipe: dict[str, Any]) -> None:
    with pytest.raises(FedhaError, match="has mixup_alpha or sam_radius, and the attacks know gradients of single"):
        examine(parse({"recipe": recipe, "seed": 0}), Settings(), lambda *told: None, trained=None)
