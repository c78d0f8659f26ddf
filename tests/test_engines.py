"""Flower's messages change nothing: the strategy over a grid gives the bits of the plain loop, and says what failed."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from fedha.config import FederationConfig, TrainingConfig, parse, to_json
from fedha.engine.inline import InlineGrid
from fedha.errors import ClientError, FedhaError
from fedha.exchange import Reply, Request, Task
from fedha.flower import HessianAlignment
from fedha.flower.apps import bound_client_app, server_app
from fedha.flower.failure import find_failure
from fedha.flower.wire import (
    pack_reply,
    pack_request,
    pack_task,
    pack_tensors,
    unpack_reply,
    unpack_request,
    unpack_task,
    unpack_tensors,
)
from fedha.models import SplitModel
from fedha.recipes import RECIPES
from fedha.run import execute
from fedha.runs.listener import Silent
from fedha.training import evaluate
from tests.driving import (
    LOCAL,
    SYNCHRONOUS,
    app_of,
    assert_same_bits,
    train_over,
    train_plainly,
    train_with,
)
from tests.problems import PROBES, ROWS, SEED, make_problem

pytestmark = pytest.mark.usefixtures("same_numerics")

# --- one answer ---


@pytest.mark.parametrize("training", [SYNCHRONOUS, LOCAL], ids=["synchronous", "local"])
@pytest.mark.parametrize("name", ROWS)
def test_the_strategy_gives_the_bits_of_the_plain_loop(name: str, training: TrainingConfig) -> None:
    problem = make_problem(precision="float32")
    recipe = replace(ROWS[name], probes=PROBES, weight=1.7)
    parameters, records = train_plainly(problem, recipe, training)
    strategy = HessianAlignment(recipe, training, seed=SEED, clients=3)
    over_grid = train_over(InlineGrid(app_of(problem), 3), strategy, problem, training.rounds)
    assert_same_bits(over_grid[0], parameters)
    assert over_grid[1] == records


class BackwardsGrid(InlineGrid):
    """Replies arrive in the order opposite to the clients'."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return [*super().send_and_receive(messages, timeout=timeout)][::-1]


@pytest.mark.parametrize("name", ["hgp", "fish", "groupdro"])
def test_replies_may_arrive_in_any_order(name: str) -> None:
    problem = make_problem(precision="float32")
    parameters, records = train_plainly(problem, RECIPES[name], SYNCHRONOUS)
    strategy = HessianAlignment(name, SYNCHRONOUS, seed=SEED, clients=3)
    over_grid = train_over(BackwardsGrid(app_of(problem), 3), strategy, problem, SYNCHRONOUS.rounds)
    assert_same_bits(over_grid[0], parameters)
    assert over_grid[1] == records


def test_a_new_grid_starts_its_clients_without_a_memory() -> None:
    problem = make_problem()
    app, recipe = app_of(problem), replace(RECIPES["fishr"], weight=9.0)
    ends = []
    for _ in range(2):
        strategy = HessianAlignment(recipe, SYNCHRONOUS, seed=SEED, clients=3)
        ends.append(train_over(InlineGrid(app, 3), strategy, problem, 3)[0])
    assert_same_bits(*ends)


def test_flowers_own_loop_runs_the_strategy_in_a_strangers_app() -> None:
    problem, results = make_problem(), []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = HessianAlignment("hgp", SYNCHRONOUS, seed=SEED, clients=3)
        results.append(strategy.start(grid, ArrayRecord(problem.model.state_dict()), num_rounds=3))

    here = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    app(grid=InlineGrid(app_of(problem), 3), context=here)
    parameters, records = train_plainly(problem, RECIPES["hgp"], SYNCHRONOUS)
    assert_same_bits(unpack_tensors(results[0].arrays), parameters)
    logged = results[0].train_metrics_clientapp[3]
    assert (logged["loss"], logged["risk/d1"]) == (records[2]["loss"], records[2]["risk"]["d1"])
    held_out = evaluate(problem.model, parameters, problem.domains[2].held_out)
    assert results[0].evaluate_metrics_clientapp[3]["d2/held_out/accuracy"] == held_out["accuracy"]


