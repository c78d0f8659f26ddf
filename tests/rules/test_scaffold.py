"""SCAFFOLD is its paper's algorithm, on every engine to the same bits, and says what it does not go with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from fedha.audit import capture
from fedha.audit.replay import replay
from fedha.cohort import draw_cohort
from fedha.config import Config, LocalConfig, PrivacyConfig, TrainingConfig, parse
from fedha.errors import FedhaError
from fedha.exchange import Request, Task
from fedha.federation import Server, run_round
from fedha.flower import HessianAlignment
from fedha.flower.serve import Job, load_domains
from fedha.minibatches import minibatches
from fedha.recipes import RECIPES
from fedha.rules.applied import EXTRA
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from fedha.schedule import rate_factor
from tests.jobs import run_job
from tests.killed_runs import Killed, assert_same_bits
from tests.problems import SEED, Problem, make_problem

ROUNDS = 12
PART = TrainingConfig(
    mode="local",
    rounds=ROUNDS,
    optimizer="scaffold",
    learning_rate=0.8,
    averaging="clients",
    clients_per_round=2,
    weight_decay=0.01,
    schedule="cosine",
    local=LocalConfig(epochs=2, batch_size=5, learning_rate=0.3),
)


# --- the paper's algorithm 1, option II, written again ---


def published(problem: Problem, training: TrainingConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The global model and c after all rounds, in plain loops over flat vectors."""
    names = [name for name, _ in problem.model.named_parameters()]
    start = [value.detach() for value in problem.model.parameters()]
    shapes, task = [value.shape for value in start], Task(RECIPES["erm"], training, SEED)
    x = torch.cat([value.flatten() for value in start])
    everyone, c = [client.member for client in problem.clients()], torch.zeros_like(x)
    c_of = [torch.zeros_like(x) for _ in everyone]

    def named(flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split([shape.numel() for shape in shapes])
        return {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}

    for number in range(1, training.rounds + 1):
        rate, moves, changes = 0.3 * rate_factor(training, number), [], []
        for member in draw_cohort(training, SEED, number, everyone):
            i, data = member.client_id, problem.domains[member.client_id].train
            y, steps = x.clone(), 0
            for rows in minibatches(Request(task, number, {}), len(data), i):
                y.requires_grad_()
                logits = functional_call(problem.model, named(y), (data.inputs[rows],))
                loss = cross_entropy(logits, data.labels[rows]) + training.weight_decay * y.square().sum()
                (gradient,) = torch.autograd.grad(loss, y)
                y, steps = (y - rate * (gradient - c_of[i] + c)).detach(), steps + 1
            fresh = c_of[i] - c + (x - y) / (steps * rate)
            moves.append(y - x)
            changes.append(fresh - c_of[i])
            c_of[i] = fresh
        x = x + 0.8 * sum(moves) / len(moves)
        c = c + len(moves) / len(everyone) * sum(changes) / len(changes)
    return named(x), named(c)


def test_scaffold_is_the_published_algorithm() -> None:
    problem = make_problem()
    server, clients = problem.server(RECIPES["erm"], PART), problem.clients()
    for number in range(1, ROUNDS + 1):
        run_round(server, clients, number)
    parameters, control = published(problem, PART)
    assert_close(server.parameters, parameters, rtol=0, atol=1e-12)
    assert_close(server.states["scaffold"], control, rtol=0, atol=1e-12)
    assert float(control["head.weight"].abs().max()) > 1e-3
    plain = problem.train(RECIPES["erm"], PART.model_copy(update={"optimizer": "fedavg"}), ROUNDS)
    assert max(float((plain[name] - parameters[name]).abs().max()) for name in plain) > 1e-3


def test_with_everybody_and_one_step_it_is_gradient_descent() -> None:
    """Then the corrections sum to zero, whatever they are: c stays the mean of the c_i."""
    problem = make_problem()
    one = PART.model_copy(
        update={"clients_per_round": None, "local": LocalConfig(steps=1, learning_rate=0.3), "schedule": "constant"}
    )
    ends = [
        problem.train(RECIPES["erm"], one.model_copy(update={"optimizer": name}), 6) for name in ("scaffold", "fedavg")
    ]
    assert_close(*ends, rtol=0, atol=1e-13)


def test_a_step_that_cannot_be_taken_leaves_the_clients_memory() -> None:
    problem = make_problem()
    server, clients = problem.server(RECIPES["erm"], PART.model_copy(update={"clients_per_round": None})), None
    clients = problem.clients()
    run_round(server, clients, 1)
    before = clients[1].state
    clients[1].domain.train.inputs[3] = torch.inf
    with pytest.raises(FedhaError, match="not finite in round 2"):
        run_round(server, clients, 2)
    assert clients[1].state is before
    assert before.rule


# --- engines, resuming, secure sums ---

BASE: dict[str, Any] = {
    "data": {"clients_per_domain": 3},
    "model": {"hidden": [6], "one_logit": True},
    "recipe": "hgp",
    "training": {
        "mode": "local",
        "rounds": 5,
        "optimizer": "scaffold",
        "clients_per_round": 4,
        "local": {"epochs": 1, "batch_size": 50, "learning_rate": 0.05},
    },
    "evaluation": {"every": 2},
    "checkpoint": {"every": 2},
}


def config(engine: str = "inline", **sections: Any) -> Config:
    options = {"workers": 2} if engine == "ray" else {}
    return parse({**BASE, "engine": {"name": engine, **options}, **sections})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_job(Job(config(), folder), Silent())
    return folder


@pytest.mark.parametrize("schedule", ["exact", "piggyback"])
def test_a_killed_run_resumes_to_the_same_bits(whole: Path, schedule: str, tmp_path: Path) -> None:
    run = config(federation={"schedule": schedule})
    if schedule == "piggyback":
        whole = tmp_path / "whole"
        run_job(Job(run, whole), Silent())
    with pytest.raises(KeyboardInterrupt):
        run_job(Job(run, tmp_path / "killed"), Killed(3))
    kept = load_file(tmp_path / "killed" / "checkpoint" / "state.safetensors")
    assert any(name.startswith("rule/scaffold/") for name in kept)
    assert any("/rule/scaffold/" in name for name in kept)  # a client's
    run_job(Job(run, tmp_path / "killed"), Silent(), resume=True)
    assert_same_bits(tmp_path / "killed", whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_flowers_simulation_writes_what_one_process_writes(whole: Path, tmp_path: Path) -> None:
    run_job(Job(config("flower"), tmp_path / "run"), Silent())
    assert_same_bits(tmp_path / "run", whole)
    with pytest.raises(FedhaError, match="rule 'scaffold' keeps what it needs at the clients, which this engine"):
        run_job(
            Job(config("flower", training={**BASE["training"], "rounds": 6}), tmp_path / "run"), Silent(), resume=True
        )


def test_secure_sums_give_the_plain_runs_model(whole: Path, tmp_path: Path) -> None:
    run_job(Job(config(privacy={"secure_aggregation": True}), tmp_path / "run"), Silent())
    one, other = load_file(tmp_path / "run" / runfolder.MODEL), load_file(whole / runfolder.MODEL)
    assert_close(one, other, rtol=0, atol=1e-5)


def test_an_audit_does_it_again_and_sees_updates_alone(whole: Path, tmp_path: Path) -> None:
    run = config()
    again = replay(run, load_domains(run), rounds=[5], keep=tmp_path)
    assert_close(again, runfolder.read_model(whole), rtol=0, atol=0)
    releases = list(capture.read(tmp_path))
    assert len(releases) == 5  # of four clients, and of all together
    for sent in releases:
        assert set(sent.update or ()) == set(again)
        assert set(sent.statistics) == {"gradient", "pooled_gradient_hessian_product"}


def test_secure_sums_take_what_rides_along_too(tmp_path: Path) -> None:
    ends = []
    for secure in (False, True):
        run = config(federation={"schedule": "piggyback"}, privacy={"secure_aggregation": secure})
        run_job(Job(run, tmp_path / str(secure)), Silent())
        ends.append(load_file(tmp_path / str(secure) / runfolder.MODEL))
    assert_close(*ends, rtol=0, atol=1e-5)


def test_clients_trained_together_are_answered_one_by_one(whole: Path, tmp_path: Path) -> None:
    run = config()
    together = run.model_copy(update={"engine": run.engine.model_copy(update={"batching": True})})
    run_job(Job(together, tmp_path / "run"), Silent())
    one, other = load_file(tmp_path / "run" / runfolder.MODEL), load_file(whole / runfolder.MODEL)
    assert_close(one, other, rtol=0, atol=1e-5)


def test_what_travels_has_a_prefix_of_its_own() -> None:
    server = Server(Task(RECIPES["erm"], PART, SEED), dict(make_problem().model.named_parameters()))
    assert set(server.sent_along()) == {f"scaffold/{name}" for name in server.parameters}
    assert set(server.extra_shapes) == {f"{EXTRA}scaffold/{name}" for name in server.parameters}


# --- what it does not go with ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"training": {**BASE["training"], "momentum": 0.9}},
            r"training\.momentum is 0\.9, which .*'scaffold' does not",
        ),
        ({"training": {**BASE["training"], "local": {"momentum": 0.5}}}, "plain SGD's gradients, .*momentum 0.5"),
        ({"training": {**BASE["training"], "local": {"optimizer": "adam"}}}, "plain SGD's gradients, .*'adam'"),
        ({"training": {"optimizer": "scaffold"}}, "'scaffold' but mode 'synchronous' takes sgd or adam"),
        (
            {"recipe": "erm", "privacy": {"protect": "examples", "noise_multiplier": 1.0}},
            "'scaffold', whose clients answer more than their update, and privacy.protect is 'examples'",
        ),
        (
            {
                "recipe": "erm",
                "training": {**BASE["training"], "averaging": "clients"},
                "privacy": {"protect": "clients", "noise_multiplier": 1.0},
            },
            "'scaffold', whose clients answer more than their update, and privacy.protect is 'clients'",
        ),
    ],
)
def test_what_it_does_not_go_with_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(FedhaError, match=said):
        config(**changes)


def test_a_strangers_app_hears_the_same() -> None:
    privacy = PrivacyConfig(protect="examples", noise_multiplier=1.0)
    with pytest.raises(FedhaError, match="whose clients answer more than their update"):
        HessianAlignment("erm", PART, privacy=privacy)
