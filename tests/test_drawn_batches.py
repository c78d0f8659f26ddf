"""A synchronous round over drawn rows is a whole round over those rows alone, in all its exchanges."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fedha import training
from fedha.client import Client
from fedha.config import LocalConfig, TrainingConfig, parse
from fedha.data.domain import Domain
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.exchange import Request, Task
from fedha.federation import run_round
from fedha.flower import HessianAlignment, client_app
from fedha.flower.wire import pack_tensors
from fedha.minibatches import measured_rows
from fedha.recipes import RECIPES
from tests.batching.twins import assert_same, make_cohort, twin_rounds
from tests.problems import ROWS, SEED, make_problem

DRAWN = TrainingConfig(rounds=10, optimizer="sgd", learning_rate=0.1, batch_size=7)
WHOLE = DRAWN.model_copy(update={"batch_size": None})


def only(domain: Domain, rows: torch.Tensor) -> Domain:
    return replace(domain, train=domain.train.select(rows))


@pytest.mark.parametrize("name", ROWS)
def test_a_drawn_round_is_a_whole_round_over_its_rows(name: str) -> None:
    problem = make_problem()
    drawn, clients = problem.server(ROWS[name], DRAWN), problem.clients()
    whole, twins = problem.server(ROWS[name], WHOLE), problem.clients()
    for number in range(1, 5):
        request = Request(drawn.task, number, {})
        rows = [measured_rows(request, len(one.domain.train), one.client_id) for one in clients]
        assert [len(one) for one in rows] == [7, 7, 7]
        for twin, client, own in zip(twins, clients, rows, strict=True):
            twin.domain = only(client.domain, own)
        run_round(drawn, clients, number)
        run_round(whole, twins, number)
        assert_close(drawn.parameters, whole.parameters, rtol=1e-12, atol=1e-12)


def test_rows_differ_by_round_and_client_and_never_repeat_in_a_batch() -> None:
    task = Task(RECIPES["erm"], DRAWN, SEED)
    drawn = [measured_rows(Request(task, number, {}), 30, index) for number in (1, 2) for index in (0, 1)]
    assert all(len(set(rows.tolist())) == 7 for rows in drawn)
    assert len({tuple(rows.tolist()) for rows in drawn}) == 4
    assert measured_rows(Request(task, 1, {}), 7, 0) is None


@pytest.mark.parametrize("name", ["erm", "coral", "hgp", "fishr", "hutchinson", "vrex", "groupdro"])
def test_drawn_rounds_together_are_those_one_by_one(name: str) -> None:
    clients = make_cohort(parse({"model": {"hidden": [5], "precision": "float64"}}).model, (4,))
    assert_same(twin_rounds(clients, RECIPES[name], DRAWN, 2))
    assert [len(client.domain.train) for client in clients] == [9, 11, 9, 12]


def test_a_grid_of_clients_draws_what_the_plain_loop_draws() -> None:
    problem = make_problem(precision="float32")
    app = client_app(lambda _: problem.model, lambda context: problem.domains[int(context.node_config["partition-id"])])
    start = pack_tensors(dict(problem.model.named_parameters()))
    strategy = HessianAlignment("coral", DRAWN, seed=SEED, clients=3)
    found = strategy.start(InlineGrid(app, 3), start, num_rounds=3).arrays.to_torch_state_dict()
    for name, value in problem.train(RECIPES["coral"], DRAWN, 3).items():
        assert torch.equal(found[name], value)


@pytest.mark.parametrize("measure", ["batch", 6])
def test_local_references_come_from_as_many_examples_as_asked_for(measure: str | int) -> None:
    local = LocalConfig(steps=2, batch_size=5, measure=measure)
    task = Task(RECIPES["exact_diagonal"], TrainingConfig(mode="local", local=local), SEED)
    (client, *_), parameters = make_problem().clients(), dict(make_problem().model.named_parameters())
    request = Request(task, 3, parameters, measure=("gradient",), averaging_weight=1 / 3)
    rows = measured_rows(request, len(client.domain.train), client.client_id)
    assert len(rows) == (5 if measure == "batch" else 6)
    alone = Client(0, only(client.domain, rows), client.model)
    everything = replace(request, task=replace(task, training=TrainingConfig(mode="local", local=LocalConfig(steps=2))))
    expected = training.answer_measure(alone, everything).tensors
    assert_close(dict(training.answer_measure(client, request).tensors), dict(expected))


def test_what_is_too_small_or_not_read_is_said() -> None:
    with pytest.raises(FedhaError, match=r"batch_size is 4 but in mode 'local' it is local\.batch_size that is read"):
        parse({"training": {"mode": "local", "batch_size": 4}})
    private = {"protect": "examples", "noise_multiplier": 1.0}
    with pytest.raises(FedhaError, match=r"training\.batch_size draws the examples that are measured"):
        parse({"recipe": "exact_diagonal", "training": {"batch_size": 4}, "privacy": private})


def test_hgp_in_local_steps_holds_the_pooled_gradient() -> None:
    task = Task(RECIPES["hgp"], TrainingConfig(mode="local"), SEED)
    assert [term.statistic for term in task.recipe.terms] == ["gradient", "pooled_gradient_hessian_product"]
    assert task.recipe.measurements() == RECIPES["hgp"].measurements()
    assert Task(RECIPES["hgp"], TrainingConfig(), SEED).recipe is RECIPES["hgp"]
