"""The round as a plain loop equals centralised training, and averages and steps as its config says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.testing import assert_close

from fedha.answers import answer_measure, answer_train
from fedha.client import Client
from fedha.cohort import Member, averaging_weights
from fedha.config import LocalConfig, ModelConfig, RecipeConfig, TrainingConfig
from fedha.data.domain import Domain, Examples
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request, Task
from fedha.federation import Server, run_round
from fedha.models import SplitModel, build
from fedha.recipes import RECIPES, Recipe, in_local_steps
from fedha.schedule import rate_factor
from tests.problems import PROBES, ROWS, SEED, Problem, make_problem
from tests.published_objectives import Live, example_losses, leaves, look, mean, objective, spread

ROUNDS = 20
WARM_UP = {"weight": 3.0, "warmup_rounds": 6, "warmup_weight": 0.5, "rescale": True}


# --- synchronous mode is centralised training ---


def train_centrally(
    name: str, problem: Problem, optimizer: str, decay: float = 0.0, reset: bool = False
) -> dict[str, Tensor]:
    """A plain torch loop over all domains: warm-up, rescale, weight decay, falling learning rate."""
    parameters, memory = leaves(dict(problem.model.named_parameters())), {}
    make = {
        "adam": lambda values: torch.optim.Adam(values, lr=0.01),
        "sgd": lambda values: torch.optim.SGD(values, lr=0.01, momentum=0.8),
    }[optimizer]
    chosen = make(list(parameters.values()))
    for number in range(1, ROUNDS + 1):
        if reset and number == 7:
            chosen = make(list(parameters.values()))
        weight = 0.5 if number <= 6 else 3.0
        loss = objective(name, look(problem, parameters, number, memory), weight)
        loss = loss + decay * sum(value.square().sum() for value in parameters.values())
        if number > 6 and name != "erm":
            loss = loss / 3
        for group in chosen.param_groups:
            group["lr"] = 0.01 * (1 + math.cos(math.pi * (number - 1) / ROUNDS)) / 2
        chosen.zero_grad()
        loss.backward()
        chosen.step()
    return {name: value.detach() for name, value in parameters.items()}


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", ["erm", "hgp", "exact_diagonal", "fishr", "coral", "irm"])
def test_synchronous_mode_is_centralised_training(name: str, optimizer: str, precision: str) -> None:
    problem = make_problem(precision=precision)
    training = TrainingConfig(
        rounds=ROUNDS,
        optimizer=optimizer,
        learning_rate=0.01,
        momentum=0.8 if optimizer == "sgd" else None,
        weight_decay=0.02,
        schedule="cosine",
    )
    federated = problem.train(replace(RECIPES[name], **WARM_UP), training, ROUNDS)
    expected = train_centrally(name, problem, optimizer, decay=0.02)
    assert_close(federated, expected, rtol=0, atol=1e-10 if precision == "float64" else 1e-5)
    start = problem.model.state_dict()
    assert max(float((federated[key] - start[key]).abs().max()) for key in start) > 0.01  # it did train


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_fresh_optimiser_after_the_warm_up(optimizer: str) -> None:
    problem = make_problem()
    training = TrainingConfig(
        rounds=ROUNDS,
        optimizer=optimizer,
        learning_rate=0.01,
        momentum=0.8 if optimizer == "sgd" else None,
        schedule="cosine",
    )
    kept = problem.train(replace(RECIPES["hgp"], **WARM_UP), training, ROUNDS)
    fresh = problem.train(replace(RECIPES["hgp"], **WARM_UP, reset_optimizer=True), training, ROUNDS)
    assert_close(fresh, train_centrally("hgp", problem, optimizer, reset=True), rtol=0, atol=1e-10)
    assert max(float((kept[name] - fresh[name]).abs().max()) for name in kept) > 1e-4


def test_gradient_and_hessian_weights_weigh_the_terms() -> None:
    problem = make_problem()
    recipe = RecipeConfig(name="exact_diagonal", gradient_weight=0.25, hessian_weight=6.0, weight=2.0).resolve()
    before, after = one_step(problem, recipe, TrainingConfig(optimizer="sgd", learning_rate=1.0))
    live = look(problem, before, 1, {})
    diagonals = [one.diagonal() for one in live.hessians()]
    loss = live.pooled() + 2 * (
        0.25 * spread(live.gradients(), mean(live.gradients())) + 6 * spread(diagonals, mean(diagonals))
    )
    assert_close(differences(before, after), list(grad(loss, list(before.values()))), rtol=1e-9, atol=1e-12)


# --- averaging ---


def one_step(problem: Problem, recipe: Recipe, training: TrainingConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    server = problem.server(recipe, training)
    before = leaves(server.parameters)
    run_round(server, problem.clients(), 1)
    return before, server.parameters


def differences(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[Tensor]:
    return [before[name].detach() - after[name] for name in before]


@pytest.mark.parametrize("averaging", ["domains", "examples"])
def test_updates_are_averaged_by_domains_or_by_examples(averaging: str) -> None:
    problem = make_problem()
    sizes = [len(domain.train) for domain in problem.domains]
    shares = [1 / 3] * 3 if averaging == "domains" else [size / sum(sizes) for size in sizes]
    training = TrainingConfig(optimizer="sgd", learning_rate=1.0, averaging=averaging)
    members = [Member(place, f"d{place}", size) for place, size in enumerate(sizes)]
    assert averaging_weights(training, members) == pytest.approx(shares)
    before, after = one_step(problem, RECIPES["erm"], training)
    by_client = [grad(risk, list(before.values()), retain_graph=True) for risk in look(problem, before, 1, {}).risks()]
    by_hand = [sum(s * g for s, g in zip(shares, each, strict=True)) for each in zip(*by_client, strict=True)]
    assert_close(differences(before, after), by_hand, rtol=1e-10, atol=1e-13)


def test_by_examples_the_reference_is_that_of_the_pooled_examples() -> None:
    problem = make_problem()
    training = TrainingConfig(optimizer="sgd", learning_rate=1.0, averaging="examples")
    before, after = one_step(problem, RECIPES["hgp"], training)
    live = look(problem, before, 1, {})
    features, labels = torch.cat(live.features), torch.cat(live.labels)

    def products(risk: Tensor) -> tuple[Tensor, Tensor]:
        gradient = grad(risk, live.head, create_graph=True)[0]
        return gradient, grad(gradient.square().sum() / 2, live.head, create_graph=True)[0]

    pooled_risk = example_losses(live.logits(live.head, features), labels).mean()
    pooled = [one.detach() for one in products(pooled_risk)]
    loss = pooled_risk
    for risk, some in zip(live.risks(), live.labels, strict=True):
        for own, reference in zip(products(risk), pooled, strict=True):
            loss = loss + len(some) / len(labels) * (own - reference).square().sum()
    assert_close(differences(before, after), list(grad(loss, list(before.values()))), rtol=1e-9, atol=1e-12)


# --- the server's optimisers, against their recursions ---


def fedavg(updates: Sequence[np.ndarray], rate: float) -> np.ndarray:
    return -rate * sum(updates)


def fedavgm(updates: Sequence[np.ndarray], rate: float, momentum: float = 0.9) -> np.ndarray:
    place, velocity = 0.0, 0.0
    for update in updates:
        velocity = momentum * velocity + update
        place = place - rate * velocity
    return place


def adam(
    updates: Sequence[np.ndarray], rate: float, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8
) -> np.ndarray:
    place, first, second = 0.0, 0.0, 0.0
    for step, update in enumerate(updates, 1):
        first = betas[0] * first + (1 - betas[0]) * update
        second = betas[1] * second + (1 - betas[1]) * update**2
        corrected = first / (1 - betas[0] ** step), second / (1 - betas[1] ** step)
        place = place - rate * corrected[0] / (np.sqrt(corrected[1]) + epsilon)
    return place


def fedadam(updates: Sequence[np.ndarray], rate: float) -> np.ndarray:
    return adam(updates, rate, (0.9, 0.99), 1e-3)


@pytest.mark.parametrize(
    ("training", "recursion"),
    [
        (TrainingConfig(optimizer="sgd"), lambda u: fedavg(u, 0.1)),
        (TrainingConfig(optimizer="sgd", momentum=0.7), lambda u: fedavgm(u, 0.1, 0.7)),
        (TrainingConfig(), lambda u: adam(u, 1e-3)),
        (TrainingConfig(mode="local"), lambda u: fedavg(u, 1.0)),
        (TrainingConfig(mode="local", optimizer="fedavgm"), lambda u: fedavgm(u, 1.0)),
        (
            TrainingConfig(mode="local", optimizer="fedavgm", momentum=0.5, learning_rate=0.3),
            lambda u: fedavgm(u, 0.3, 0.5),
        ),
        (TrainingConfig(mode="local", optimizer="fedadam"), lambda u: fedadam(u, 1e-2)),
        (TrainingConfig(mode="local", optimizer="fedadam", learning_rate=0.2), lambda u: fedadam(u, 0.2)),
    ],
    ids=["sgd", "sgd momentum", "adam", "fedavg", "fedavgm", "fedavgm given", "fedadam", "fedadam given"],
)
def test_server_optimisers_follow_their_recursions(training: TrainingConfig, recursion) -> None:
    start = torch.linspace(-1, 1, 4, dtype=torch.float64)
    server = gathered(Server(Task(RECIPES["erm"], training, SEED), {"w": start}), 3)
    draws = np.random.default_rng(0).normal(size=(6, 3, 4)) * 0.01  # rounds, clients, entries
    for number, updates in enumerate(draws, 1):
        server.step(number, [reply(place, {"w": torch.from_numpy(one)}) for place, one in enumerate(updates)])
    moved = server.parameters["w"] - start
    assert_close(moved, torch.from_numpy(recursion(list(draws.mean(1)))), rtol=1e-10, atol=1e-14)


def gathered(server: Server, clients: int) -> Server:
    """The server in a round with so many clients; client k has k + 1 examples."""
    server.gather(1, [Member(place, f"d{place}", place + 1) for place in range(clients)])
    return server


def reply(place: int, tensors: Mapping[str, Tensor], examples: int = 10) -> Reply:
    return Reply(f"d{place}", f"d{place}", place, examples, tensors, {"loss": 1.0, "risk": 1.0, "accuracy": 0.5})


def test_replies_are_summed_in_client_order_whatever_order_they_arrive_in() -> None:
    draws = torch.Generator().manual_seed(0)
    replies = [reply(k, {"w": 10.0**k * torch.randn(50, generator=draws)}, examples=k + 1) for k in range(4)]
    ends = []
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        training = TrainingConfig(averaging="examples", optimizer="sgd")
        server = gathered(Server(Task(RECIPES["erm"], training, SEED), {"w": torch.zeros(50)}), 4)
        server.step(1, [replies[place] for place in order])
        ends.append(server.parameters["w"])
    assert torch.equal(*ends)


def test_two_clients_with_one_id_are_refused() -> None:
    server = gathered(Server(Task(RECIPES["erm"], TrainingConfig(), SEED), {"w": torch.zeros(2)}), 2)
    with pytest.raises(FedhaError, match=r"client 0, which another one has.*partition-id"):
        server.step(1, [reply(0, {"w": torch.zeros(2)}), reply(0, {"w": torch.zeros(2)})])
    with pytest.raises(FedhaError, match=r"client 2, which was not asked.*partition-id"):
        server.step(1, [reply(2, {"w": torch.zeros(2)})])
    with pytest.raises(FedhaError, match=r"several clients have the id 0.*partition-id"):
        server.gather(1, [Member(place, "d", 1) for place in (0, 1, 0)])


def test_clients_with_different_models_are_refused() -> None:
    server = gathered(Server(Task(RECIPES["erm"], TrainingConfig(), SEED), {"w": torch.zeros(2)}), 2)
    with pytest.raises(FedhaError, match="do they run the same model"):
        server.step(1, [reply(0, {"w": torch.zeros(2)}), reply(1, {"w": torch.zeros(3)})])


# --- local mode ---


@pytest.mark.parametrize("name", ROWS)
def test_one_full_batch_local_step_is_synchronous_sgd(name: str) -> None:
    problem = make_problem()
    recipe = replace(ROWS[name], probes=PROBES, weight=1.7)
    common = {"rounds": 5, "schedule": "linear", "weight_decay": 0.01}
    once = TrainingConfig(mode="local", local=LocalConfig(steps=1, learning_rate=0.05), **common)
    synchronous = TrainingConfig(optimizer="sgd", learning_rate=0.05, **common)
    alike = in_local_steps(recipe)  # HGP's direction is held there
    assert_close(problem.train(recipe, once, 5), problem.train(alike, synchronous, 5), rtol=0, atol=1e-12)


def pull_to(live: Live, place: int, references: Sequence[Tensor]) -> Tensor:
    """A client's exact_diagonal objective, written with autograd."""
    gradient, diagonal = live.gradients()[place], live.hessians()[place].diagonal()
    return (gradient - references[0]).square().sum() + (diagonal - references[1]).square().sum()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_local_steps_hold_the_round_s_reference_and_start_a_fresh_optimiser(optimizer: str) -> None:
    problem = make_problem()
    local = LocalConfig(steps=3, optimizer=optimizer, learning_rate=0.02, momentum=0.6)
    training = TrainingConfig(mode="local", rounds=4, local=local)
    federated = problem.train(replace(RECIPES["exact_diagonal"], weight=1.7), training, 2)
    globally = leaves(dict(problem.model.named_parameters()))
    for number in (1, 2):
        start = look(problem, globally, number, {})
        diagonals = [one.diagonal() for one in start.hessians()]
        references = mean(start.gradients()).detach(), mean(diagonals).detach()
        ends = []
        for place in range(3):
            own = leaves(globally)
            chosen = (
                torch.optim.Adam(own.values(), lr=0.02)
                if optimizer == "adam"
                else torch.optim.SGD(own.values(), lr=0.02, momentum=0.6)
            )
            for _ in range(3):
                live = look(problem, own, number, {})
                chosen.zero_grad()
                (live.risks()[place] + 1.7 * pull_to(live, place, references)).backward()
                chosen.step()
            ends.append(own)
        globally = {name: mean([own[name] for own in ends]) for name in globally}
        globally = leaves(globally)
    assert_close(federated, {name: value.detach() for name, value in globally.items()}, rtol=0, atol=1e-11)