def test_the_bound_apps_write_the_model_that_the_inline_engine_writes(tmp_path: Path) -> None:
    config = parse(
        {
            "model": {"hidden": [4], "one_logit": True},
            "recipe": "fishr",
            "training": {"rounds": 3},
            "evaluation": {"every": 2},
        }
    )
    execute(config, tmp_path / "inline", Silent())
    run_config = {"settings": to_json(config), "out": str(tmp_path / "bound")}
    here = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=run_config)
    server_app(tmp_path)(grid=InlineGrid(bound_client_app(tmp_path), 2, run_config), context=here)
    models = [(tmp_path / one / "model.safetensors").read_bytes() for one in ("inline", "bound")]
    assert models[0] == models[1]


def test_evaluation_collects_every_domain_and_part() -> None:
    problem = make_problem()
    nothing = problem.domains[2].held_out.select(slice(0, 0))
    problem = replace(problem, domains=(*problem.domains[:2], replace(problem.domains[2], held_out=nothing)))
    strategy, grid = HessianAlignment("erm", seed=SEED, clients=3), InlineGrid(app_of(problem), 3)
    parameters = strategy.begin(dict(problem.model.named_parameters())).parameters
    parts = ConfigRecord({"parts": "held_out,train"})
    questions = strategy.configure_evaluate(1, pack_tensors(parameters), parts, grid)
    strategy.aggregate_evaluate(1, reversed(list(grid.send_and_receive(questions))))
    assert strategy.last_evaluation == {
        part: {one.name: evaluate(problem.model, parameters, getattr(one, part)) for one in problem.domains}
        for part in ("held_out", "train")
    }
    assert strategy.last_evaluation["held_out"]["d2"] == {"examples": 0}
    assert list(strategy.last_evaluation["train"]) == ["d0", "d1", "d2"]


def test_bytes_are_counted_both_ways() -> None:
    problem = make_problem()
    strategy = HessianAlignment("hgp", seed=SEED, clients=3)
    train_over(InlineGrid(app_of(problem), 3), strategy, problem, 1)
    model = 8 * sum(value.numel() for value in problem.model.parameters())
    statistics = 8 * 3 * 6
    assert strategy.talk.bytes_up > 3 * (model + 2 * statistics)
    assert strategy.talk.bytes_down > 3 * (3 * model + 3 * statistics)


# --- the wire ---

