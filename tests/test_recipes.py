"""Every recipe keeps the laws, and its update is the gradient of its paper's objective, written again with autograd.

The published objectives below see all domains at once and use nothing of `fedha.statistics`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
import torch
from flwr.app import ConfigRecord, Message
from torch import Tensor
from torch.autograd import grad
from torch.testing import assert_close

from fedha.config import RecipeConfig, TrainingConfig
from fedha.engine.inline import InlineGrid
from fedha.federation import run_round
from fedha.flower import HessianAlignment, client_app
from fedha.flower.wire import pack_tensors
from fedha.measurement import Circumstances, measure, view_head
from fedha.recipes import RECIPES, Recipe, Term
from fedha.registry import statistic
from fedha.report.tables import bytes_per_round
from tests.problems import LOCAL, PROBES, ROWS, SEED, SGD, Problem, make_problem
from tests.published_objectives import Live, irm, leaves, look, objective, off_diagonal

# those that change a client's step, whatever is aligned, are in test_steps_changed.py; FedSR's network in test_fedsr.py


# --- problems ---


def make_twins() -> Problem:
    """Three clients with different names and the same data."""
    problem = make_problem()
    return replace(problem, domains=tuple(replace(problem.domains[1], name=name) for name in ("a", "b", "c")))


# --- what the papers minimise ---


def rounds_of(problem: Problem, recipe: Recipe, count: int) -> Iterator[tuple[int, dict[str, Tensor], dict, dict]]:
    """Rounds of the federation: number, parameters before, mean update, and the round's record."""
    server, clients = problem.server(recipe, SGD), problem.clients()
    for number in range(1, count + 1):
        before = leaves(server.parameters)
        record = run_round(server, clients, number)
        update = {name: (before[name].detach() - v) / SGD.learning_rate for name, v in server.parameters.items()}
        yield number, before, update, record


@pytest.mark.parametrize("head", ["three classes", "one logit", "network"])
@pytest.mark.parametrize("name", ROWS)
def test_mean_update_is_the_gradient_of_the_published_objective(name: str, head: str) -> None:
    problem, memory, weight = make_problem(head), {}, 1.7
    recipe = replace(ROWS[name], weight=weight, probes=PROBES)
    for number, before, update, record in rounds_of(problem, recipe, 4):
        loss = objective(name, look(problem, before, number, memory), weight)
        gradients = dict(zip(before, grad(loss, list(before.values())), strict=True))
        assert_close(update, gradients, rtol=1e-10, atol=1e-12)
        if name not in ("groupdro", "afl"):  # their record holds the plain mean over clients, as every recipe's does
            assert record["loss"] == pytest.approx(loss.item(), rel=1e-10)
        plain = grad(look(problem, before, number, {}).pooled(), list(before.values()))
        felt = max(float((a - b).abs().max()) for a, b in zip(gradients.values(), plain, strict=True))
        assert name == "erm" or felt > 1e-6, "the penalty is too small here to test anything"


def test_group_dro_weighs_by_step_size() -> None:
    problem, memory = make_problem(), {}
    recipe = RecipeConfig(name="groupdro", step_size=2.0).resolve()
    for number, before, update, _ in rounds_of(problem, recipe, 5):
        loss = objective("groupdro", look(problem, before, number, memory), 1.0, step_size=2.0)
        assert_close(list(update.values()), list(grad(loss, list(before.values()))), rtol=1e-10, atol=1e-12)
    assert max(memory["mixture"]) > 0.5  # far from uniform: the weights have moved


# --- laws ---


@pytest.mark.parametrize("training", [SGD, LOCAL], ids=["synchronous", "local"])
@pytest.mark.parametrize("name", ROWS)
def test_zero_weights_are_erm(name: str, training: TrainingConfig) -> None:
    problem = make_problem()
    expected = problem.train(RECIPES["erm"], training, 3)
    without_weight = replace(ROWS[name], weight=0.0, step_size=0.0, probes=PROBES)
    without_terms = replace(
        ROWS[name], terms=tuple(replace(term, weight=0.0) for term in ROWS[name].terms), step_size=0.0
    )
    for recipe in (without_weight, without_terms):
        assert_close(problem.train(recipe, training, 3), expected, rtol=0, atol=1e-15)
    assert without_terms.exchanges == 1


@pytest.mark.parametrize("name", ROWS)
def test_identical_clients_feel_no_pull_but_where_the_row_says_why(name: str) -> None:
    twins = make_twins()
    recipe = replace(ROWS[name], weight=1.7, probes=PROBES)
    expected = twins.train(RECIPES["erm"], SGD, 3)
    distance = max(float((v - expected[k]).abs().max()) for k, v in twins.train(recipe, SGD, 3).items())
    if recipe.pull:
        assert distance > 1e-4
    else:
        assert distance < 1e-12


@pytest.mark.parametrize("training", [SGD, LOCAL], ids=["synchronous", "local"])
@pytest.mark.parametrize("name", ROWS)
def test_the_order_of_clients_is_immaterial(name: str, training: TrainingConfig) -> None:
    problem = make_problem()
    turned = replace(problem, domains=tuple(problem.domains[place] for place in (2, 0, 1)))
    sharp = any(statistic(term.statistic).sampled for term in ROWS[name].terms)  # kernels that magnify rounding
    recipe = replace(ROWS[name], weight=0.02 if sharp else 1.7, probes=PROBES)
    for averaging in ("domains", "examples"):
        by_rule = training.model_copy(update={"averaging": averaging})
        assert_close(turned.train(recipe, by_rule, 3), problem.train(recipe, by_rule, 3), rtol=0, atol=1e-12)


