"""Clients that are gone, late or wrong: the rules decide, every event is told, and no bad number enters an average."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from hypothesis import given
from hypothesis import strategies as st

from fedha.config import FederationConfig, TrainingConfig
from fedha.engine.inline import InlineGrid
from fedha.errors import ClientError, FedhaError
from fedha.exchange import Reply
from fedha.flower import HessianAlignment
from fedha.flower.correspondence import Rules
from fedha.flower.wire import pack_reply, unpack_reply
from fedha.measurement import shapes
from fedha.recipes import RECIPES
from fedha.verdict import check_mean
from fedha.verdict import problem as problem_of
from tests.driving import app_of, assert_same_bits, train_over, train_plainly
from tests.problems import SEED, Problem, make_problem

Fault = Literal["gone", "silent", "crashed", "raised", "nan", "shape", "name"] | None
TRAINING = TrainingConfig(rounds=3, optimizer="sgd", learning_rate=0.1)
_CODES = {
    "gone": ErrorCode.NODE_UNAVAILABLE,
    "crashed": ErrorCode.CLIENT_APP_CRASHED,
    "raised": ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
}


def spoiled(reply: Reply, fault: Fault) -> Reply:
    name = next(iter(reply.tensors))
    value = reply.tensors[name]
    changed = {"nan": value * torch.nan, "shape": value[..., None], "name": value}[str(fault)]
    tensors = {("other" if fault == "name" else one): kept for one, kept in {**reply.tensors, name: changed}.items()}
    return replace(reply, tensors=tensors)


class FlakyGrid(InlineGrid):
    """Answers as told: for each kind, round and place, what goes wrong the first time, the second time, and so on."""

    def __init__(self, problem: Problem, faults: dict[tuple[str, int, int], list[Fault]]) -> None:
        super().__init__(app_of(problem), len(problem.domains))
        self.faults = {key: list(value) for key, value in faults.items()}
        self.away: dict[int, int] = {}  # by node: how often it is still not to be seen
        self.number, self.looks = 0, 2

    def get_node_ids(self) -> Iterable[int]:
        nodes = list(super().get_node_ids())
        self.away = {node: count - 1 for node, count in self.away.items() if count > 0}
        return [node for node in nodes if not self.away.get(node)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            self.number += 1
            message.metadata.__dict__["_message_id"] = str(self.number)
            sent = message.metadata
            script = self.faults.get((sent.message_type, int(sent.group_id), sent.dst_node_id - 2), [])
            fault = script.pop(0) if script else None
            if fault == "silent":
                continue
            if fault in _CODES:
                if fault == "gone":
                    self.away[sent.dst_node_id] = self.looks
                error = Message(Error(_CODES[fault], "it fell"), reply_to=message)
                error.metadata.__dict__["_src_node_id"] = 1  # from the server in its stead
                replies.append(error)
                continue
            for reply in super().send_and_receive([message]):
                own = unpack_reply(reply.content)
                content = pack_reply(spoiled(own, fault)) if fault else reply.content
                replies.append(Message(content, reply_to=message))
                replies[-1].metadata.__dict__["_src_node_id"] = sent.dst_node_id
        return replies


def trained(
    faults: dict[tuple[str, int, int], list[Fault]], recipe: str = "hgp", **rules: Any
) -> tuple[dict[str, torch.Tensor], list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Parameters, events by round, records, after three rounds of three clients."""
    problem = make_problem()
    on_client_error, looks = rules.pop("on_client_error", "stop"), rules.pop("looks", 2)
    strategy = HessianAlignment(
        recipe,
        TRAINING,
        seed=SEED,
        clients=3,
        federation=FederationConfig(timeout=5, **rules),
        on_client_error=on_client_error,
    )
    names = [name for group in RECIPES[recipe].measurements() for name in group]
    strategy.expected = shapes(problem.model, problem.domains[0].train.inputs.shape[1:], names, 2)
    grid = FlakyGrid(problem, faults)
    grid.looks = looks
    events: list[list[dict[str, Any]]] = []
    note: Callable[..., Any] = strategy.aggregate_train

    def aggregate(number: int, replies: Iterable[Message]) -> Any:
        found = note(number, replies)
        events.append(list(strategy.talk.events))
        return found

    strategy.aggregate_train = aggregate  # type: ignore[method-assign]
    parameters, records = train_over(grid, strategy, problem, 3)
    return parameters, events, records


