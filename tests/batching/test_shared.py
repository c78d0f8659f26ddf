"""Synchronous clients of one process share one forward and one backward pass, and say the same."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord
from torch import Tensor, nn
from torch.testing import assert_close

from fedha import answers, batching, pieces
from fedha.client_state import to_tensors
from fedha.config import ModelConfig, TrainingConfig
from fedha.data.domain import Domain
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.exchange import Request, Task
from fedha.flower import HessianAlignment
from fedha.flower.client import Clients, app_for, seeded_site
from fedha.models import SplitModel
from fedha.recipes import RECIPES, Recipe
from tests.batching.twins import make_cohort
from tests.problems import ROWS, Problem, make_problem

MINIBATCH = TrainingConfig(rounds=6, optimizer="adam", learning_rate=0.01, weight_decay=0.01, batch_size=9)
WARM = {"weight": 3.0, "warmup_rounds": 2, "warmup_weight": 0.5, "rescale": True}


def trained(
    problem: Problem, recipe: Recipe, training: TrainingConfig, *, together: bool, device: str = "cpu"
) -> tuple[Any, list[Any]]:
    """The parameters after six rounds through the inline engine's messages, and the rounds' numbers."""

    def domain(context: Any) -> Domain:
        return problem.domains[context.node_config["partition-id"]]

    clients = Clients(lambda context: problem.model, domain, site=seeded_site, in_place=device != "cpu")
    grid = InlineGrid(app_for(clients), len(problem.domains), together=clients if together else None)
    strategy = HessianAlignment(recipe, training, seed=7, clients=len(problem.domains))
    strategy.talk.device = device
    server, numbers = strategy.begin(dict(problem.model.named_parameters())), []
    for number in range(1, 7):
        messages = list(strategy.configure_train(number, strategy.arrays, ConfigRecord(), grid))
        strategy.aggregate_train(number, strategy.talk.deliver(grid, messages))
        numbers.append(strategy.last_round)
    return dict(server.parameters), numbers


@pytest.mark.parametrize("training", [MINIBATCH, MINIBATCH.model_copy(update={"batch_size": None})])
@pytest.mark.parametrize("name", ROWS)
def test_a_shared_pass_says_what_each_client_says_alone(name: str, training: TrainingConfig) -> None:
    recipe = replace(ROWS[name], **WARM)
    shared, told = trained(make_problem(), recipe, training, together=True)
    alone, expected = trained(make_problem(), recipe, training, together=False)
    assert_close(shared, alone, rtol=1e-9, atol=1e-10)
    for one, other in zip(told, expected, strict=True):
        for key in ("risk", "accuracy", "penalty"):
            assert one[key] == pytest.approx(other[key], rel=1e-9, abs=1e-12)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-9)


@pytest.mark.parametrize("together", [True, False])
def test_tensors_that_stay_where_they_are_give_the_same_bits(together: bool) -> None:
    runs = [
        trained(make_problem(), RECIPES["hgp"], MINIBATCH, together=together, device=one)[0] for one in ("cpu", "cpu:0")
    ]
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


class Counting(nn.Module):
    """A featurizer that notes how many rows each of its passes had."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.passes: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes.append(len(inputs))
        outputs: Tensor = self.inner(inputs)
        return outputs


@pytest.mark.parametrize("name", ["erm", "hgp"])
def test_all_exchanges_of_a_round_share_one_pass_of_all_rows(name: str) -> None:
    problem = make_problem()
    counting = Counting(problem.model.featurizer)
    watched = replace(problem, model=SplitModel(counting, problem.model.head))
    trained(watched, RECIPES[name], MINIBATCH, together=True)
    assert [rows for rows in counting.passes if rows > 2][-6:] == [27] * 6  # what looks at the model takes two rows
    assert sum(rows == 27 for rows in counting.passes) == 6
    assert not any(rows == 9 for rows in counting.passes)


@pytest.mark.parametrize(("rows", "joint"), [(7, True), (6, False)])
def test_a_shared_pass_takes_the_memory_of_four_pieces(rows: int, joint: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem()
    counting = Counting(problem.model.featurizer)
    watched = replace(problem, model=SplitModel(counting, problem.model.head))
    form, recipe = watched.domains[0].train.form, RECIPES["erm"]
    monkeypatch.setattr(pieces, "BUDGET_BYTES", rows * pieces.example_bytes(watched.model, form))
    trained(watched, recipe, MINIBATCH, together=True)
    assert (27 in counting.passes) == joint


def test_more_rows_than_a_piece_holds_are_answered_as_before() -> None:
    recipe, small = ROWS["exact_diagonal"], MINIBATCH.model_copy(update={"chunk": 20})
    shared, _ = trained(make_problem(), recipe, small, together=True)
    alone, _ = trained(make_problem(), recipe, MINIBATCH, together=False)
    assert_close(shared, alone, rtol=1e-9, atol=1e-10)


def asking(clients: Iterable[Any], recipe: str, **more: Any) -> list[Request]:
    listed = list(clients)
    parameters = {name: value.detach() for name, value in listed[0].model.named_parameters()}
    task = Task(RECIPES[recipe], MINIBATCH, 0)
    return [Request(task, 1, parameters, averaging_weight=1 / len(listed), additive=True, **more) for _ in listed]


def test_a_network_too_large_to_be_stacked_still_shares_its_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(batching.limits._LARGE, "cpu", 1)
    clients = make_cohort(ModelConfig(hidden=[8]), (4,))
    summed, own = asking(clients, "iga")[0], replace(asking(clients, "iga")[0], additive=False)
    assert answers.refusal(clients, summed) is None
    assert "million multiplications" in str(answers.refusal(clients, own))


def test_where_a_sum_is_not_finite_nobody_has_moved() -> None:
    clients = make_cohort(ModelConfig(hidden=[8], precision="float64"), (4,))
    clients[1].domain.train.inputs[:] = torch.inf
    before = [to_tensors(client.state) for client in clients]
    with pytest.raises(FedhaError, match="not finite in round 1"):
        batching.answer_train(clients, asking(clients, "fishr", references={"gradient_variance": torch.zeros(3, 9)}))
    assert [to_tensors(client.state) for client in clients] == before
