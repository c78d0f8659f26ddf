"""One exchange a round: what rides along is what an exchange of its own would have brought, a round earlier."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from torch import Tensor
from torch.testing import assert_close

from fedha import training as training_module
from fedha.answers import answer_measure, answer_train
from fedha.config import FederationConfig, LocalConfig, TrainingConfig, parse
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.exchange import Request
from fedha.federation import run_round
from fedha.flower import HessianAlignment
from fedha.flower.serve import Job
from fedha.piggyback import answer_train as piggyback_train
from fedha.piggyback import answer_train_together, riders
from fedha.recipes import RECIPES
from fedha.reference import weighted_mean
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.driving import app_of, assert_same_bits, train_over
from tests.jobs import run_job
from tests.killed_runs import assert_resumes
from tests.problems import PROBES, ROWS, SEED, SGD, Problem, make_problem

PIGGYBACK = FederationConfig(schedule="piggyback", on_missing="stop")
LOCAL = TrainingConfig(mode="local", rounds=3, local=LocalConfig(epochs=1, batch_size=6))
SYNCHRONOUS = SGD.model_copy(update={"rounds": 4})
ALLOWED = [name for name in ROWS if all(term.target != "others" for term in ROWS[name].terms)]


def by_hand(problem: Problem, name: str, rounds: int) -> dict[str, Tensor]:
    """Rounds of SGD whose references are those of the round before plus a client's own change, written out."""
    recipe, training = replace(ROWS[name], probes=PROBES), SYNCHRONOUS
    server, clients = problem.server(recipe, training), problem.clients()
    shares = [1 / len(clients)] * len(clients)
    parameters = {key: value.clone() for key, value in server.parameters.items()}
    references: dict[str, Tensor] = {}
    sent: list[dict[str, Tensor]] = [{} for _ in clients]
    for number in range(1, rounds + 1):
        if number == 1:
            for names in recipe.measurements():
                request = Request(server.task, number, parameters, references, names, shares[0])
                replies = [answer_measure(one, request).tensors for one in clients]
                references = references | weighted_mean(zip(replies, shares, strict=True))
        names = tuple(name for group in recipe.measurements() for name in group)
        now = Request(server.task, number, parameters, references, names, shares[0])
        carried = []
        for client, before in zip(clients, sent, strict=True):
            change = answer_measure(client, now).tensors if before else {}
            carried.append(
                {key: value + change[key] - before[key] if before else value for key, value in references.items()}
            )
        measured: list[dict[str, Tensor]] = []
        if number < rounds:
            request = Request(server.task, number + 1, parameters, references, names, shares[0])
            measured = sent = [dict(answer_measure(one, request).tensors) for one in clients]
        updates = [
            answer_train(one, replace(now, references=own, measure=())).tensors
            for one, own in zip(clients, carried, strict=True)
        ]
        mean = weighted_mean(zip(updates, shares, strict=True))
        parameters = {key: value - training.learning_rate * mean[key] for key, value in parameters.items()}
        references = weighted_mean(zip(measured, shares, strict=True)) if measured else {}
    return parameters


PLAIN = [n for n in ALLOWED if ROWS[n].weighting == "average" and not any(t.reference_average for t in ROWS[n].terms)]


@pytest.mark.parametrize("name", PLAIN)
def test_references_are_those_of_the_round_before_carried_forward(name: str) -> None:
    problem = make_problem()
    server, clients = problem.server(replace(ROWS[name], probes=PROBES), SYNCHRONOUS), problem.clients()
    server.piggyback = True
    for number in range(1, 5):
        run_round(server, clients, number)
    assert_close(server.parameters, by_hand(problem, name, 4), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["exact_diagonal", "hutchinson_shared", "coral", "iga", "vrex"])
