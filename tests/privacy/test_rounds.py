"""Real rounds in which every example is protected: what leaves, what it costs, and when it ends."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import MetricRecord
from torch.testing import assert_close

from fedha.answers import answer_measure, answer_train
from fedha.client import Client
from fedha.data.domain import Domain, Examples
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.exchange import Request, Task
from fedha.flower.client import client_app
from fedha.flower.serve import Job, load_domains
from fedha.flower.wire import pack_task, unpack_reply, unpack_task
from fedha.models import build
from fedha.privacy.accounting import spent
from fedha.privacy.ledger import Ledger, Release
from fedha.privacy.releasable import private_exchanges
from fedha.privacy.site import Site
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.jobs import run_job
from tests.killed_runs import Killed, assert_resumes
from tests.privacy.rounds import EXAMPLES, LOCAL, grid_of, records_of, run_on, settings

pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')

COVERED: dict[str, Any] = {
    "erm": "erm",
    "exact_diagonal": "exact_diagonal",
    "hessian times the pooled gradient": {
        "name": "mine",
        "align": {"gradient": 1.0, "pooled_gradient_hessian_product": 1.0},
    },
    "irm": "irm",
    "vrex": "vrex",
    "iga": "iga",
    "fish": "fish",
    "fishr": "fishr",
    "coral": "coral",
    "groupdro": "groupdro",
    "fediir": "fediir",
    "rescaled, with a warm-up": {"name": "iga", "weight": 5.0, "warmup_rounds": 1, "rescale": True},
}


# --- what leaves ---


@pytest.mark.parametrize("local", [False, True], ids=["synchronous", "local"])
@pytest.mark.parametrize("name", COVERED)
def test_nothing_but_releases_leaves_a_client(name: str, local: bool, tmp_path: Path) -> None:
    """No loss, risk, accuracy or evaluation of the examples themselves; a risk only where it is part of a release."""
    sections: dict[str, Any] = {"training": {"rounds": 3, **LOCAL}} if local else {}
    config = settings(COVERED[name], **sections, privacy={"sampling": "poisson"} if local else {})
    grid = grid_of(config)
    run_on(grid, config, tmp_path)
    assert all(value.isfinite().all() for value in runfolder.read_model(tmp_path).values())
    replies = [unpack_reply(one.content) for one in grid.sent]
    kinds = {key.partition("/")[0] for reply in replies for key in reply.metrics}
    assert kinds <= {"penalty", "risk", "seeded", "held_out_examples"}
    for metrics in (reply.metrics for reply in replies):
        if "risk" in metrics:
            assert name in ("vrex", "groupdro")  # then it is part of the release
        assert not {"loss", "accuracy"} & metrics.keys()
    records = records_of(tmp_path)
    assert all("loss" not in one and one["accuracy"] == {} for one in records)
    assert [sorted(one["epsilon"]) for one in records] == [["flip-0.1", "flip-0.2"]] * 3
    assert all(one == {"examples": 0} for one in records[-1]["held_out"].values())


@pytest.mark.parametrize("name", COVERED)
def test_without_clip_and_noise_a_private_round_is_the_plain_one(name: str) -> None:
    """Both halves of it: the statistics that are sent, and the gradient of risk, penalty and L2."""
    config = settings(COVERED[name], training={"weight_decay": 0.01}, model={"precision": "float64"})
    domains, recipe = load_domains(config), config.recipe[0].resolve()
    model = build(config.model, domains.input_shape, domains.classes, 0)
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    exact = config.privacy.model_copy(update={"clip": 1e9, "statistics_clip": 1e9, "noise_multiplier": 1e-300})
    updates = []
    for task in (Task(recipe, config.training, 0), Task(recipe, config.training, 0, exact)):
        clients = [Client(place, _double(domain), model) for place, domain in enumerate(domains.sources)]
        references: dict[str, torch.Tensor] = {}
        for round in (1, 2):  # the second sees a moving average
            references = {}
            for measure in private_exchanges(recipe):
                asked = [Request(task, round, parameters, references, measure, 0.5) for _ in clients]
                replies = [answer_measure(*one) for one in zip(clients, asked, strict=True)]
                references = references | {
                    key: (replies[0].tensors[key] + replies[1].tensors[key]) / 2 for key in measure
                }
            trained = [
                answer_train(client, Request(task, round, parameters, references, (), 0.5)) for client in clients
            ]
        updates.append([references, *(one.tensors for one in trained)])
    for one, other in zip(*updates, strict=True):
        assert_close(dict(one), dict(other), rtol=1e-6, atol=1e-9)


def _double(domain: Domain) -> Domain:
    train = Examples(domain.train.inputs.double(), domain.train.labels)
    return replace(domain, train=train)


def test_one_example_moves_what_is_sent_by_no_more_than_the_clip_allows() -> None:
    """Statistics and gradient together: sums over n examples, each cut to the clip, whatever is in them."""
    config = settings("exact_diagonal", model={"precision": "float64"})
    domains = load_domains(config)
    model = build(config.model, domains.input_shape, domains.classes, 0)
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    clip = 0.02
    privacy = config.privacy.model_copy(update={"clip": clip, "statistics_clip": clip})
    task = Task(config.recipe[0].resolve(), config.training, 0, privacy)
    domain = _double(domains.sources[0])
    inputs = domain.train.inputs.clone()
    inputs[3] = 1e6
    moved = replace(domain, train=Examples(inputs, domain.train.labels))
    sent = []
    for one in (domain, moved):
        client = Client(0, one, model)  # the same seed: the same noise, so that the difference is the data's
        measured = answer_measure(client, Request(task, 1, parameters, {}, ("gradient", "hessian_diagonal"), 1.0))
        client.state = sent[0][2] if sent else client.state  # the same pull for both
        references = sent[0][0] if sent else measured.tensors
        trained = answer_train(client, Request(task, 1, parameters, references, (), 1.0))
        sent.append((dict(measured.tensors), dict(trained.tensors), client.state))
    n = len(domain.train)
    for part in (0, 1):
        moves = [sent[1][part][key] - sent[0][part][key] for key in sent[0][part]]
        length = math.sqrt(sum(float(move.square().sum()) for move in moves))
        assert 0 < length <= 2 * clip / n + 1e-12  # replaced, that is one removed and one added


def test_a_round_uses_its_own_released_moments_and_no_fresh_ones() -> None:
    config = settings("iga")
    domains = load_domains(config)
    model = build(config.model, domains.input_shape, domains.classes, 0)
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    task = Task(config.recipe[0].resolve(), config.training, 0, config.privacy)
    client = Client(0, domains.sources[0], model)
    with pytest.raises(FedhaError, match="without its statistics"):
        answer_train(client, Request(task, 1, parameters, {"gradient": torch.zeros(1, 7)}))
    reply = answer_measure(client, Request(task, 1, parameters, {}, ("gradient",)))
    assert_close(client.state.released["gradient"], reply.tensors["gradient"])
    answer_train(client, Request(task, 1, parameters, reply.tensors))
    with pytest.raises(FedhaError, match="without its statistics"):
        answer_train(client, Request(task, 2, parameters, reply.tensors))


# --- the account ---


def test_epsilon_of_each_round_is_that_of_its_releases(tmp_path: Path) -> None:
    config = settings("exact_diagonal", privacy={"statistics_noise": 2.0, "delta": 1e-4})
    results = run_job(Job(config, tmp_path), Silent())
    examples = len(load_domains(config).sources[0].train)
    for record in records_of(tmp_path):
        ledger = Ledger("example", examples).add(
            [(Release(6.0, "whole", examples), record["round"]), (Release(3.0, "whole", examples), record["round"])]
        )
        assert record["epsilon"]["flip-0.2"] == pytest.approx(spent(ledger, 1e-4).epsilon, rel=1e-12)
    told = results["privacy"]
    assert told["epsilon"] == records_of(tmp_path)[-1]["epsilon"]
    assert told["delta"] == {"flip-0.2": 1e-4, "flip-0.1": 1e-4}
    assert told["relation"] == "add or remove one example"
    assert told["noise"].startswith("seeded")
    assert json.loads((tmp_path / runfolder.RESULTS).read_text())["privacy"] == told


def test_the_budget_ends_training_before_it_is_passed_and_the_run_ends_well(tmp_path: Path) -> None:
    whole = settings("exact_diagonal", training={"rounds": 6})
    run_job(Job(whole, tmp_path / "whole"), Silent())
    costs = [one["epsilon"]["flip-0.1"] for one in records_of(tmp_path / "whole")]
    limit = (costs[2] + costs[3]) / 2  # three rounds fit
    config = settings("exact_diagonal", training={"rounds": 6}, privacy={"max_epsilon": limit})
    results = run_job(Job(config, tmp_path / "ended"), Silent())
    records = records_of(tmp_path / "ended")
    assert [one["epsilon"]["flip-0.1"] for one in records] == costs[:3]
    assert results["rounds"] == 3
    assert "round 4 would spend epsilon" in results["privacy"]["stopped"]
    assert records[-1]["target"] == results["target"]  # the last model was evaluated, though 3 is no multiple of 2
    assert runfolder.is_finished(tmp_path / "ended")


def test_a_budget_for_no_round_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    config = settings("exact_diagonal", privacy={"max_epsilon": 0.01})
    grid = grid_of(config)
    with pytest.raises(FedhaError, match=r"round 1 would spend epsilon .* raise privacy.max_epsilon"):
        run_on(grid, config, tmp_path)
    assert {one.metadata.message_type for one in grid.sent} == {"query.introduce"}


@pytest.mark.parametrize("recipe", ["exact_diagonal", "fishr"])
def test_a_resumed_run_goes_on_with_its_account(recipe: str, tmp_path: Path) -> None:
    config = settings(recipe, training={"rounds": 5}, privacy={"evaluation_noise": 4.0})
    assert_resumes(config, tmp_path, 3)


def test_where_noise_is_never_the_same_again_rounds_after_the_checkpoint_are_not_forgotten(tmp_path: Path) -> None:
    config = settings("exact_diagonal", training={"rounds": 4}, checkpoint={"every": 50})
    with pytest.raises(KeyboardInterrupt):
        run_on(grid_of(config, lambda: Site("cryptographic")), config, tmp_path, Killed(3))
    results = run_on(grid_of(config, lambda: Site("cryptographic")), config, tmp_path, resume=True)
    examples = len(load_domains(config).sources[0].train)
    ledger = Ledger("example", examples).add([(Release(3.0, "whole", examples), 2 * (3 + 4))])
    told = results["privacy"]
    assert told["epsilon"]["flip-0.2"] == pytest.approx(spent(ledger, told["delta"]["flip-0.2"]).epsilon)
    assert told["noise"].startswith("cryptographic")


# --- evaluation of held-out examples ---


def test_held_out_accuracy_has_noise_and_an_account_of_its_own(tmp_path: Path) -> None:
    config = settings("erm", privacy={"evaluation_noise": 2.0}, evaluation={"every": 1})
    results = run_job(Job(config, tmp_path), Silent())
    domains = load_domains(config)
    held_out = len(domains.sources[0].held_out)
    ledger = Ledger("example", held_out).add([(Release(2.0, "whole", held_out), 3)])
    told = results["privacy"]["epsilon_held_out"]["flip-0.2"]
    assert told == pytest.approx(spent(ledger, 0.1 / held_out).epsilon)
    found = [record["held_out"]["flip-0.2"] for record in records_of(tmp_path)]
    assert all(0 <= one["accuracy"] <= 1 and set(one) == {"accuracy", "examples"} for one in found)
    assert any(abs(one["accuracy"] * held_out - round(one["accuracy"] * held_out)) > 1e-6 for one in found)


def test_evaluation_ends_where_its_budget_ends(tmp_path: Path) -> None:
    config = settings(
        "erm", training={"rounds": 4}, privacy={"evaluation_noise": 2.0, "max_epsilon": 3.0, "noise_multiplier": 9.0},
        evaluation={"every": 1},
    )  # fmt: skip
    results = run_job(Job(config, tmp_path), Silent())
    assert 0 < max(results["privacy"]["epsilon_held_out"].values()) <= 3.0
    evaluated = ["accuracy" in record["held_out"]["flip-0.1"] for record in records_of(tmp_path)]
    assert evaluated == sorted(evaluated, reverse=True)
    assert evaluated[0]
    assert not evaluated[-1]


# --- chance ---


def test_noise_depends_on_seed_round_and_client(tmp_path: Path) -> None:
    config = settings("iga", privacy={"noise_multiplier": 50.0})
    first, again = grid_of(config), grid_of(config)
    run_on(first, config, tmp_path / "a")
    run_on(again, config, tmp_path / "b")
    assert (tmp_path / "a" / runfolder.MODEL).read_bytes() == (tmp_path / "b" / runfolder.MODEL).read_bytes()
    gradients = [
        unpack_reply(one.content).tensors["gradient"]
        for one in first.sent
        if one.metadata.message_type == "query.measure"
    ]
    assert len({tuple(one.flatten().tolist()) for one in gradients}) == len(gradients) == 6


def test_a_client_of_somebodys_own_app_takes_no_seeded_noise_because_a_server_says_so(tmp_path: Path) -> None:
    """`client_app` without a site: two runs of one seed differ, and the clients say that nobody can repeat them."""
    config = settings("iga")
    domains = load_domains(config)
    for name in ("a", "b"):
        app = client_app(
            lambda _: build(config.model, domains.input_shape, domains.classes, 0),
            lambda context: domains.sources[int(context.node_config["partition-id"])],
        )
        results = run_on(InlineGrid(app, 2), config, tmp_path / name)
        assert results["privacy"]["noise"].startswith("cryptographic")
    assert (tmp_path / "a" / runfolder.MODEL).read_bytes() != (tmp_path / "b" / runfolder.MODEL).read_bytes()


def test_the_task_that_travels_holds_what_clients_need(tmp_path: Path) -> None:
    config = settings("iga", privacy={"scales": {"gradient": 2.0}, **EXAMPLES})
    task = Task(config.recipe[0].resolve(), config.training, 7, config.privacy)
    assert unpack_task(pack_task(task)) == task
    plain = Task(config.recipe[0].resolve(), config.training, 7)
    assert "privacy" not in json.loads(pack_task(plain))


def test_metrics_of_a_private_reply_are_numbers_that_flower_takes(tmp_path: Path) -> None:
    config = settings("vrex")
    grid = grid_of(config)
    run_on(grid, config, tmp_path)
    assert all(isinstance(one.content["metrics"], MetricRecord) for one in grid.sent)
