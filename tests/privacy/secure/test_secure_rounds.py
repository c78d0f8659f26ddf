"""Rounds with secure sums: the model is that of plain rounds, the server sees no client's own, losses are mended."""

import struct
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fedha.answers import answer_evaluate, answer_measure
from fedha.client import Client
from fedha.config import POOLED, FederationConfig, LocalConfig, TrainingConfig
from fedha.errors import FedhaError
from fedha.flower.wire import pack_tensors, unpack_reply, unpack_request, unpack_tensors
from fedha.piggyback import answer_train
from fedha.privacy.secure.encoding import encode
from fedha.privacy.secure.numbers import NUMBERS
from fedha.privacy.secure.packing import unpack
from fedha.privacy.secure.session import Session
from fedha.recipes import RECIPES
from tests.driving import train_plainly
from tests.privacy.secure.grids import FAILED, SGD, SILENT, Said, at, grid_of, make_five, strategy_of, train
from tests.problems import Problem, make_problem

LOCAL = TrainingConfig(mode="local", rounds=3, local=LocalConfig(epochs=1, batch_size=5, momentum=0.5))
BY_EXAMPLES = TrainingConfig(rounds=3, optimizer="sgd", learning_rate=0.1, averaging="examples")
SAMPLED = ("mmd", "rdm")  # whose sharpest kernels magnify what rounds, step by step
SUMMABLE = [
    name for name, row in RECIPES.items() if row.weighting != "risk" and not row.representation and name not in SAMPLED
]
ANSWERS = {"query.measure": answer_measure, "train": answer_train, "evaluate": answer_evaluate}


pytestmark = pytest.mark.usefixtures("same_numerics")


# --- the mean is the mean ---


@pytest.mark.parametrize("training", [SGD, LOCAL, BY_EXAMPLES], ids=["synchronous", "local", "by examples"])
@pytest.mark.parametrize("name", SUMMABLE)
def test_secure_rounds_train_the_model_of_plain_ones(name: str, training: TrainingConfig) -> None:
    if training.averaging == "examples" and name == "fish":
        pytest.skip("takes pairs of domains alike: the config refuses it")
    problem = make_problem(precision="float32")
    plain, records = train_plainly(problem, RECIPES[name], training)
    secure, sums = train(grid_of(problem), strategy_of(problem, name, training), problem)
    assert_close(secure, plain, rtol=0, atol=1e-6)
    for record, total in zip(records, sums, strict=True):
        assert total["loss"] == pytest.approx(record["loss"], abs=1e-5)
        assert total["penalty"] == pytest.approx(record["penalty"], rel=1e-4, abs=1e-5)
        assert (total["clients"], total["events"]) == (3, [])


@pytest.mark.parametrize("name", SAMPLED)
def test_secure_rounds_sum_random_features(name: str) -> None:
    problem = make_problem(precision="float32")
    plain, _ = train_plainly(problem, RECIPES[name], SGD)
    secure, _ = train(grid_of(problem), strategy_of(problem, name, SGD), problem)
    assert_close(secure, plain, rtol=0, atol=1e-5)


def test_in_float64_the_models_differ_by_the_fixed_point_step() -> None:
    problem = make_problem()
    plain, _ = train_plainly(problem, RECIPES["hgp"], SGD)
    secure, _ = train(grid_of(problem), strategy_of(problem), problem)
    coarse, _ = train(grid_of(problem), strategy_of(problem, bound=2.0**40), problem)
    near, far = (max(float((one[name] - plain[name]).abs().max()) for name in plain) for one in (secure, coarse))
    assert near < 1e-11  # steps of 2^-45
    assert 1e-9 < far < 1e-4  # steps of 2^-21: the bound decides


def test_numbers_are_those_of_all_examples_together() -> None:
    problem = make_problem()
    _, records = train_plainly(problem, RECIPES["hgp"], SGD)
    _, sums = train(grid_of(problem), strategy_of(problem), problem, evaluate=True)
    sizes = {domain.name: len(domain.train) for domain in problem.domains}
    for record, total in zip(records, sums, strict=True):
        for key in ("risk", "accuracy"):
            pooled = sum(record[key][name] * size for name, size in sizes.items()) / sum(sizes.values())
            assert total[key] == {POOLED: pytest.approx(pooled, abs=1e-7)}
    assert sums[-1]["evaluated"]["train"][POOLED]["examples"] == sum(sizes.values())
    assert sums[-1]["evaluated"]["held_out"][POOLED]["examples"] == 9
    assert set(sums[-1]["evaluated"]) == {"held_out", "train"}