def test_on_average_over_the_clients_a_carried_reference_is_the_exact_one(name: str, monkeypatch: Any) -> None:
    """So the pull has no part that only keeps the mean where it was."""
    problem, recipe = make_problem(), replace(ROWS[name], probes=PROBES)
    server, clients = problem.server(recipe, SYNCHRONOUS), problem.clients()
    server.piggyback = True
    seen: list[dict[str, Tensor]] = []
    train = training_module.answer_train

    def watching(client: Any, request: Request) -> Any:
        seen.append(dict(request.references))
        return train(client, request)

    monkeypatch.setattr(training_module, "answer_train", watching)
    for number in range(1, 4):
        seen.clear()
        before = {key: value.clone() for key, value in server.parameters.items()}
        run_round(server, clients, number)
        names = tuple(seen[0])
        request = Request(server.task, number, before, {}, names, 1 / 3)
        exact = weighted_mean((answer_measure(one, request).tensors, 1 / 3) for one in problem.clients())
        assert_close(weighted_mean((one, 1 / 3) for one in seen), exact, rtol=1e-9, atol=1e-12)
        if number > 1:
            assert any(not torch.equal(one[names[0]], seen[0][names[0]]) for one in seen[1:])


def test_a_client_that_missed_a_round_takes_the_references_as_they_are() -> None:
    problem, recipe = make_problem(), ROWS["exact_diagonal"]
    server, (client, *_) = problem.server(recipe, SYNCHRONOUS), problem.clients()
    references = weighted_mean([(answer_measure(client, asking(server, 1, {}, riders(recipe))).tensors, 1.0)])
    piggyback_train(client, asking(server, 1, references, riders(recipe)))
    late = piggyback_train(client, asking(server, 3, references, ())).tensors
    fresh = answer_train(problem.clients()[0], asking(server, 3, references, ())).tensors
    assert_close(late, fresh, rtol=0, atol=0)


def test_clients_with_references_of_their_own_are_answered_one_by_one() -> None:
    problem, recipe = make_problem(), ROWS["exact_diagonal"]
    server, clients, others = problem.server(recipe, SYNCHRONOUS), problem.clients(), problem.clients()
    references = weighted_mean(
        (answer_measure(c, asking(server, 1, {}, riders(recipe))).tensors, 1 / 3) for c in clients
    )
    for number, names in ((1, riders(recipe)), (2, riders(recipe)), (3, ())):
        requests = [asking(server, number, references, names)] * 3
        for one, other in zip(answer_train_together(clients, requests), others, strict=True):
            alone = piggyback_train(other, requests[0])
            assert one.metrics == alone.metrics
            assert_close(one.tensors, alone.tensors, rtol=0, atol=0)


def asking(server: Any, number: int, references: dict[str, Tensor], names: tuple[str, ...]) -> Request:
    return Request(server.task, number, server.parameters, references, names, 1 / 3)


@pytest.mark.parametrize("training", [SYNCHRONOUS, LOCAL], ids=["synchronous", "local"])
@pytest.mark.parametrize("name", ALLOWED)
def test_the_strategy_gives_the_bits_of_the_plain_loop(name: str, training: TrainingConfig) -> None:
    problem, recipe = make_problem(precision="float32"), replace(ROWS[name], probes=PROBES, weight=1.7)
    server, clients = problem.server(recipe, training), problem.clients()
    server.piggyback = True
    records = [run_round(server, clients, number) for number in range(1, training.rounds + 1)]
    strategy = HessianAlignment(recipe, training, seed=SEED, clients=3, federation=PIGGYBACK)
    over_grid = train_over(InlineGrid(app_of(problem), 3), strategy, problem, training.rounds)
    assert_same_bits(over_grid[0], server.parameters)
    assert over_grid[1] == records