def told(events: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(one["event"], one["client"], one["exchange"]) for one in events]


WHO = "client 1 (domain 'd1')"


@pytest.mark.parametrize("fault", ["gone", "silent", "crashed"])
@pytest.mark.parametrize(("kind", "exchange"), [("query.measure", "measure"), ("train", "train")])
def test_a_client_that_is_waited_for_changes_nothing(kind: str, exchange: str, fault: Fault) -> None:
    whole, _ = train_plainly(make_problem(), RECIPES["hgp"], TRAINING)
    parameters, events, records = trained({(kind, 2, 1): [fault, fault]}, on_missing="wait")
    assert_same_bits(parameters, whole)
    assert told(events[1]) == [("missing", WHO, exchange), ("returned", WHO, exchange)]
    assert events[0] == events[2] == []
    assert [record["clients"] for record in records] == [3, 3, 3]


def test_two_may_be_waited_for_at_once() -> None:
    whole, _ = train_plainly(make_problem(), RECIPES["hgp"], TRAINING)
    faults: dict[tuple[str, int, int], list[Fault]] = {
        ("train", 2, 0): ["gone"],
        ("train", 2, 2): ["silent", "crashed", "gone"],
    }
    parameters, events, _ = trained(faults, on_missing="wait")
    assert_same_bits(parameters, whole)
    assert [one[0] for one in told(events[1])] == ["missing", "missing", "returned", "returned"]


@pytest.mark.parametrize("fault", ["gone", "silent", "crashed"])
def test_a_client_that_is_passed_over_leaves_the_round_to_the_others(fault: Fault) -> None:
    parameters, events, records = trained({("train", 2, 1): [fault]}, "erm", on_missing="skip", looks=1)
    assert told(events[1]) == [("skipped", WHO, "train")]
    assert [record["clients"] for record in records] == [3, 2, 3]
    problem = make_problem()
    two = replace(problem, domains=(problem.domains[0], problem.domains[2]))
    by_hand = problem.server(RECIPES["erm"], TRAINING).parameters
    for part in (problem, two, problem):  # SGD without momentum: a round is a function of its start
        server = replace(part, model=problem.model).server(RECIPES["erm"], TRAINING)
        server.parameters.update({name: value.clone() for name, value in by_hand.items()})
        by_hand = one_round(server.parameters, part)
    torch.testing.assert_close(parameters, by_hand, rtol=1e-12, atol=1e-14)


def test_a_client_that_is_away_when_a_round_begins_is_told_and_passed_over() -> None:
    _, events, records = trained({("train", 1, 1): ["gone"]}, "erm", on_missing="skip", looks=2)
    assert [record["clients"] for record in records] == [2, 2, 3]
    assert told(events[1]) == [("missing", WHO, "introduce")]


def one_round(parameters: dict[str, torch.Tensor], problem: Problem) -> dict[str, torch.Tensor]:
    names = list(parameters)
    leaves = [value.detach().clone().requires_grad_() for value in parameters.values()]
    own = dict(zip(names, leaves, strict=True))
    losses = [
        torch.nn.functional.cross_entropy(
            torch.func.functional_call(problem.model, own, (domain.train.inputs,)), domain.train.labels
        )
        for domain in problem.domains
    ]
    gradients = torch.autograd.grad(sum(losses) / len(losses), leaves)
    return {
        name: value.detach() - 0.1 * gradient for name, value, gradient in zip(names, leaves, gradients, strict=True)
    }


def test_a_round_with_too_few_clients_waits_even_where_missing_ones_are_passed_over() -> None:
    faults: dict[tuple[str, int, int], list[Fault]] = {("train", 2, place): ["gone"] for place in (0, 1)}
    _, events, records = trained(faults, on_missing="skip", min_clients=2)
    assert [one[0] for one in told(events[1])] == ["missing", "missing", "returned", "returned"]
    assert [record["clients"] for record in records] == [3, 3, 3]