def test_statistics_may_ride_along_with_updates() -> None:
    problem = make_problem(precision="float32")
    schedule = FederationConfig(schedule="piggyback", on_missing="stop")
    ends = []
    for secure in (False, True):
        strategy = strategy_of(problem, "hgp", secure=secure, federation=schedule)
        grid = grid_of(problem, secure=secure)
        strategy.parts = ("held_out",)
        ends.append(train(grid, strategy, problem)[0])
        kinds = [one.key[0] for one in grid.said if one.key[1:] == (2, 0)]
        assert kinds == (
            ["query.advertise", "query.share", "train", "query.confirm", "query.reveal"] if secure else ["train"]
        )
    assert_close(ends[1], ends[0], rtol=0, atol=1e-6)


def test_flowers_own_loop_sums_securely() -> None:
    problem = make_problem()
    start = pack_tensors(dict(problem.model.named_parameters()))
    found = strategy_of(problem, "erm").start(grid_of(problem), start, num_rounds=2)
    by_hand, _ = train(grid_of(problem), strategy_of(problem, "erm"), problem, 2)
    assert_close(unpack_tensors(found.arrays), by_hand, rtol=0, atol=0)
    assert f"{POOLED}/held_out/risk" in found.evaluate_metrics_clientapp[2]


def test_shapes_must_be_known_before_they_are_summed() -> None:
    problem = make_problem()
    strategy = strategy_of(problem, "hgp")
    strategy.expected = {}
    with pytest.raises(FedhaError, match=r"the shape of gradient is not known before it is summed; set .*expected"):
        train(grid_of(problem), strategy, problem, 1)


# --- what the server gets ---


def own_answers(problem: Problem, said: list[Said]) -> Iterator[tuple[Said, dict[str, Tensor], dict[str, float]]]:
    """What each client computes for each question it was asked, in the clear, worked out again."""
    clients = [Client(place, domain, problem.model) for place, domain in enumerate(problem.domains)]
    for one in said:
        kind, _, place = one.key
        if kind in ANSWERS:
            reply = ANSWERS[kind](clients[place], unpack_request(one.sent, kind))
            yield one, dict(reply.tensors), {**reply.metrics, "examples": reply.examples}


def traces(problem: Problem, said: list[Said]) -> tuple[int, int]:
    """How often something of a single client lies in an answer of its round: as plain numbers, and as encoded words."""
    plain = encoded = 0
    sessions = sessions_of(said)
    for one, tensors, numbers in own_answers(problem, said):
        answers = [other.bytes_up for other in said if other.key[1] == one.key[1]]
        needles = [part for tensor in tensors.values() for part in windows(tensor)]
        needles += [struct.pack("<d", value) for value in numbers.values() if value != round(value)]
        plain += sum(needle in answer for needle in needles for answer in answers)
        for session in (session for session in sessions if session.round == one.key[1]):
            if {slot.name: slot.shape for slot in session.layout.slots[:-1]} != {
                k: v.shape for k, v in tensors.items()
            }:
                continue
            vector = {**tensors, NUMBERS: torch.zeros(session.layout.slots[-1].shape)}
            words = encode(session.layout, vector, session.weight(one.key[2]))
            pairs = [words[k : k + 2] for k in range(len(words) - 2) if words[k] > 1 and words[k + 1] > 1]
            encoded += sum(pair.tobytes() in answer for pair in pairs for answer in answers)
    return plain, encoded


def sessions_of(said: list[Said]) -> list[Session]:
    proposed = [one.sent.config_records["secure"]["sessions"] for one in said if one.key[0] == "query.advertise"]
    return list({data: unpack(Session, data) for sessions in proposed for data in sessions}.values())  # type: ignore[union-attr, arg-type, misc]


def windows(tensor: Tensor) -> Iterator[bytes]:
    """Three numbers in a row, as float32 and as float64."""
    flat = tensor.detach().reshape(-1)
    for start in range(max(1, len(flat) - 2)):
        part = flat[start : start + 3]
        if bool(part.count_nonzero() == len(part)):
            yield part.to(torch.float32).numpy().tobytes()
            yield part.to(torch.float64).numpy().tobytes()


@pytest.mark.parametrize("name", ["hgp", "coral"])
def test_no_message_holds_anything_of_a_single_client(name: str) -> None:
    """The same search finds them all in a plain run: it can fail."""
    problem = make_problem(precision="float32")
    secure, plain = grid_of(problem), grid_of(problem, secure=False)
    train(secure, strategy_of(problem, name), problem, 2, evaluate=True)
    train(plain, strategy_of(problem, name, secure=False), problem, 2, evaluate=True)
    assert traces(problem, plain.said)[0] > 200
    assert traces(problem, secure.said) == (0, 0)