FLOATS = {torch.float32: st.floats(width=32), torch.float64: st.floats()}


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any float tensor: scalars, empty ones, infinities, NaN, minus zero, transposed views."""
    precision = draw(st.sampled_from(list(FLOATS)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = torch.Size(shape).numel()
    values = draw(st.lists(FLOATS[precision], min_size=size, max_size=size))
    one = torch.tensor(values, dtype=precision).reshape(shape)
    return one.mT if one.dim() >= 2 and draw(st.booleans()) else one


@given(st.dictionaries(st.text(min_size=1), tensors(), max_size=3))
def test_tensors_travel_exactly(sent: dict[str, Tensor]) -> None:
    received = unpack_tensors(pack_tensors(sent))
    assert list(received) == list(sent)
    for name, value in sent.items():
        assert (received[name].dtype, received[name].shape) == (value.dtype, value.shape)
        assert received[name].numpy().tobytes() == value.numpy().tobytes()


@pytest.mark.parametrize("training", [SYNCHRONOUS, LOCAL], ids=["synchronous", "local"])
@pytest.mark.parametrize("name", ROWS)
def test_tasks_travel_exactly(name: str, training: TrainingConfig) -> None:
    task = Task(replace(ROWS[name], weight=0.1 + 0.2, warmup_rounds=3, rescale=True, step_size=1 / 3), training, 2**40)
    assert unpack_task(pack_task(task)) == task


def test_requests_and_replies_travel_exactly() -> None:
    task = Task(RECIPES["vrex"], SYNCHRONOUS, SEED)
    risk = torch.tensor(1 / 3, dtype=torch.float64)
    request = Request(task, 3, {"w": torch.ones(2, 2)}, {"risk": risk}, ("risk", "gradient"), 1 / 3, sent={"a/w": risk})
    packed = pack_tensors(request.parameters), pack_tensors(request.references), pack_task(task)
    received = unpack_request(pack_request(request, *packed, pack_tensors(request.sent)), "train")
    assert received == replace(
        request, parameters=received.parameters, references=received.references, sent=received.sent
    )
    assert torch.equal(received.sent["a/w"], risk)
    assert received.references["risk"].shape == ()
    assert float(received.references["risk"]) == 1 / 3
    reply = Reply("Zürich/3", "Zürich", 2, 17, {"risk": risk}, {"risk": 1 / 3, "penalty/risk": 1e-300})
    answered = unpack_reply(pack_reply(reply))
    assert replace(answered, tensors={}) == replace(reply, tensors={})
    assert torch.equal(answered.tensors["risk"], risk)


def test_what_a_client_does_to_its_message_is_its_own() -> None:
    problem, plain = make_problem(), make_problem()

    def tidy(message: Message, context: Context, call_next) -> Message:
        reply = call_next(message, context)
        for records in (message.content.array_records, message.content.config_records):
            for record in records.values():
                record.clear()
        return reply

    app = ClientApp(mods=[tidy])
    inner = app_of(problem)
    for register in (app.query("introduce"), app.query("measure"), app.train()):
        register(lambda message, context: inner(message, context))
    over_tidy = train_over(InlineGrid(app, 3), HessianAlignment("hgp", clients=3), problem, 2)
    usual = train_over(InlineGrid(app_of(plain), 3), HessianAlignment("hgp", clients=3), plain, 2)
    assert_same_bits(over_tidy[0], usual[0])


# --- what goes wrong ---


@pytest.mark.parametrize("from_server", [False, True])
@pytest.mark.parametrize(("kind", "exchange"), [("query.measure", "measure"), ("train", "train")])
def test_an_error_reply_names_client_exchange_round_and_reason(kind: str, exchange: str, from_server: bool) -> None:
    trace = "Traceback (most recent call last):\n  File ...\nValueError: boom\n\n"
    who = r"client 1 \(domain 'd1'\)"
    with pytest.raises(ClientError, match=f"^{who} failed to {exchange} in round 2: ValueError: boom") as raised:
        train_with({(kind, 2, 1): trace}, from_server=from_server)
    assert trace.strip() in raised.value.__notes__[0]


@pytest.mark.parametrize("from_server", [False, True])
def test_an_error_before_any_reply_names_the_place(from_server: bool) -> None:
    with pytest.raises(ClientError, match=r"^client 0 failed to introduce itself in round 1: boom$"):
        train_with({("query.introduce", 1, 0): "boom"}, from_server=from_server)


@pytest.mark.parametrize(
    "reason", ["<class 'fedha.errors.FedhaError'>:<'bad data'>", "...\nfedha.errors.FedhaError: bad data"]
)
def test_an_error_that_the_user_can_mend_stays_one(reason: str) -> None:
    with pytest.raises(FedhaError, match=r"^client 0 \(domain 'd0'\) failed to train in round 1: bad data$"):
        train_with({("train", 1, 0): reason})


def test_an_error_without_a_reason_says_so() -> None:
    with pytest.raises(ClientError, match="failed to train in round 1: no reason given"):
        train_with({("train", 1, 0): ""})


@pytest.mark.parametrize("recipe", ["hgp", "erm"])
@pytest.mark.parametrize("round", [1, 3])
@pytest.mark.parametrize("place", [0, 2])
def test_a_missing_reply_ends_the_run(recipe: str, round: int, place: int) -> None:
    with pytest.raises(FedhaError, match=f"^2 of 3 clients replied to train in round {round} within 3600 s"):
        train_with({("train", round, place): None}, recipe)


def test_a_missing_measurement_ends_the_run() -> None:
    with pytest.raises(FedhaError, match="2 of 3 clients replied to measure in round 1"):
        train_with({("query.measure", 1, 2): None})


def test_labels_that_are_no_class_are_named_before_the_first_round() -> None:
    problem = make_problem()
    broken = replace(problem.domains[1].train, labels=problem.domains[1].train.labels + 7)
    problem = replace(problem, domains=(problem.domains[0], replace(problem.domains[1], train=broken)))
    with pytest.raises(
        FedhaError, match=r"client 1 failed to introduce .* 'd1' run from 7 to 9 but there are 3 classes"
    ):
        train_over(InlineGrid(app_of(problem), 2), HessianAlignment("erm", clients=2), problem, 1)


def test_too_few_nodes_are_waited_for_and_named() -> None:
    problem = make_problem()
    strategy = HessianAlignment("erm", clients=4, federation=FederationConfig(timeout=0.1, on_missing="stop"))
    with pytest.raises(FedhaError, match=r"3 of 4 clients connected within 0\.1 s"):
        train_over(InlineGrid(app_of(problem), 3), strategy, problem, 1)


def test_a_strategy_that_has_not_begun_says_so() -> None:
    with pytest.raises(FedhaError, match="no model yet"):
        HessianAlignment("erm").aggregate_train(1, [])


def test_a_node_without_a_partition_id_is_refused() -> None:
    problem = make_problem()
    strategy = HessianAlignment("erm", clients=1)
    arrays = pack_tensors(dict(problem.model.named_parameters()))
    message, *_ = strategy.configure_train(1, arrays, ConfigRecord(), InlineGrid(app_of(problem), 1))
    nowhere = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    failed = find_failure(app_of(problem)(message, nowhere))
    assert failed is not None
    assert failed.kind == "FedhaError"
    assert re.search(r"no partition-id.*--node-config 'partition-id=0'", failed.sentence)


def test_a_node_beyond_the_domains_is_refused(tmp_path: Path) -> None:
    run_config = {"settings": to_json(parse({"training": {"rounds": 1}})), "out": str(tmp_path / "run")}
    grid = InlineGrid(bound_client_app(tmp_path), 3, run_config)
    here = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=run_config)
    with pytest.raises(FedhaError, match=r"partition-id is 2 but the data have 2 source domains"):
        server_app(tmp_path)(grid=grid, context=here)


def test_a_second_start_is_a_run_of_its_own() -> None:
    problem = make_problem()
    strategy = HessianAlignment("fediir", SYNCHRONOUS, seed=SEED, clients=3)
    initial = ArrayRecord(problem.model.state_dict())
    ends = [strategy.start(InlineGrid(app_of(problem), 3), initial, num_rounds=2).arrays for _ in range(2)]
    assert_same_bits(*map(unpack_tensors, ends))


def test_a_linear_head_without_a_bias_is_aligned_without_a_bias() -> None:
    problem = make_problem()
    model = SplitModel(nn.Sequential(nn.Flatten(), nn.Linear(4, 5)), nn.Linear(5, 3, bias=False)).double()
    problem = replace(problem, model=model)
    training = TrainingConfig(rounds=1, optimizer="sgd", learning_rate=1.0)
    parameters, _ = train_plainly(problem, RECIPES["iga"], training)
    losses = [
        nn.functional.cross_entropy(model(domain.train.inputs), domain.train.labels) for domain in problem.domains
    ]
    heads = [torch.autograd.grad(loss, model.head.weight, create_graph=True)[0] for loss in losses]
    mean = sum(heads) / 3
    objective = sum(loss + (head - mean).square().sum() for loss, head in zip(losses, heads, strict=True)) / 3
    names, values = zip(*model.named_parameters(), strict=True)
    for name, value, gradient in zip(names, values, torch.autograd.grad(objective, values), strict=True):
        assert_close(parameters[name], value.detach() - gradient, rtol=0, atol=1e-12)


def test_a_domain_too_small_for_a_statistic_is_named() -> None:
    problem = make_problem()
    small = replace(problem.domains[1], train=problem.domains[1].train.select(slice(0, 1)))
    problem = replace(problem, domains=(problem.domains[0], small, problem.domains[2]))
    with pytest.raises(
        FedhaError, match="'d1' cannot be trained on: it has fewer than 2 training examples, and recipe 'coral'"
    ):
        train_over(InlineGrid(app_of(problem), 3), HessianAlignment("coral", clients=3), problem, 1)
