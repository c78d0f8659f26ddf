"""Clients of the server's process that are answered together are called, and say what messages would have said."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message
from torch import Tensor, nn

from fedha.config import FederationConfig, LocalConfig, TrainingConfig
from fedha.data.domain import Domain
from fedha.engine.inline import InlineGrid
from fedha.errors import ClientError, FedhaError
from fedha.flower import HessianAlignment
from fedha.flower.client import Clients, app_for, seeded_site
from fedha.models import SplitModel
from fedha.recipes import RECIPES, Recipe
from tests.problems import Problem, make_problem

MINIBATCH = TrainingConfig(rounds=4, optimizer="adam", learning_rate=0.01, weight_decay=0.01, batch_size=9)
LOCAL = TrainingConfig(mode="local", rounds=4, local=LocalConfig(epochs=1, batch_size=5, momentum=0.5))
SCAFFOLD = TrainingConfig(mode="local", rounds=4, optimizer="scaffold", local=LocalConfig(epochs=1, batch_size=5))
WARM = {"weight": 3.0, "warmup_rounds": 2, "warmup_weight": 0.5}

RUNS: dict[str, tuple[Recipe, TrainingConfig, dict[str, Any]]] = {
    "erm": (RECIPES["erm"], MINIBATCH, {}),
    "three exchanges": (replace(RECIPES["hgp"], **WARM), MINIBATCH, {}),
    "moving averages": (RECIPES["fishr"], MINIBATCH.model_copy(update={"batch_size": None}), {}),
    "signs": (replace(RECIPES["hutchinson"], probes=5), MINIBATCH, {}),
    "statistics that ride along": (RECIPES["exact_diagonal"], MINIBATCH, {"schedule": "piggyback"}),
    "local steps": (RECIPES["hgp"], LOCAL, {}),
    "a rule that sends along": (RECIPES["erm"], SCAFFOLD, {}),
    "weights from the risks": (RECIPES["groupdro"], MINIBATCH, {}),
    "a part of the clients": (RECIPES["erm"], MINIBATCH.model_copy(update={"clients_per_round": 2}), {}),
}


ONE_BY_ONE = ("a rule that sends along",)  # clients that are not answered together are written to


class Counting(InlineGrid):
    """Notes the kinds of the messages that are sent."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.kinds: list[str] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        listed = list(messages)
        self.kinds += sorted({one.metadata.message_type for one in listed})
        return super().push_messages(listed)


def by_calls(strategy: HessianAlignment, number: int, grid: InlineGrid) -> None:
    strategy.train_round(number, grid)


def by_messages(strategy: HessianAlignment, number: int, grid: InlineGrid) -> None:
    messages = list(strategy.configure_train(number, strategy.arrays, ConfigRecord(), grid))
    strategy.aggregate_train(number, strategy.talk.deliver(grid, messages))


def trained(
    a_round: Callable[[HessianAlignment, int, InlineGrid], None],
    problem: Problem,
    recipe: Recipe,
    training: TrainingConfig,
    federation: dict[str, Any],
    device: str = "cpu",
    **given: Any,
) -> tuple[HessianAlignment, list[dict[str, Any]], list[str]]:
    def domain(context: Any) -> Domain:
        return problem.domains[context.node_config["partition-id"]]

    clients = Clients(lambda context: problem.model, domain, site=seeded_site, in_place=device != "cpu")
    grid = Counting(app_for(clients), len(problem.domains), together=clients)
    rules = FederationConfig(**{"on_missing": "stop", **federation})
    strategy = HessianAlignment(recipe, training, seed=7, clients=len(problem.domains), federation=rules, **given)
    strategy.talk.device = device
    strategy.begin(dict(problem.model.named_parameters()))
    told = []
    for number in range(1, training.rounds + 1):
        strategy.parts = ("held_out",) if federation else ()  # an evaluation rides along where statistics do
        a_round(strategy, number, grid)
        down, up = strategy.talk.bytes_down, strategy.talk.bytes_up
        events = [dict(one) for one in strategy.talk.events]
        told.append({**strategy.last_round, "bytes": (down, up), "events": events, "seen": strategy.last_evaluation})
    return strategy, told, grid.kinds