def test_without_masks_the_search_finds_the_encoded_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """That they are not found above is the masks' doing."""
    for mask in ("add_self_mask", "add_pair_mask"):
        for module in ("client", "unmasking"):
            monkeypatch.setattr(f"fedha.privacy.secure.{module}.{mask}", lambda *_: None)
    problem = make_problem(precision="float32")
    grid = grid_of(problem)
    train(grid, strategy_of(problem), problem, 1)
    plain, encoded = traces(problem, grid.said)
    assert plain == 0
    assert encoded > 100


def test_an_introduction_tells_name_and_shape_and_no_count_of_examples() -> None:
    problem = make_problem()
    grid = grid_of(problem)
    train(grid, strategy_of(problem, "erm", BY_EXAMPLES), problem, 1)
    told = [unpack_reply(one.answer) for one in grid.said if one.answer is not None]
    introduced = [one for one in told if one.input_shape]
    assert [(one.domain, one.client_id, one.input_shape) for one in introduced] == [
        (f"d{place}", place, (4,)) for place in range(3)
    ]
    assert {one.examples for one in told} == {0}
    assert all(not one.metrics for one in told)


# --- clients that are lost ---

STEPS = ["query.advertise", "query.share", "train", "query.confirm", "query.reveal"]
LOST = [*combinations(range(5), 1), (0, 3), (1, 2), (3, 4)]


@pytest.mark.parametrize("how", [FAILED, SILENT])
@pytest.mark.parametrize("lost", LOST, ids=str)
@pytest.mark.parametrize("step", STEPS)
def test_one_or_two_that_are_lost_at_any_step_are_mended(step: str, lost: tuple[int, ...], how: str) -> None:
    """Before its vector came a client is left out of the mean; afterwards it stays in it."""
    problem = make_five()
    federation = FederationConfig(on_missing="skip", timeout=5, min_clients=3)
    secure, records = train(
        grid_of(problem, faults={at(step, 2, place): how for place in lost}),
        strategy_of(problem, "erm", threshold=3, federation=federation),
        problem,
    )
    gone = {at("train", 2, place): FAILED for place in lost} if step in STEPS[:3] else {}
    plain, _ = train(grid_of(problem, secure=False, faults=gone), strategy_of(problem, "erm", secure=False), problem)
    assert_close(secure, plain, rtol=0, atol=1e-11)
    assert [record["clients"] for record in records] == [5, 5 - len(lost) if gone else 5, 5]
    assert [(one["event"], one["client"], one["exchange"]) for one in records[1]["events"]] == [
        ("skipped", f"client {place} (domain 'd{place}')", step.rpartition(".")[2]) for place in lost
    ]
    assert records[0]["events"] == records[2]["events"] == []


@pytest.mark.parametrize(("step", "which"), [("query.measure", 0), ("query.measure", 1), ("query.confirm", 0)])
def test_who_is_lost_in_one_sum_is_left_out_of_the_next(step: str, which: int) -> None:
    problem = make_five()
    faults: dict[Any, Any] = {at(step, 2, 1, which): FAILED}
    secure, records = train(grid_of(problem, faults=faults), strategy_of(problem, "hgp", threshold=3), problem)
    plain_faults = faults if step == "query.measure" else {}
    plain, _ = train(
        grid_of(problem, secure=False, faults=plain_faults), strategy_of(problem, "hgp", secure=False), problem
    )
    assert_close(secure, plain, rtol=0, atol=1e-11)
    assert records[1]["clients"] == (4 if plain_faults else 5)


@pytest.mark.parametrize("step", STEPS)
def test_a_round_with_too_few_is_refused_with_a_sentence(step: str) -> None:
    problem = make_five()
    grid = grid_of(problem, faults={at(step, 2, place): FAILED for place in (1, 4)})
    with pytest.raises(
        FedhaError, match=r"^(3 of 5 clients|3 clients gave).* in round 2's update .*4 (are needed|must)"
    ) as caught:
        train(grid, strategy_of(problem, "erm", threshold=4), problem)
    assert "client 1 (domain 'd1')" in str(caught.value)
    assert "it fell" in str(caught.value)


def test_a_client_that_fails_stops_the_run_where_the_rules_say_so() -> None:
    problem = make_five()
    grid = grid_of(problem, faults={at("query.share", 2, 1): FAILED})
    with pytest.raises(Exception, match=r"client 1 \(domain 'd1'\) failed to share its secrets in round 2: it fell"):
        train(grid, strategy_of(problem, "erm", threshold=3, skip=False), problem)


def test_fewer_clients_than_the_minimum_are_refused() -> None:
    problem = make_five()
    two = TrainingConfig(rounds=3, clients_per_round=2)
    with pytest.raises(FedhaError, match=r"a round has 2 clients and privacy\.minimum is 3"):
        train(grid_of(problem), strategy_of(problem, "erm", two), problem)
