"""Messages that are old, foreign, misshapen or false are refused on both sides and counted; errors tell no value."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor, nn

from fedha.config import FederationConfig, PrivacyConfig, parse
from fedha.data.domain import Examples
from fedha.errors import FedhaError
from fedha.exchange import Reply
from fedha.flower import client_app, secure_sums
from fedha.flower.failure import find_failure
from fedha.flower.secure_client import simulated_party
from fedha.flower.secure_wire import settings_mark
from fedha.flower.wire import pack_tensors, unpack_reply, unpack_tensors
from fedha.models.split import SplitModel
from fedha.privacy.secure.identity import new_identity
from fedha.privacy.secure.messages import Revealed
from fedha.privacy.secure.packing import pack, unpack
from fedha.privacy.secure.session import Session
from tests.privacy.secure.grids import (
    SGD,
    SILENT,
    Said,
    WatchedGrid,
    at,
    grid_of,
    make_five,
    strategy_of,
    train,
    with_secure,
)
from tests.privacy.secure.test_secure_rounds import sessions_of
from tests.problems import SEED, Problem

Ask = Callable[[list[Said], RecordDict], RecordDict]


pytestmark = pytest.mark.usefixtures("same_numerics")


def sentence_of(reply: Message) -> str:
    failed = find_failure(reply)
    assert failed is not None
    return failed.sentence


def spoil(problem: Problem, *, asks: Any = None, faults: Any = None, skip: bool = True, **settings: Any) -> list[Any]:
    """The events of round 2 of a run whose thresholds allow for one client to be lost."""
    grid = grid_of(problem, asks=asks, faults=faults)
    _, records = train(grid, strategy_of(problem, "erm", threshold=3, skip=skip, **settings), problem)
    assert records[0]["events"] == records[2]["events"] == []
    return list(records[1]["events"])


# --- a client refuses ---


def again(kind: str) -> Ask:
    """In the place of what is sent: what the same client was sent at this step a round before."""
    return lambda said, _: next(one.sent for one in said if one.key == (kind, 1, 1))


def foreign(kind: str) -> Ask:
    """In the place of what is sent: what client 0 was sent at this step."""
    return lambda said, _: next(one.sent for one in said if one.key == (kind, 2, 0))


def in_the_clear(_: list[Said], content: RecordDict) -> RecordDict:
    return RecordDict({name: record for name, record in content.items() if name != "secure"})


def twice(_: list[Said], content: RecordDict) -> RecordDict:
    """The same sum also without client 4."""
    (data,) = content.config_records["secure"]["sessions"]  # type: ignore[misc]
    session = unpack(Session, data)  # type: ignore[arg-type]
    less = replace(session, cohort=session.cohort[:4], weights=session.weights[:4])
    return RecordDict({**content, "secure": ConfigRecord({"sessions": [data, pack(less)]})})  # type: ignore[list-item]


def of_two_rounds(_: list[Said], content: RecordDict) -> RecordDict:
    """Keys for the next round too."""
    (data,) = content.config_records["secure"]["sessions"]  # type: ignore[misc]
    later = replace(unpack(Session, data), round=3)  # type: ignore[arg-type]
    return RecordDict({**content, "secure": ConfigRecord({"sessions": [data, pack(later)]})})  # type: ignore[list-item]


def other_model(_: list[Said], content: RecordDict) -> RecordDict:
    """The attack of Pasquini et al.: one client is shown another model than the others."""
    model = {name: value + 1 for name, value in unpack_tensors(content.array_records["parameters"]).items()}
    return RecordDict({**content, "parameters": pack_tensors(model)})


def other_share(_: list[Said], content: RecordDict) -> RecordDict:
    """The same with the share, by which Fish's pull is multiplied: 1 / (1 - share)."""
    return RecordDict({**content, "request": ConfigRecord({**content.config_records["request"], "share": 0.7})})


def absurd_share(_: list[Said], content: RecordDict) -> RecordDict:
    return RecordDict({**content, "request": ConfigRecord({**content.config_records["request"], "share": 0.2001})})