@pytest.mark.parametrize("name", RUNS)
def test_a_call_says_what_messages_say(name: str) -> None:
    called, told, kinds = trained(by_calls, make_problem(), *RUNS[name])
    written, expected, sent = trained(by_messages, make_problem(), *RUNS[name])
    for key in ("parameters", "running"):
        mine, theirs = getattr(called.begun(), key), getattr(written.begun(), key)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[one]) for one, value in mine.items())
    assert told == expected  # losses, penalties, rates, bytes
    assert kinds == ["query.introduce"] or name in ONE_BY_ONE
    assert "train" in sent


@pytest.mark.parametrize("name", ["three exchanges", "local steps"])
def test_a_call_says_the_same_where_tensors_stay_on_their_device(name: str) -> None:
    called, told, kinds = trained(by_calls, make_problem(), *RUNS[name], device="cpu:0")  # as a card is asked
    written, expected, _ = trained(by_messages, make_problem(), *RUNS[name])
    assert all(torch.equal(value, written.begun().parameters[one]) for one, value in called.begun().parameters.items())
    assert told == expected
    assert kinds == ["query.introduce"]


def test_what_travels_is_counted_anew_for_another_network() -> None:
    problem, grown = make_problem(), []
    strategy = HessianAlignment(RECIPES["erm"], MINIBATCH, clients=len(problem.domains))
    for width in (3, 9):
        inputs = torch.Size(problem.domains[0].train.shape).numel()
        torch.manual_seed(0)
        model = SplitModel(nn.Sequential(nn.Flatten(), nn.Linear(inputs, width)), nn.Linear(width, 3)).double()
        clients = Clients(lambda _, own=model: own, lambda one: problem.domains[one.node_config["partition-id"]])
        grid = Counting(app_for(clients), len(problem.domains), together=clients)
        strategy.talk.restart({})
        strategy.begin(dict(model.named_parameters()))
        before = strategy.talk.bytes_up
        strategy.train_round(1, grid)
        grown.append(strategy.talk.bytes_up - before)
    numbers = [sum(one.numel() for one in (torch.empty(inputs, w), torch.empty(w), torch.empty(w, 3))) for w in (3, 9)]
    assert grown[1] - grown[0] == len(problem.domains) * 8 * (numbers[1] - numbers[0])


class Overflowing(nn.Module):
    """Another featurizer, whose features of large inputs are no numbers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.inner(inputs)
        return features + torch.where(inputs.flatten(1).amax(1, keepdim=True) > 1e9, torch.nan, 0.0)


def broken() -> Problem:
    """Three clients, of which the second's answers do not count."""
    problem = make_problem()
    domains, model = list(problem.domains), SplitModel(Overflowing(problem.model.featurizer), problem.model.head)
    train = domains[1].train
    domains[1] = replace(domains[1], train=replace(train, inputs=train.inputs * 1e12))
    return replace(problem, domains=domains, model=model)


def test_a_client_whose_answer_does_not_count_is_named_as_messages_name_it() -> None:
    sentences = []
    for a_round in (by_calls, by_messages):
        with pytest.raises((FedhaError, ClientError), match="client 1") as raised:
            trained(a_round, broken(), RECIPES["erm"], MINIBATCH, {})
        sentences.append(str(raised.value))
    assert sentences[0] == sentences[1]


def test_a_client_whose_answer_does_not_count_is_left_out_of_the_round() -> None:
    called, told, _ = trained(by_calls, broken(), RECIPES["erm"], MINIBATCH, {}, on_client_error="skip")
    written, expected, _ = trained(by_messages, broken(), RECIPES["erm"], MINIBATCH, {}, on_client_error="skip")
    assert [one["clients"] for one in told] == [2] * MINIBATCH.rounds
    assert told == expected
    assert all(torch.equal(value, written.begun().parameters[one]) for one, value in called.begun().parameters.items())
