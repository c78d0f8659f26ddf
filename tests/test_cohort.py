"""Who takes part in a round: the seed decides, nothing else; and how much each counts."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fedha.answers import answer_train
from fedha.client import Client
from fedha.cohort import Member, averaging_weights, cohort_size, draw_cohort
from fedha.config import PrivacyConfig, TrainingConfig, parse
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request, Task
from fedha.federation import Server, by_domain, in_order, pool_evaluations, run_round
from fedha.flower import HessianAlignment
from fedha.recipes import RECIPES
from fedha.runs.cohort_key import kept_secret
from fedha.runs.own_files import owned
from tests.problems import SEED, make_problem

SIZES = [5, 1, 30, 4, 10]
MEMBERS = [Member(place, f"d{place // 2}", size) for place, size in enumerate(SIZES)]


def places(training: TrainingConfig, round: int, seed: int = 0) -> list[int]:
    return [one.client_id for one in draw_cohort(training, seed, round, MEMBERS)]


@pytest.mark.parametrize("sampling", ["uniform", "examples"])
def test_a_cohort_depends_on_seed_and_round_alone(sampling: str) -> None:
    training = TrainingConfig(clients_per_round=2, client_sampling=sampling)
    drawn = [places(training, round) for round in range(1, 30)]
    assert drawn == [places(training, round) for round in range(1, 30)]
    assert drawn != [places(training, round, seed=1) for round in range(1, 30)]
    assert all(len(set(some)) == 2 and some == sorted(some) for some in drawn)


def test_without_a_number_every_client_takes_part_and_nothing_is_drawn() -> None:
    assert places(TrainingConfig(), 1) == places(TrainingConfig(clients_per_round=5), 1) == [0, 1, 2, 3, 4]


def expected_uses(sampling: str) -> list[float]:
    """How often each of `SIZES` is among two drawn one after the other without replacement."""
    weights = [1.0] * 5 if sampling == "uniform" else [float(size) for size in SIZES]
    total = sum(weights)
    return [
        w / total + sum(v / total * w / (total - v) for other, v in enumerate(weights) if other != place)
        for place, w in enumerate(weights)
    ]


@pytest.mark.parametrize("sampling", ["uniform", "examples"])
def test_clients_are_drawn_alike_or_by_their_examples(sampling: str) -> None:
    training, rounds = TrainingConfig(clients_per_round=2, client_sampling=sampling), 4000
    uses = Counter(place for round in range(rounds) for place in places(training, round))
    for place, share in enumerate(expected_uses(sampling)):
        assert abs(uses[place] / rounds - share) < 5 * math.sqrt(share * (1 - share) / rounds)


@given(st.integers(1, 500), st.floats(0.001, 0.999))
def test_a_fraction_is_rounded_but_never_to_nobody(clients: int, fraction: float) -> None:
    size = cohort_size(TrainingConfig(clients_per_round=fraction), clients)
    assert size == max(1, round(fraction * clients))
    assert 1 <= size <= clients


def test_more_clients_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(FedhaError, match=r"clients_per_round is 6 but there are 5 clients"):
        places(TrainingConfig(clients_per_round=6), 1)


@pytest.mark.parametrize("wanted", [0, -1, 0.0, 1.0, 1.5, True, "half"])
def test_neither_a_number_nor_a_fraction_is_refused(wanted: object) -> None:
    with pytest.raises(FedhaError, match=r"neither a number of clients, 1 or more, nor a fraction between 0 and 1"):
        parse({"training": {"clients_per_round": wanted}})


@pytest.mark.parametrize(
    ("averaging", "shares"),
    [
        ("clients", [1 / 5] * 5),
        ("examples", [5 / 50, 1 / 50, 30 / 50, 4 / 50, 10 / 50]),
        ("domains", [1 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 3]),  # d0 and d1 have two clients each
    ],
)
def test_shares_by_client_example_and_domain(averaging: str, shares: list[float]) -> None:
    assert averaging_weights(TrainingConfig(averaging=averaging), MEMBERS) == pytest.approx(shares)


# --- a round with a part of the clients ---


def test_a_round_trains_its_cohort_and_nobody_else() -> None:
    problem = make_problem()
    training = TrainingConfig(rounds=5, optimizer="sgd", learning_rate=1.0, clients_per_round=2)
    server = problem.server(RECIPES["erm"], training)
    for number in range(1, 6):
        clients, before = problem.clients(), {name: value.clone() for name, value in server.parameters.items()}
        record = run_round(server, clients, number)
        chosen = [
            clients[one.client_id]
            for one in draw_cohort(training, server.task.seed, number, [c.member for c in clients])
        ]
        assert list(record["risk"]) == [client.domain.name for client in chosen]
        assert record["clients"] == 2
        updates = [answer_train(one, Request(server.task, number, before)).tensors for one in chosen]
        for name, start in before.items():
            mean = sum(update[name] for update in updates) / 2
            assert_close(server.parameters[name], start - mean, rtol=0, atol=1e-14)


def test_an_alignment_round_refers_to_its_cohort() -> None:
    """With two of three clients, the round is the round of a federation of these two."""
    problem = make_problem()
    training = TrainingConfig(rounds=3, clients_per_round=2)
    for name in ("hgp", "exact_diagonal", "fish", "groupdro"):
        server = problem.server(RECIPES[name], training)
        cohort = draw_cohort(training, server.task.seed, 1, [c.member for c in problem.clients()])
        pair = replace(problem, domains=tuple(problem.domains[one.client_id] for one in cohort))
        alone = pair.server(RECIPES[name], training.model_copy(update={"clients_per_round": None}))
        run_round(server, problem.clients(), 1)
        run_round(alone, pair.clients(), 1)
        assert_close(server.parameters, alone.parameters, rtol=0, atol=0)


def test_who_does_not_answer_leaves_the_round_and_the_others_share_its_weight() -> None:
    problem = make_problem()
    server = problem.server(RECIPES["erm"], TrainingConfig(optimizer="sgd", learning_rate=1.0, averaging="examples"))
    clients = problem.clients()
    server.gather(1, [client.member for client in clients])
    before = {name: value.clone() for name, value in server.parameters.items()}
    replies = [answer_train(one, Request(server.task, 1, before)) for one in (clients[2], clients[0])]
    server.step(1, replies)
    sizes = [len(clients[place].domain.train) for place in (2, 0)]
    for name, start in before.items():
        mean = sum(size * reply.tensors[name] for size, reply in zip(sizes, replies, strict=True)) / sum(sizes)
        assert_close(server.parameters[name], start - mean, rtol=0, atol=1e-13)
    assert [one.client_id for one in server.cohort] == [0, 2]
    assert sum(server.averaging_weights.values()) == pytest.approx(1)


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_replies_are_handed_on_in_client_order_as_soon_as_they_can_be(order: list[int], lost: set[int]) -> None:
    arrived: list[int] = []

    def arriving():
        for place in order:
            if place not in lost:
                arrived.append(place)
                yield Reply("c", "d", place, 1, {})

    handed = []
    for reply in in_order(arriving(), range(6)):
        if not lost:
            assert set(range(reply.client_id + 1)) <= set(arrived)
            assert len(arrived) == max(order.index(place) for place in range(reply.client_id + 1)) + 1
        handed.append(reply.client_id)
    assert handed == [place for place in range(6) if place not in lost]


# --- numbers by domain ---


def test_a_domain_s_numbers_are_those_of_all_its_examples() -> None:
    def reply(place: int, domain: str, count: int, **metrics: float) -> Reply:
        return Reply(f"{domain}/{place}", domain, place, count, {}, metrics)

    def evaluated(place: int, domain: str, **held_out: float) -> Reply:
        return reply(place, domain, 0, **{f"held_out/{key}": value for key, value in held_out.items()})

    trained = [reply(2, "b", 7, risk=0.1), reply(0, "a", 1, risk=4.0), reply(1, "a", 3, risk=2.0)]
    assert by_domain(trained, "risk") == {"b": 0.1, "a": 2.5}
    evaluations = [
        evaluated(2, "b", examples=0),
        evaluated(0, "a", examples=3, accuracy=1 / 3, risk=2.0),
        evaluated(1, "a", examples=1, accuracy=1.0, risk=6.0),
    ]
    pooled = pool_evaluations(evaluations)["held_out"]
    assert pooled == {"a": {"accuracy": 0.5, "risk": 3.0, "examples": 4}, "b": {"examples": 0}}


def test_clients_of_one_domain_draw_their_own_signs_and_batches() -> None:
    problem = make_problem()
    pieces = [replace(problem.domains[0], shard=shard) for shard in (0, 1)]
    clients = [Client(place, piece, problem.model) for place, piece in enumerate(pieces)]
    server = problem.server(RECIPES["hutchinson"], TrainingConfig())
    record = run_round(server, clients, 1)
    assert record["penalty"]["hutchinson_diagonal"] > 0  # same data, other signs
    assert [one.domain.client_name for one in clients] == ["d0/0", "d0/1"]
    assert torch.isfinite(server.parameters["head.weight"]).all()


# --- where being drawn is to hide a client ---

SOME = TrainingConfig(clients_per_round=2)
SECRET = bytes(range(32))


def hidden(secret: bytes, round: int, seed: int = 0) -> list[int]:
    return [one.client_id for one in draw_cohort(SOME, seed, round, MEMBERS[::-1], secret)]


def test_a_secret_decides_in_the_seeds_place() -> None:
    rounds = range(1, 30)
    drawn = [hidden(SECRET, round) for round in rounds]
    assert drawn == [hidden(SECRET, round, seed=7) for round in rounds]
    assert all(len(set(some)) == 2 and some == sorted(some) for some in drawn)
    assert drawn != [hidden(SECRET[::-1], round) for round in rounds]
    assert drawn != [places(SOME, round) for round in rounds]
    assert len({tuple(some) for some in drawn}) > 5


def test_by_a_secret_every_pair_is_drawn_as_often() -> None:
    uses, rounds = Counter(tuple(hidden(SECRET, round)) for round in range(4000)), 4000
    assert len(uses) == 10
    assert all(abs(count / rounds - 0.1) < 5 * math.sqrt(0.1 * 0.9 / rounds) for count in uses.values())


def test_what_requests_carry_does_not_tell_who_is_drawn() -> None:
    """The run's seed is in every request; a participant who draws by it finds other cohorts."""
    protected = PrivacyConfig(protect="clients", noise_multiplier=2.0)
    problem, training = make_problem(), TrainingConfig(clients_per_round=2, averaging="clients")
    strategy = HessianAlignment("erm", training, seed=SEED, clients=3, privacy=protected)
    server = strategy.begin(dict(problem.model.named_parameters()))
    members = [client.member for client in problem.clients()]
    drawn = [[one.client_id for one in server.gather(round, members)] for round in range(1, 30)]
    assert server.site.randomness == "cryptographic"  # else its noise would follow from the seed, too
    guessed = [[one.client_id for one in draw_cohort(training, SEED, round, members)] for round in range(1, 30)]
    assert drawn != guessed
    again = strategy.begin(dict(problem.model.named_parameters()))
    assert drawn != [[one.client_id for one in again.gather(round, members)] for round in range(1, 30)]


def test_without_a_secret_no_amplification_is_claimed() -> None:
    protected = PrivacyConfig(protect="clients", noise_multiplier=2.0)
    task = Task(RECIPES["erm"], TrainingConfig(clients_per_round=2, averaging="clients"), 0, protected)
    for secret, kind in ((SECRET, "without_replacement"), (b"", "unamplified")):
        server = Server(task, {"w": torch.zeros(2)}, secret=secret)
        server.gather(1, MEMBERS)
        ((release, count),) = server.spending.train["federation"].entries
        assert (release.sampling, release.sample, count) == (kind, 2, 1)


def test_a_run_that_goes_on_draws_by_the_secret_that_it_began_with(tmp_path: Path) -> None:
    assert kept_secret(tmp_path, SECRET) == kept_secret(tmp_path, bytes(32)) == SECRET
    key = tmp_path / "cohort.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert "cohort.key" in owned(tmp_path)
    key.write_bytes(b"short")
    with pytest.raises(FedhaError, match=r"cohort\.key, by which the run's clients are drawn, has 5 bytes, not 32"):
        kept_secret(tmp_path, SECRET)