def test_patience_ends() -> None:
    away: dict[tuple[str, int, int], list[Fault]] = {("train", 2, 1): ["gone"] * 1000}
    with pytest.raises(FedhaError, match=r"did not come back within 0\.3 s; look at the site, then resume the run$"):
        trained_forever_away(away)


def trained_forever_away(faults: dict[tuple[str, int, int], list[Fault]]) -> None:
    problem = make_problem()
    federation = FederationConfig(timeout=5, patience=0.3, on_missing="wait")
    strategy = HessianAlignment("hgp", TRAINING, seed=SEED, clients=3, federation=federation)
    grid = FlakyGrid(problem, faults)

    def all_but_one() -> list[int]:
        return [2, 4] if grid.away else [2, 3, 4]

    grid.get_node_ids = all_but_one  # type: ignore[method-assign]
    train_over(grid, strategy, problem, 3)


def test_where_missing_clients_end_the_run_they_are_named() -> None:
    with pytest.raises(ClientError, match=r"^client 1 \(domain 'd1'\) failed to train in round 2: it fell$"):
        trained({("train", 2, 1): ["gone"]}, on_missing="stop")


def test_a_client_that_raises_is_not_waited_for() -> None:
    with pytest.raises(ClientError, match="failed to train in round 2"):
        trained({("train", 2, 1): ["raised"]}, on_missing="wait")
    _, events, records = trained({("train", 2, 1): ["raised"]}, on_missing="wait", on_client_error="skip")
    assert told(events[1]) == [("skipped", WHO, "train")]
    assert records[1]["clients"] == 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("nan", "has numbers that are not finite"),
        ("shape", r"has shape \(.*\) instead of \("),
        ("name", "it sent .*other.* where .* were asked for"),
    ],
)
@pytest.mark.parametrize(("kind", "exchange"), [("query.measure", "measure"), ("train", "train")])
def test_a_bad_reply_goes_by_the_rule_for_clients_that_fail(
    kind: str, exchange: str, fault: Fault, reason: str
) -> None:
    with pytest.raises(FedhaError, match=rf"^client 1 \(domain 'd1'\) was asked to {exchange} in round 2 .*{reason}"):
        trained({(kind, 2, 1): [fault]}, on_missing="wait")
    parameters, events, records = trained({(kind, 2, 1): [fault]}, on_missing="wait", on_client_error="skip")
    assert told(events[1]) == [("refused", WHO, exchange)]
    assert all(bool(value.isfinite().all()) for value in parameters.values())
    assert [record["clients"] for record in records] == [3, 2, 3]
    assert re.search(reason, events[1][0]["reason"])


def test_a_round_of_bad_replies_alone_ends_the_run_with_their_reasons() -> None:
    faults: dict[tuple[str, int, int], list[Fault]] = {("train", 2, place): ["nan"] for place in range(3)}
    with pytest.raises(FedhaError, match=r"^0 of 3 clients are left in round 2: client 0 .*not finite.*client 2 "):
        trained(faults, on_missing="wait", on_client_error="skip")


@given(st.integers(1, 100), st.none() | st.integers(1, 100))
def test_enough_is_what_was_asked_for_but_never_more_than_there_are(asked: int, wanted: int | None) -> None:
    enough = Rules(min_clients=wanted).enough(asked)
    assert 1 <= enough <= asked
    assert enough == (min(asked, wanted) if wanted else (asked + 1) // 2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_number_that_is_not_finite_is_found(value: float) -> None:
    tensors = {"w": torch.zeros(3, 4), "b": torch.zeros(4)}
    assert problem_of(Reply("c", "d", 0, 1, tensors), {}) is None
    check_mean(tensors, 1)
    tensors["b"][2] = value
    assert problem_of(Reply("c", "d", 0, 1, tensors), {}) == "its b has numbers that are not finite, or far too large"
    assert problem_of(Reply("c", "d", 0, 1, tensors), {}, later=True) is None
    with pytest.raises(FedhaError, match=r"^the clients' update in round 1 does not count: its b has numbers that"):
        check_mean(tensors, 1)
