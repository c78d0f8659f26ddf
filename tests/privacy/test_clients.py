"""Clients protected as a whole: each answer clipped, the sum disturbed once, one release a round."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedha.cohort import Member
from fedha.exchange import Reply, Task
from fedha.federation import Server
from fedha.flower.serve import Job
from fedha.flower.wire import unpack_reply
from fedha.privacy.accounting import spent
from fedha.privacy.client_level import joined_multiplier
from fedha.privacy.ledger import Ledger, Release
from fedha.runs.listener import Silent
from tests.jobs import run_job
from tests.privacy.rounds import grid_of, records_of, run_on, settings

pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')

CLIENTS: dict[str, Any] = {
    "data": {"clients_per_domain": 4},
    "training": {"averaging": "clients", "clients_per_round": 5},
    "privacy": {"protect": "clients", "noise_multiplier": 1.5, "statistics_noise": 2.0, "clip": 0.1},
}


def test_a_rounds_exchanges_are_one_release_of_its_cohort(tmp_path: Path) -> None:
    results = run_job(Job(settings("iga", **CLIENTS), tmp_path), Silent())
    release = Release(joined_multiplier([3.0, 1.5]), "without_replacement", 5)
    for record in records_of(tmp_path):
        ledger = Ledger("client", 8).add([(release, record["round"])])
        assert record["epsilon"] == {"federation": pytest.approx(spent(ledger, 0.1 / 8).epsilon)}
        assert record["clients"] == 5
    told = results["privacy"]
    assert told["relation"] == "replace one client by another"
    assert told["warnings"][0].startswith("8 clients are few")
    assert told["noise"].startswith("seeded")


def test_a_client_a_domain_is_warned_of(tmp_path: Path) -> None:
    config = settings("iga", training={"averaging": "clients"}, privacy={"protect": "clients"})
    warnings = run_job(Job(config, tmp_path), Silent())["privacy"]["warnings"]
    assert any("each client is a domain" in one for one in warnings)


def reply(place: int, value: float, *, weighed: bool = False) -> Reply:
    return Reply(f"c{place}", "d", place, 10, {"w": torch.full((4,), value)}, {"loss": 1.0}, weighed=weighed)


def step(values: dict[int, float], **privacy: float) -> Tensor:
    """What the model moves by, in plain SGD with rate 1, for three clients with these answers."""
    config = settings(
        "erm",
        training={"averaging": "clients", "optimizer": "sgd", "learning_rate": 1.0},
        privacy={"protect": "clients", "noise_multiplier": 1e-12, "clip": 1.0, **privacy},
    )
    task = Task(config.recipe[0].resolve(), config.training, 0, config.privacy)
    server = Server(task, {"w": torch.zeros(4)})
    server.gather(1, [Member(place, "d", 10) for place in range(3)])
    server.step(1, [reply(place, value) for place, value in values.items()])
    return server.parameters["w"]


def test_no_client_moves_the_model_by_more_than_the_clip_over_the_cohort() -> None:
    without = step({0: 0.1, 1: -0.2, 2: 0.0})
    for moved in (0.1, 100.0, -1e30):
        assert float((step({0: 0.1, 1: -0.2, 2: moved}) - without).norm()) <= 1 / 3 + 1e-6


def test_a_client_that_is_missing_adds_nothing_and_the_divisor_stays() -> None:
    """Who came must not change how much the others count."""
    assert torch.allclose(step({0: 0.1, 1: -0.2}), step({0: 0.1, 1: -0.2, 2: 0.0}))


def test_noise_is_the_multiplier_times_the_clip_over_the_cohort() -> None:
    moved = torch.cat([step({0: 0.0, 1: 0.0, 2: 0.0}, noise_multiplier=z) / z for z in (3.0, 6.0)])
    assert torch.allclose(moved[:4], moved[4:], rtol=1e-5)  # one draw a round
    assert 0.05 < float(moved.std()) * 3 < 5  # of four numbers whose deviation is 1


def test_answers_are_sent_one_by_one_however_clients_are_asked(tmp_path: Path) -> None:
    """A sum over several clients could not be clipped client by client."""
    config = settings("iga", **CLIENTS)
    grid = grid_of(config)
    run_on(grid, config, tmp_path)
    assert not any(unpack_reply(one.content).weighed for one in grid.sent)