class CountingGrid(InlineGrid):
    """Counts exchanges by kind."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        listed = list(messages)
        self.kinds = [*getattr(self, "kinds", []), listed[0].metadata.message_type]
        return list(super().send_and_receive(listed, timeout=timeout))


@pytest.mark.parametrize(
    ("name", "first"), [("erm", []), ("exact_diagonal", ["query.measure"]), ("hgp", ["query.measure"] * 2)]
)
def test_only_the_first_round_measures_in_exchanges_of_its_own(name: str, first: list[str]) -> None:
    problem = make_problem()
    grid = CountingGrid(app_of(problem), 3)
    train_over(grid, HessianAlignment(name, SYNCHRONOUS, clients=3, federation=PIGGYBACK), problem, 4)
    assert grid.kinds == ["query.introduce", *first, *["train"] * 4]


def test_the_first_round_is_the_exact_one_and_the_second_is_not() -> None:
    problem, recipe = make_problem(), replace(RECIPES["hgp"], weight=5.0)
    ends: list[list[dict[str, Tensor]]] = []
    for piggyback in (False, True):
        server, clients = problem.server(recipe, SYNCHRONOUS), problem.clients()
        server.piggyback = piggyback
        ends.append([])
        for number in (1, 2):
            run_round(server, clients, number)
            ends[-1].append({name: value.clone() for name, value in server.parameters.items()})
    assert_same_bits(ends[0][0], ends[1][0])
    assert not torch.equal(ends[0][1]["head.weight"], ends[1][1]["head.weight"])


def test_shared_signs_are_those_of_the_round_that_uses_them() -> None:
    """Identical clients feel no pull only if a client and the reference saw the same signs."""
    problem = make_problem()
    alike = replace(problem, domains=tuple(replace(problem.domains[0], name=f"d{k}") for k in range(3)))
    still = SYNCHRONOUS.model_copy(update={"learning_rate": 1e-12})
    server, clients = alike.server(replace(RECIPES["hutchinson_shared"], probes=PROBES), still), alike.clients()
    server.piggyback = True
    penalties = [run_round(server, clients, number)["penalty"] for number in range(1, 4)]
    assert all(value < 1e-15 for one in penalties for value in one.values())


def test_a_recipe_that_subtracts_its_own_statistic_is_refused() -> None:
    with pytest.raises(FedhaError, match=r"recipe 'fish' subtracts a client's own statistic.*schedule to exact"):
        parse({"recipe": "fish", "federation": {"schedule": "piggyback"}})


# --- whole runs ---

RUN = {
    "model": {"hidden": [6], "one_logit": True},
    "training": {"rounds": 7},
    "evaluation": {"every": 2},
    "checkpoint": {"every": 3},
    "federation": {"schedule": "piggyback"},
}


@pytest.mark.parametrize("recipe", ["hgp", {"name": "fishr", "weight": 30.0}, "erm"], ids=["hgp", "fishr", "erm"])
def test_a_run_evaluates_every_model_that_the_exact_schedule_evaluates(recipe: Any, tmp_path: Path) -> None:
    run_job(Job(parse({**RUN, "recipe": recipe}), tmp_path / "run"), Silent())
    records = runfolder.read_metrics(tmp_path / "run")
    assert [one["round"] for one in records] == list(range(1, 8))
    assert [one["round"] for one in records if "held_out" in one] == [2, 4, 6, 7]
    if recipe == "erm":  # the same training, so the same evaluations
        exact = {**RUN, "recipe": recipe, "federation": {"schedule": "exact"}}
        run_job(Job(parse(exact), tmp_path / "exact"), Silent())
        pairs = zip(records, runfolder.read_metrics(tmp_path / "exact"), strict=True)
        assert all(one.get("held_out") == other.get("held_out") for one, other in pairs)
        assert all(one.get("target") == other.get("target") for one, other in pairs)


@pytest.mark.parametrize("kill", [2, 3, 4, 6])
def test_a_killed_run_resumes_to_the_same_bits(kill: int, tmp_path: Path) -> None:
    for every in (1, 2, 3):
        config = parse({**RUN, "recipe": "hgp", "checkpoint": {"every": every}})
        assert_resumes(config, tmp_path / str(every), kill)
