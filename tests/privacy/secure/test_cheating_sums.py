"""A server that cheats with what it proposes: every way that was known to a single client's part is played here."""

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import Tensor
from torch.testing import assert_close

from fedha.audit.adversary_sums import dead_model
from fedha.client_state import ClientState, from_tensors, to_tensors
from fedha.config import FederationConfig, TrainingConfig, parse
from fedha.errors import FedhaError
from fedha.flower import client_app, secure_sums, secure_turns
from fedha.flower.client import state_record
from fedha.flower.failure import find_failure
from fedha.flower.secure_client import simulated_party
from fedha.flower.secure_turns import Turns
from fedha.flower.wire import pack_tensors, unpack_tensors
from fedha.privacy.secure.packing import pack, unpack
from fedha.privacy.secure.past import Past, anew, companions
from fedha.privacy.secure.session import Session, make_session
from fedha.privacy.secure.terms import Terms
from tests.privacy.secure.grids import FAILED, SILENT, Said, WatchedGrid, at, grid_of, make_five, strategy_of, train
from tests.privacy.secure.told import session_of
from tests.problems import SEED, Problem

SCAFFOLD = TrainingConfig(mode="local", rounds=3, optimizer="scaffold", learning_rate=0.5, averaging="clients")


pytestmark = pytest.mark.usefixtures("same_numerics")


# --- the graph, the threshold, the weights and the range are nobody's to choose ---