REFUSED = [
    ("query.advertise", again("query.advertise"), "gone on to round 1, or given its shares there, and is asked to"),
    ("query.advertise", of_two_rounds, "is asked for keys of the rounds [2, 3] at once"),
    ("query.advertise", twice, "take part in round 2's update twice, with different others or weights"),
    ("query.share", again("query.share"), "has no keys of the secure sum that it is asked for"),
    ("train", again("train"), "has no keys of the secure sum that it is asked for"),
    ("train", foreign("train"), "are not those for client 1; the server mixes them"),
    ("train", in_the_clear, "answers in secure sums alone and was asked in the clear"),
    ("train", absurd_share, "as if the clients left weighed 0.2001, and they weigh 0.6 to 1; the server is broken"),
    ("query.confirm", again("query.confirm"), "has no keys of the secure sum that it is asked for"),
    ("query.reveal", again("query.reveal"), "has no keys of the secure sum that it is asked for"),
]


@pytest.mark.parametrize(("kind", "ask", "why"), REFUSED, ids=[f"{kind}: {why[:20]}" for kind, _, why in REFUSED])
def test_a_client_refuses_what_is_old_foreign_or_in_the_clear_and_the_run_goes_on(
    kind: str, ask: Ask, why: str
) -> None:
    (event,) = spoil(make_five(), asks={at(kind, 2, 1): ask})
    assert (event["event"], event["client"]) == ("skipped", "client 1 (domain 'd1')")
    assert event["exchange"] == kind.rpartition(".")[2]
    assert why in event["reason"]


def test_the_run_stops_where_the_rules_say_so() -> None:
    with pytest.raises(
        FedhaError, match=r"client 1 \(domain 'd1'\) failed to train in round 2: client 1 answers in secure"
    ):
        spoil(make_five(), asks={at("train", 2, 1): in_the_clear}, skip=False)


def test_a_question_that_comes_twice_is_answered_once() -> None:
    """Two answers with one mask would tell their difference."""
    problem = make_five()
    grid = grid_of(problem)
    strategy = strategy_of(problem, "erm", threshold=3)
    train(grid, strategy, problem, 1)
    messages = list(strategy.configure_train(2, strategy.arrays, ConfigRecord(), grid))
    first, second = (grid.send_and_receive([messages[0]])[0] for _ in range(2))
    assert find_failure(first) is None
    assert "a step of a secure sum comes again or out of turn" in sentence_of(second)


@pytest.mark.parametrize("other", [other_model, other_share])
def test_a_client_that_is_asked_something_else_is_not_summed_with_the_others(other: Ask) -> None:
    problem = make_five()
    grid = grid_of(problem, asks={at("train", 2, 1): other})
    with pytest.raises(
        FedhaError,
        match=r"1 clients sent|do not carry its signature|sum of 5 clients means nothing|sent confirmations",
    ):
        train(grid, strategy_of(problem, "fish", threshold=3), problem)


def test_a_round_that_a_client_has_left_is_over_also_where_it_gave_no_shares() -> None:
    """Those who were not asked to reveal could else be summed once more, without the others."""
    problem = make_five()
    grid = grid_of(problem, faults={at("query.reveal", 1, 4): SILENT})
    strategy = strategy_of(problem, "erm", threshold=3, federation=FederationConfig(on_missing="skip"))
    train(grid, strategy, problem, 1)
    list(strategy.configure_train(2, strategy.arrays, ConfigRecord(), grid))
    first = next(one.sent for one in grid.said if one.key == ("query.advertise", 1, 4))
    node = list(grid.get_node_ids())[4]
    (reply,) = grid.send_and_receive([Message(first, node, "query.advertise", group_id="1")])
    assert "client 4 has gone on to round 2" in sentence_of(reply)


def test_clients_of_other_settings_are_not_summed_together() -> None:
    """A server could start one client with all its data, and the others with next to none."""
    config = parse({"privacy": {"secure_aggregation": True}, "seed": SEED})
    party, problem = simulated_party(config), make_five()
    assert party is not None
    mark = settings_mark(config)
    app = client_app(
        lambda _: problem.model,
        lambda context: problem.domains[int(context.node_config["partition-id"])],
        party=replace(party, settings=mark),
    )
    for named, refused in ((mark, False), (settings_mark(config.model_copy(update={"name": "other"})), True)):
        strategy = strategy_of(problem, "erm", skip=False)
        assert strategy.secure is not None
        strategy.secure.name_run(named)
        if refused:
            with pytest.raises(FedhaError, match="client 0 was started with other settings than the run"):
                train(WatchedGrid(app, 5), strategy, problem, 1)
        else:
            train(WatchedGrid(app, 5), strategy, problem, 1)


def test_a_client_without_an_identity_gives_no_keys() -> None:
    problem = make_five()
    grid = grid_of(problem, secure=False)
    with pytest.raises(
        FedhaError, match=r"has no identity for them; set privacy\.secure_aggregation where it is started"
    ):
        train(grid, strategy_of(problem, "erm"), problem, 1)