# --- why identical clients feel a pull, where they do ---


def pull_on_twins(recipe: Recipe) -> tuple[Live, list[Tensor], list[Tensor]]:
    """Identical clients before the first round, the parameters, and the recipe's update beyond ERM's."""
    twins = make_twins()
    (_, before, update, _), *_ = rounds_of(twins, recipe, 1)
    live = look(twins, before, 1, {})
    plain = grad(live.pooled(), list(before.values()), retain_graph=True)
    return live, list(before.values()), [u - p for u, p in zip(update.values(), plain, strict=True)]


def gradient_of(value: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    found = grad(value, parameters, retain_graph=True, materialize_grads=True)
    return list(found)


def test_fish_pulls_identical_clients_to_a_larger_gradient() -> None:
    live, parameters, pull = pull_on_twins(RECIPES["fish"])
    growth = gradient_of(-live.gradients()[0].square().sum(), parameters)
    assert_close(pull, growth, rtol=1e-9, atol=1e-11)


def test_irm_pulls_identical_clients_because_its_target_is_zero() -> None:
    live, parameters, pull = pull_on_twins(RECIPES["irm"])
    assert_close(pull, gradient_of(irm(live), parameters), rtol=1e-9, atol=1e-11)
    to_the_mean = Recipe("irm to the mean", (Term("scale_gradient"),))
    _, _, pull = pull_on_twins(to_the_mean)
    assert max(float(one.abs().max()) for one in pull) < 1e-12


def test_hutchinson_expected_pulls_identical_clients_to_less_curvature_as_one_over_probes() -> None:
    for probes in (2, 20):
        live, parameters, pull = pull_on_twins(replace(RECIPES["hutchinson_expected"], probes=probes))
        shrinkage = gradient_of(off_diagonal(live.hessians()[0]).square().sum() / probes, parameters)
        assert_close(pull, shrinkage, rtol=1e-9, atol=1e-11)


def test_hutchinson_pulls_identical_clients_because_their_signs_differ() -> None:
    twins = make_twins()
    parameters = dict(twins.model.named_parameters())
    view = view_head(twins.model, parameters)
    examples = twins.domains[0].train
    features = view.prepare(twins.model.featurizer(examples.inputs))

    def diagonal(statistic: str, client: str) -> Tensor:
        around = Circumstances(SEED, 1, client, PROBES, {})
        return measure(statistic, view, features, examples.labels, around)

    assert torch.equal(diagonal("hessian_diagonal", "a"), diagonal("hessian_diagonal", "b"))
    assert torch.equal(diagonal("hutchinson_diagonal_shared", "a"), diagonal("hutchinson_diagonal_shared", "b"))
    assert not torch.allclose(diagonal("hutchinson_diagonal", "a"), diagonal("hutchinson_diagonal", "b"))


def test_fediir_pulls_identical_clients_because_its_moving_average_starts_at_zero() -> None:
    live, parameters, pull = pull_on_twins(RECIPES["fediir"])
    gradient = live.gradients()[0]
    lag = gradient_of((gradient - 0.05 * gradient.detach()).square().sum(), parameters)
    assert_close(pull, lag, rtol=1e-9, atol=1e-11)
    _, _, pull = pull_on_twins(RecipeConfig(name="fediir", moving_average=0.0).resolve())
    assert max(float(one.abs().max()) for one in pull) < 1e-12


# --- what a row costs ---


class Counting(InlineGrid):
    """Counts requests, and the bytes of the tensors in them and in their replies."""

    sent = tensors_down = tensors_up = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        asked = list(messages)
        self.sent += len(asked)
        self.tensors_down += sum(map(tensor_bytes, asked))
        return list(super().push_messages(asked))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = list(super().pull_messages(message_ids))
        self.tensors_up += sum(map(tensor_bytes, replies))
        return replies


def tensor_bytes(message: Message) -> int:
    records = message.content.array_records.values()
    return sum(array.numpy().nbytes for record in records for array in record.values())


@pytest.mark.parametrize("name", ROWS)
def test_a_round_costs_the_exchanges_and_bytes_of_the_table(name: str) -> None:
    problem = make_problem()
    recipe = replace(ROWS[name], probes=PROBES)
    parameters = dict(problem.model.named_parameters())
    grid = Counting(client_app(lambda _: problem.model, lambda c: problem.domains[c.node_config["partition-id"]]), 3)
    strategy = HessianAlignment(recipe, SGD, seed=SEED, clients=3)
    messages = strategy.configure_train(1, pack_tensors(parameters), ConfigRecord(), grid)
    strategy.aggregate_train(1, grid.send_and_receive(messages))
    down, up = bytes_per_round(recipe, 3, 6, sum(v.numel() for v in parameters.values()), number=8)
    introductions = 3  # once a run
    assert (grid.sent - introductions, grid.tensors_down, grid.tensors_up) == (3 * recipe.exchanges, 3 * down, 3 * up)
    assert recipe.exchanges == {"erm": 1, "irm": 1, "groupdro": 1, "afl": 1, "hgp": 3}.get(name, 2)