def test_a_session_of_a_sparse_graph_is_no_message() -> None:
    """In pairs of neighbours masks cancel by themselves as soon as the others are called lost."""
    name, fields = json.loads(pack(session_of(6)))
    with pytest.raises(FedhaError, match="should be a Session of secure aggregation are not one"):
        unpack(Session, json.dumps([name, fields | {"degree": 2}]).encode())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"threshold": 3},
            r"threshold of 3 and a minimum of 3, and the run's settings give 4 and 3; the server ",
        ),
        ({"minimum": 4}, r"threshold of 4 and a minimum of 4, and the run's settings give 4 and 3"),
        ({"weights": {0: 1.0, 1: 0.2, 2: 0.2, 3: 0.2, 4: 1e-9}}, r"the weights in round 1's update are not those of"),
        ({"weights": dict.fromkeys(range(5), 0.4)}, r"the weights in round 1's update are not those of training\.aver"),
    ],
)
def test_a_session_of_other_numbers_than_the_settings_give_is_refused_by_all(
    options: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cheating(*given: Any, **usual: Any) -> Session:
        return make_session(*given, **{**usual, **options})

    monkeypatch.setattr(secure_sums, "make_session", cheating)
    problem = make_five()
    with pytest.raises(FedhaError, match=why):
        train(grid_of(problem), strategy_of(problem, "erm", skip=False), problem, 1)


@pytest.mark.parametrize(
    ("averaging", "weights", "allowed"),
    [
        ("clients", [1, 1, 1, 1], True),
        ("examples", [1, 1, 1, 1], True),
        ("clients", [2, 1, 1, 1], False),
        ("domains", [1 / 2, 1 / 4, 1 / 4], True),
        ("domains", [1 / 3] + [1 / 6] * 2 + [1 / 9] * 3, True),
        ("domains", [1 / 4] * 2 + [1 / 8] * 4, True),
        ("domains", [1 / 2, 1 / 6, 1 / 6, 1 / 6], True),
        ("domains", [0.5, 0.3, 0.2], False),  # of one domain each
        ("domains", [1 / 2, 1 / 4, 1 / 8, 1 / 8], False),
        ("domains", [1 / 3] * 2 + [1 / 6] * 3, False),  # three of a domain of two
        ("domains", [1 / 3 + 1e-6, 1 / 3, 1 / 3 - 1e-6], False),
        ("domains", [1.0, 1.0, 1.0], False),
    ],
)
def test_weights_are_those_of_an_average(averaging: Any, weights: list[float], allowed: bool) -> None:
    if averaging != "domains":
        weights = [weight / len(weights) for weight in weights]
    session = session_of(len(weights), weights=dict(enumerate(weights)))
    layout = secure_sums.make_layout(dict.fromkeys(["w"], (2,)), len(weights), {"w": 64.0})
    terms = Terms(3, None, 64.0, averaging)
    asked = replace(session, layout=layout)
    if allowed:
        terms.check(asked)
    else:
        with pytest.raises(FedhaError, match="are not those of training"):
            terms.check(asked)


# --- what a client keeps of a sum ---


def remembered(grid: WatchedGrid) -> dict[int, ClientState]:
    found = {}
    for client_id, context in enumerate(grid._contexts.values()):
        record = state_record(context.state)
        found[client_id] = ClientState() if record is None else from_tensors(unpack_tensors(record))
    return found


def dead(_: list[Said], content: RecordDict) -> RecordDict:
    """A model at which all gradients are zero but those of the head's bias: its features are."""
    return dead_model("train", 1, content)


KEEPING: dict[str, tuple[str, dict[str, Any]]] = {
    "moving averages": ("fishr", {}),
    "controls": ("erm", {"training": SCAFFOLD}),
    "what rode along": ("coral", {"federation": FederationConfig(schedule="piggyback")}),
}


@pytest.mark.parametrize("kind", KEEPING)
def test_of_a_sum_that_failed_nobody_keeps_anything(kind: str) -> None:
    """Client 2 at the real model and the others at a dead one: their masks do not cancel, and no share is given."""
    problem = make_five()
    asks = {at("train", 1, place): dead for place in (0, 1, 3, 4)}
    grid = grid_of(problem, asks=asks)
    recipe, options = KEEPING[kind]
    strategy = strategy_of(problem, recipe, **options)
    with pytest.raises(FedhaError):
        train(grid, strategy, problem, 1)
    assert len([one for one in grid.said if one.key[0] == "train" and one.answer is not None]) == 5  # all answered
    assert not any(state.remembers for state in remembered(grid).values())


def test_what_a_client_answered_it_remembers_when_it_has_given_its_shares() -> None:
    problem = make_five()
    grid = grid_of(problem)
    strategy = strategy_of(problem, "fishr")
    messages = list(strategy.configure_train(1, start_of(problem), ConfigRecord(), grid))
    replies = grid.send_and_receive(messages)
    assert not any(state.remembers for state in remembered(grid).values())
    strategy.aggregate_train(1, replies)
    states = remembered(grid)
    assert all(set(state.averages) == {"gradient_variance"} for state in states.values())
    assert len({state.chain for state in states.values()}) == 1
    assert {len(states[0].chain), states[0].since} == {32, 1}


def test_a_memory_that_no_other_has_enters_no_sum(site_log: list[str]) -> None:
    """The end of round 1 is shown to client 2 alone: in round 2 its memory would be all that the sum holds of it."""
    problem = make_five()
    hidden = {at("query.reveal", 1, place, 1): FAILED for place in (0, 1, 3, 4)}
    grid = grid_of(problem, faults=hidden)
    with pytest.raises(FedhaError, match="1 of 5 clients sent revealed shares in round 1's update"):
        train(grid, strategy_of(problem, "fishr"), problem, 1)
    assert [client_id for client_id, state in remembered(grid).items() if state.remembers] == [2]
    found, other = after_second(grid, problem), after_second(grid_of(problem), problem)
    assert_close(found, other, rtol=0, atol=0)  # as if it had never been asked
    told = [line for line in site_log if "without what it remembers" in line]
    assert told
    assert all(line.startswith("client 2 answers in round 2's") for line in told)


def after_second(grid: WatchedGrid, problem: Problem) -> dict[str, Tensor]:
    """The model after a round 2 that is the first of its server."""
    strategy = strategy_of(problem, "fishr")
    messages = list(strategy.configure_train(2, start_of(problem), ConfigRecord(), grid))
    found, _ = strategy.aggregate_train(2, grid.send_and_receive(messages))
    assert found is not None
    return unpack_tensors(found)


def test_who_was_lost_begins_anew_and_the_others_remember(site_log: list[str]) -> None:
    problem = make_five()
    grid = grid_of(problem, faults={at("query.confirm", 2, 4, 1): SILENT})
    strategy = strategy_of(problem, "fishr", threshold=3, federation=FederationConfig(on_missing="skip"))
    train(grid, strategy, problem, 4)
    states = remembered(grid)
    assert {client_id: state.since for client_id, state in states.items()} == {0: 1, 1: 1, 2: 1, 3: 1, 4: 3}
    assert len({state.chain for state in states.values()}) == 1
    told = [line for line in site_log if "without what it remembers" in line]
    assert told
    assert all(line.startswith("client 4 answers in round 3's") for line in told)


PASTS = {0: Past(b"a", 1), 1: Past(b"a", 1), 2: Past(b"a", 4), 3: Past(b"b", 1), 4: Past()}


def test_companions_remember_all_that_one_does() -> None:
    assert companions(PASTS[0], PASTS) == (0, 1)
    assert companions(PASTS[2], PASTS) == (0, 1, 2)
    assert companions(PASTS[3], PASTS) == (3,)
    assert companions(PASTS[4], PASTS) == ()
    assert anew(7, PASTS) == Past(b"a", 7)
    assert anew(7, {}) == Past(b"", 7)


def test_a_past_is_of_what_was_asked_and_of_who_survived() -> None:
    pasts = [Past().after(b"q", (0, 1)), Past().after(b"q", (0, 1, 2)), Past().after(b"p", (0, 1)), Past(b"x", 3)]
    pasts += [pasts[0].after(b"q", (0, 1))]
    assert len({past.chain for past in pasts}) == len(pasts)
    state = ClientState(averages={"w": torch.ones(2)}, chain=pasts[0].chain, since=3)
    again = from_tensors(to_tensors(state))
    assert (again.chain, again.since) == (state.chain, state.since)


# --- two tasks from one state ---


def two_tasks(tmp_path: Path, kind: str) -> list[str]:
    """What is said to two tasks that client 1's node starts at once, each with a copy of the same state."""
    problem = make_five()
    party = simulated_party(parse({"privacy": {"secure_aggregation": True}, "seed": SEED}))
    assert party is not None
    app = client_app(
        lambda _: problem.model,
        lambda context: problem.domains[int(context.node_config["partition-id"])],
        party=replace(party, turns=tmp_path),
    )
    grid, copies = WatchedGrid(app, 5), list[Context]()

    def before(_: list[Said], content: RecordDict) -> RecordDict:
        copies.append(copy.deepcopy(list(grid._contexts.values())[1]))
        return content

    grid.asks[at(kind, 2, 1)] = before
    train(grid, strategy_of(problem, "erm", threshold=3), problem, 2)
    asked = next(one.sent for one in grid.said if one.key == (kind, 2, 1))
    node = list(grid.get_node_ids())[1]
    grid._contexts[node] = copies[0]
    (reply,) = grid.send_and_receive([Message(asked, node, kind, group_id="2")])
    failed = find_failure(reply)
    return [] if failed is None else [failed.sentence]


@pytest.mark.parametrize("kind", ["query.share", "train", "query.confirm", "query.reveal"])
def test_of_two_tasks_from_one_state_one_goes_on(kind: str, tmp_path: Path) -> None:
    """Both could sign other survivors, and give shares of both secrets of a client, or mask two vectors alike."""
    (said,) = two_tasks(tmp_path, kind)
    assert "another task of client 1 has gone on from the same state of a secure sum" in said


def test_keys_are_not_drawn_again_for_what_was_answered(tmp_path: Path) -> None:
    (said,) = two_tasks(tmp_path, "query.advertise")
    assert "client 1 has gone on to round 2, or answered there" in said


def test_a_task_that_died_costs_its_client_the_round_and_no_more(tmp_path: Path) -> None:
    turns = Turns(tmp_path, 7, 1)
    first = turns.begin(1, ["update"])
    turns.take(first)  # its new state is never stored
    with pytest.raises(FedhaError, match="another task of client 1"):
        turns.take(first)
    turns.take(turns.begin(2, ["update"]), "update")
    with pytest.raises(FedhaError, match="has gone on to round 2, or answered there, and is asked for keys of round 1"):
        turns.begin(1, ["update"])
    with pytest.raises(FedhaError, match="has gone on to round 2"):
        turns.begin(2, ["update", "evaluation"])
    assert Turns(tmp_path, 8, 1).begin(1, ["update"])  # another run
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    (tmp_path / "7-1.json").write_text("{")
    with pytest.raises(FedhaError, match=r"7-1\.json, by which the client's tasks take turns, is damaged"):
        turns.begin(3, ["update"])


def test_turns_of_runs_that_ended_long_ago_are_forgotten_but_not_by_a_clock_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that was set forward makes a run that goes on look old; its client would answer there once more."""
    for run in (1, 2, 3):
        Turns(tmp_path, run, 0).begin(1, ["update"])
        os.utime(tmp_path / f"{run}-0.json", (1e9 + run, 1e9 + run))
    Turns(tmp_path, 4, 0).begin(1, ["update"])
    assert len(list(tmp_path.glob("*.json"))) == 4
    monkeypatch.setattr(secure_turns, "_KEPT", 2)
    with FileLock(tmp_path / "1-0.lock"):  # a task of it is at work
        Turns(tmp_path, 5, 0).begin(1, ["update"])
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] in "123") == [
        *("1-0.json", "1-0.lock"),
        *("3-0.json", "3-0.lock"),
    ]


def start_of(problem: Problem) -> Any:
    return pack_tensors(dict(problem.model.named_parameters()))