def test_a_client_has_a_minimum_of_its_own() -> None:
    problem = make_five()
    with pytest.raises(FedhaError, match="may sum as few as 2 clients and this one wants 3"):
        train(grid_of(problem), strategy_of(problem, "erm", minimum=2), problem, 1)


# --- what a client does not tell ---


def huge(problem: Problem) -> Problem:
    """Client 1's inputs are so large that its update is out of the range."""
    domain = problem.domains[1]
    spoilt = replace(domain, train=Examples(domain.train.inputs * 1e7, domain.train.labels))
    return replace(problem, domains=(problem.domains[0], spoilt, *problem.domains[2:]))


def broken(problem: Problem) -> Problem:
    """Client 1's inputs are so large that it cannot train."""
    domain = problem.domains[1]
    spoilt = replace(domain, train=Examples(domain.train.inputs.sign() * 1.7e308, domain.train.labels))
    return replace(problem, domains=(problem.domains[0], spoilt, *problem.domains[2:]))


class Table(nn.Linear):
    """A frozen front that takes no number beyond its table, as one of token ids."""

    def forward(self, inputs: Tensor) -> Tensor:
        if float(inputs.abs().max()) > 1e6:
            raise IndexError("index out of range in self")
        return super().forward(inputs)


def beyond_a_table(problem: Problem) -> Problem:
    """The frozen part of the network, whose constants are the server's, takes client 1's inputs not."""
    front = Table(4, 4).double().requires_grad_(False)
    model = SplitModel(nn.Sequential(front, *problem.model.featurizer), problem.model.head)
    return replace(huge(problem), model=model)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (beyond_a_table, "index out of range"),
        (huge, r"tensor '.*' holds -?\d.*, weighted by 0\.2"),
        (broken, r"risk (nan|inf)"),
    ],
)
def test_that_a_client_has_nothing_to_send_is_told_of_all_clients_alike(
    spoil: Callable[[Problem], Problem], said: str, site_log: list[str]
) -> None:
    """No message of its differs from an honest one, and the sum that they make is drawn by the system."""
    problem = spoil(make_five())
    grid = grid_of(problem)
    with pytest.raises(FedhaError, match="the sum of 5 clients means nothing") as told:
        train(grid, strategy_of(problem, "erm", threshold=3), problem, 1)
    assert "client 1" not in str(told.value)
    (line,) = [line for line in site_log if "has nothing to send" in line]
    assert re.search(rf"client 1 has nothing to send in round 1's \w+.*{said}", line)
    for kind in ("query.advertise", "query.share", "query.measure", "train", "query.confirm", "query.reveal"):
        replies = [one.answer for one in grid.said if one.key[0] == kind and one.answer is not None]
        assert len({tuple(sorted(shape_of(reply))) for reply in replies}) <= 1


def test_a_range_that_the_settings_do_not_give_is_refused_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Example counts and risks are summed in a range of their own: a narrow one told whose do not fit."""
    monkeypatch.setattr(secure_sums, "BOUND", 16.0)
    problem = make_five()
    with pytest.raises(FedhaError, match=r"are to be summed in another range than privacy\.bound 65536 gives"):
        train(grid_of(problem), strategy_of(problem, "erm", skip=False), problem, 1)


def test_that_a_client_has_few_examples_is_told_of_all_clients_alike(site_log: list[str]) -> None:
    """The server says how many are few: one after the other, it would learn how many there are."""
    problem = make_five()
    with pytest.raises(FedhaError, match="the sum of 5 clients means nothing"):
        train(grid_of(problem), strategy_of(problem, "erm", threshold=3, min_examples=13), problem, 1)
    few = [line for line in site_log if "has nothing to send" in line]
    assert [re.search(r"client (\d) .* would be of (\d+) examples", line).groups() for line in few] == [  # type: ignore[union-attr]
        ("0", "12"),
        ("4", "11"),
    ]


def shape_of(reply: RecordDict) -> Iterator[str]:
    """What of a reply a server can tell from another's without the secrets: names, shapes and numbers that are told."""
    for name, record in reply.items():
        if isinstance(record, ArrayRecord):
            yield from (f"{name} {key} {value.dtype} {value.shape}" for key, value in record.items())
        elif isinstance(record, MetricRecord):
            yield from (f"{name} {key} {value}" for key, value in record.items() if key != "index")
        else:
            yield from (f"{name} {key}" for key in record)