def test_local_mode_logs_and_weighs_the_risks_at_the_round_s_start() -> None:
    problem = make_problem()
    local = LocalConfig(epochs=3, batch_size=5, learning_rate=0.05)
    recipe = RecipeConfig(name="groupdro", step_size=2.0).resolve()
    server = problem.server(recipe, TrainingConfig(mode="local", local=local))
    risks = [risk.item() for risk in look(problem, server.parameters, 1, {}).risks()]
    record = run_round(server, problem.clients(), 1)
    assert list(record["risk"].values()) == pytest.approx(risks)
    raised = [math.exp(2 * risk) for risk in risks]
    domain_weights = [float(value) for value in server.states["groupdro"].values()]
    assert domain_weights == pytest.approx([one / sum(raised) for one in raised])
    answers = [
        answer_train(client, Request(server.task, 1, problem.model.state_dict())) for client in problem.clients()
    ]
    for name, start in problem.model.state_dict().items():
        moved = sum(weight * answer.tensors[name] for weight, answer in zip(domain_weights, answers, strict=True))
        assert_close(server.parameters[name], start - moved, rtol=0, atol=1e-14)


class Witness(nn.Module):
    """A featurizer that writes down which rows it is shown; a row's first entry is its number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.seen: list[list[int]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append([int(row) for row in inputs[:, 0]])
        return self.linear(inputs / 10)


def watched_rounds(local: LocalConfig, rounds: int, seed: int = SEED, client_id: int = 0) -> list[list[list[int]]]:
    """The rows of each minibatch of each round, of one client with ten examples."""
    witness = Witness()
    inputs = torch.stack([torch.arange(10.0), torch.ones(10)], 1)
    domain = Domain("d", Examples(inputs, torch.arange(10) % 2), Examples(inputs[:0], torch.arange(0)))
    client = Client(client_id, domain, SplitModel(witness, nn.Linear(2, 2)))
    task = Task(RECIPES["erm"], TrainingConfig(mode="local", local=local, chunk=64), seed)
    batches = []
    for number in range(1, rounds + 1):
        witness.seen.clear()
        answer_train(client, Request(task, number, dict(client.model.named_parameters())))
        batches.append([rows for rows in witness.seen if rows != [0, 0]])  # zeros tell whether anything is drawn
    return batches


def test_minibatches_cover_each_epoch_exactly_once_in_a_fresh_order() -> None:
    epochs = []
    for batches in watched_rounds(LocalConfig(epochs=2, batch_size=4), rounds=2):
        assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
        epochs += [[*chain(*batches[:3])], [*chain(*batches[3:])]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_steps_run_through_epochs_and_a_large_batch_is_the_whole_domain() -> None:
    (batches,) = watched_rounds(LocalConfig(steps=4, batch_size=5), rounds=1)
    assert sorted(batches[0] + batches[1]) == sorted(batches[2] + batches[3]) == list(range(10))
    (whole,) = watched_rounds(LocalConfig(batch_size=64, epochs=3), rounds=1)
    assert whole == [list(range(10))] * 3


def test_minibatches_depend_on_seed_round_and_client_alone() -> None:
    local = LocalConfig(epochs=1, batch_size=3)
    usual = watched_rounds(local, 2)
    assert watched_rounds(local, 2) == usual
    assert usual[0] != usual[1]
    assert watched_rounds(local, 2, seed=SEED + 1) != usual
    assert watched_rounds(local, 2, client_id=1) != usual


# --- schedules and refusals ---


def test_learning_rate_schedules() -> None:
    def factors(schedule: str) -> list[float]:
        return [rate_factor(TrainingConfig(rounds=4, schedule=schedule), number) for number in (1, 2, 3, 4)]

    assert factors("constant") == [1, 1, 1, 1]
    assert factors("linear") == [1, 0.75, 0.5, 0.25]
    half = math.sqrt(0.5)
    assert factors("cosine") == pytest.approx([1, (1 + half) / 2, 0.5, (1 - half) / 2])


def test_warm_up_ends_after_its_last_round() -> None:
    problem, recipe = make_problem(), replace(RECIPES["irm"], **WARM_UP)
    server, clients = problem.server(recipe, TrainingConfig()), problem.clients()
    weights = [run_round(server, clients, number)["weight"] for number in range(1, 9)]
    assert weights == [0.5] * 6 + [3.0] * 2


def test_a_loss_that_is_not_finite_names_domain_and_round() -> None:
    problem = make_problem()
    steep = TrainingConfig(optimizer="sgd", learning_rate=1e300)
    with pytest.raises(FedhaError, match=r"domain 'd0' is not finite in round 2 .*learning_rate"):
        problem.train(RECIPES["iga"], steep, 2)


def test_a_whole_hessian_of_a_large_head_is_refused() -> None:
    problem = make_problem()
    wide = replace(problem, model=build(ModelConfig(hidden=[1400], precision="float64"), (4,), 3, SEED))
    with pytest.raises(FedhaError, match=r"'hessian' would hold 4203 x 4203 numbers.*4096"):
        wide.train(RECIPES["cma"], TrainingConfig(), 1)


def test_statistics_are_measured_at_the_model_of_the_request() -> None:
    problem = make_problem()
    client, task = problem.clients()[0], Task(RECIPES["iga"], TrainingConfig(), SEED)
    first = dict(problem.model.named_parameters())
    second = {name: value + 0.1 for name, value in first.items()}
    measured = [answer_measure(client, Request(task, 1, one, measure=("gradient",))) for one in (first, second)]
    afresh = answer_measure(problem.clients()[0], Request(task, 1, second, measure=("gradient",)))
    assert torch.equal(measured[1].tensors["gradient"], afresh.tensors["gradient"])
    assert not torch.equal(measured[0].tensors["gradient"], afresh.tensors["gradient"])