# --- the server refuses ---


def altered(name: str, data: bytes) -> bytes:
    """One letter of a signature is another."""
    if name == "identity":
        return data
    place = data.rindex(b'"}') - 6
    return data[:place] + (b"B" if data[place : place + 1] == b"A" else b"A") + data[place + 1 :]


def wrong_share(_: str, data: bytes) -> bytes:
    revealed = unpack(Revealed, data)
    first, *rest = revealed.seeds
    other = bytes(32) + bytes([first.value[-1] ^ 1])
    return pack(replace(revealed, seeds=(replace(first, value=other), *rest)))


def truncated(reply: Reply) -> Reply:
    return replace(reply, tensors={name: value[:-1] for name, value in reply.tensors.items()})


def of_bytes(reply: Reply) -> Reply:
    return replace(reply, tensors={name: value.to(torch.uint8) for name, value in reply.tensors.items()})


def as_another(reply: Reply) -> Reply:
    return replace(reply, client_id=0)


def gibberish(name: str, data: bytes) -> bytes:
    return data if name == "identity" else b"{" + data


CHANGED = [
    ("query.advertise", with_secure(altered), "do not carry its signature"),
    ("query.advertise", with_secure(gibberish), "bytes that should be a Advert of secure aggregation are not one"),
    ("query.share", with_secure(gibberish), "bytes that should be a Dealing of secure aggregation are not one"),
    ("train", truncated, "its masked has shape"),
    ("train", of_bytes, "client 1 sends a vector of torch.uint8, not of 64-bit integers"),
    ("train", as_another, "client 1 (domain 'd1') answers as client 0; its answer is left out"),
    ("train", with_secure(lambda _, data: bytes(32)), "belong to another run, round or exchange"),
    ("query.confirm", with_secure(altered), "do not carry its signature"),
    ("query.reveal", with_secure(wrong_share), "share of client 1's seed in round 2's update does not verify"),
]


@pytest.mark.parametrize(("kind", "change", "why"), CHANGED, ids=[f"{kind}: {why[:20]}" for kind, _, why in CHANGED])
def test_the_server_refuses_what_is_changed_and_the_run_goes_on(kind: str, change: Any, why: str) -> None:
    (event,) = spoil(make_five(), faults={at(kind, 2, 1): change})
    assert (event["event"], event["client"]) == ("refused", "client 1 (domain 'd1')")
    assert why in event["reason"]


@pytest.mark.parametrize("kind", ["query.advertise", "query.share", "train", "query.confirm", "query.reveal"])
def test_an_answer_of_the_round_before_is_refused(kind: str) -> None:
    problem = make_five()
    grid = grid_of(problem)

    def replayed(_: Reply) -> Reply:
        (old,) = [one.answer for one in grid.said if one.key == (kind, 1, 1)]
        assert old is not None
        return unpack_reply(old)

    grid.faults[at(kind, 2, 1)] = replayed
    _, records = train(grid, strategy_of(problem, "erm", threshold=3), problem)
    (event,) = records[1]["events"]
    assert event["event"] == "refused"
    assert "belong to another run, round or exchange" in event["reason"]


def test_a_refusal_stops_the_run_where_the_rules_say_so() -> None:
    with pytest.raises(FedhaError, match="share of client 1's seed in round 2's update does not verify"):
        spoil(make_five(), faults={at("query.reveal", 2, 1): with_secure(wrong_share)}, skip=False)


def test_an_identity_that_changes_during_a_run_is_refused() -> None:
    def with_other_key(name: str, data: bytes) -> bytes:
        return new_identity().public if name == "identity" else data

    (event,) = spoil(make_five(), faults={at("query.advertise", 2, 1): with_secure(with_other_key)})
    assert "client 1 comes with another identity key than it had before" in event["reason"]


def test_settings_of_the_sum_are_those_of_the_config() -> None:
    problem = make_five()
    grid = grid_of(problem)
    settings = PrivacyConfig(secure_aggregation=True, threshold=4, minimum=5, bound=2.0)
    train(grid, strategy_of(problem, "erm", SGD, threshold=4, minimum=5, bound=2.0), problem, 1)
    (session,) = sessions_of(grid.said)
    assert (session.threshold, session.minimum) == (settings.threshold, settings.minimum)
    assert 2.0 <= session.layout.bound(session.layout.slots[0]) < 4.0
    assert session.weights == (0.2,) * 5
