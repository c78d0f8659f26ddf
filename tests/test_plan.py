"""Where a run's clients go: the engine, the number of workers, and what each of them gets."""

from typing import Any

import pytest
import torch

from fedha.config import Config, parse
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.engine.estimate import run_operations
from fedha.engine.machine import Gpu, Machine
from fedha.engine.plan import A_HANDFUL, choose, make_plan
from fedha.engine.ray_session import RaySession
from fedha.engine.ray_store import store_bytes
from fedha.errors import FedhaError

GIB = 2**30
CARD = Gpu("Card", 80 * GIB)


def config(**engine: Any) -> Config:
    training = {"clients_per_round": engine.pop("clients_per_round", None)}
    return parse({"engine": engine, "training": training})


def machine(cpus: int = 2, gpus: int = 0, card: Gpu = CARD) -> Machine:
    return Machine(cpus, 24 * GIB, 12 * GIB, (card,) * gpus)


@pytest.mark.parametrize(
    ("engine", "clients", "here", "expected"),
    [
        ({}, A_HANDFUL, machine(), ("inline", f"{A_HANDFUL} clients, 2 cores: worker processes would not pay")),
        ({}, A_HANDFUL + 1, machine(), ("ray", f"{A_HANDFUL + 1} clients, 2 cores")),
        ({}, 1_000, machine(1), ("ray", "1,000 clients, 1 core")),
        ({"batching": False}, 40, machine(), ("ray", "40 clients, 2 cores")),
        ({"batching": False}, 40, machine(1), ("inline", "40 clients, 1 core for 1 thread, and engine.batching")),
        ({"batching": False, "threads": 2}, 40, machine(), ("inline", "40 clients, 2 cores for 2 threads")),
        ({}, 2, machine(gpus=1), ("ray", "1 GPU: Card")),
        ({"device": "cpu"}, 2, machine(gpus=1), ("inline", "2 clients, 2 cores")),
        ({"workers": 2}, 2, machine(), ("ray", "the config sets engine.workers")),
        ({"address": "auto"}, 2, machine(), ("ray", "the config sets engine.address")),
        ({"client_timeout": 9.0}, 2, machine(), ("ray", "the config sets engine.client_timeout")),
        ({"name": "inline"}, 1_000, machine(gpus=8), ("inline", "the config says so")),
        ({"name": "flower"}, 1_000, machine(), ("flower", "the config says so")),
        ({"name": "ray"}, 1, machine(1), ("ray", "the config says so")),
    ],
)
def test_the_engine_is_the_configs_or_ray_where_it_gains_and_the_reason_has_the_numbers(
    engine: dict[str, Any], clients: int, here: Machine, expected: tuple[str, str]
) -> None:
    name, reason = choose(config(**engine), clients, here)
    assert name == expected[0]
    assert reason.startswith(expected[1])


def test_a_long_run_of_few_clients_is_spread_over_the_cores() -> None:
    assert choose(config(), 2, machine(), 1e13) == ("ray", "2 clients, 2 cores, about 1e+13 operations")
    assert choose(config(), 1, machine(), 1e13)[0] == "inline"
    assert choose(config(), 2, machine(1), 1e13)[0] == "inline"
    assert choose(config(threads=2), 2, machine(), 1e13)[0] == "inline"


@pytest.mark.parametrize(
    ("training", "clients", "passes"),
    [
        ({}, 1, 1),
        ({"mode": "local", "local": {"epochs": 3, "batch_size": 5}}, 5, 3),
        ({"mode": "local", "local": {"steps": 4, "batch_size": 5}}, 5, 4 * 5 * 5 / 25),
        ({"mode": "local", "local": {"steps": 4}}, 5, 4),
        ({"clients_per_round": 0.4}, 5, 0.4),
    ],
)
def test_operations_are_six_a_parameter_and_example_seen(training: dict[str, Any], clients: int, passes: float) -> None:
    parts = Examples(torch.zeros(25, 20), torch.zeros(25).long())
    domains = DomainSet((Domain("d", parts, parts),), (), 2, "made")
    content = {
        "training": {"rounds": 10, **training},
        "data": {"clients_per_domain": clients},
        "model": {"hidden": [8]},
    }
    parameters = 20 * 8 + 8 + 8 * 2 + 2
    assert run_operations(parse(content), domains) == pytest.approx(6 * parameters * 25 * passes * 10)


@pytest.mark.parametrize(
    ("engine", "clients", "cpus", "workers"),
    [
        ({}, 40, 2, 2),
        ({}, 40, 16, 16),
        ({}, 10, 16, 10),
        ({"threads": 4}, 40, 16, 4),
        ({"threads": 4}, 40, 2, 1),
        ({"threads": 3}, 40, 16, 5),
        ({"workers": 3}, 40, 2, 3),
        ({"workers": 30}, 20, 2, 20),
        ({"clients_per_round": 3}, 40, 16, 3),
        ({"clients_per_round": 0.1}, 40, 16, 4),
    ],
)
def test_workers_fill_the_cores_but_are_no_more_than_clients_that_are_busy(
    engine: dict[str, Any], clients: int, cpus: int, workers: int
) -> None:
    plan = make_plan(config(name="ray", **engine), clients, machine(cpus))
    assert (plan.workers, plan.device, plan.gpus, plan.gpu_share, plan.memory_share) == (workers, "cpu", 0, 0.0, 0.0)


def test_a_ray_of_our_own_has_one_cpu_a_worker_and_a_cluster_has_cores() -> None:
    asked = config(threads=4, address="head:6379")
    cluster = RaySession("head:6379", ours=True, cpus=64, gpus=0, nodes=4, seconds=0.1)
    assert make_plan(config(name="ray", threads=4), 100, machine(8)).cpu_share == 1
    plan = make_plan(asked, 100, machine(2), cluster)
    assert (plan.workers, plan.cpu_share, plan.address) == (16, 4, "head:6379")


@pytest.mark.parametrize(
    ("engine", "gpus", "workers", "used", "share"),
    [
        ({}, 1, 1, 1, 1.0),
        ({"clients_per_gpu": 4}, 2, 8, 2, 0.25),
        ({"clients_per_gpu": 3}, 1, 3, 1, 0.3333),
        ({"workers": 1}, 8, 1, 1, 1.0),
        ({"clients_per_round": 2}, 8, 2, 2, 1.0),
    ],
)
def test_workers_share_the_gpus(engine: dict[str, Any], gpus: int, workers: int, used: int, share: float) -> None:
    plan = make_plan(config(**engine), 40, machine(4, gpus))
    assert (plan.engine, plan.device) == ("ray", "cuda")
    assert (plan.workers, plan.gpus, plan.gpu_share) == (workers, used, share)
    assert plan.workers * plan.gpu_share <= gpus


@pytest.mark.parametrize("each", [1, 2, 7])
def test_what_the_workers_of_a_gpu_take_fits_it_with_the_context_of_each(each: int) -> None:
    plan = make_plan(config(clients_per_gpu=each), 40, machine(8, 1))
    assert each * (plan.memory_share * CARD.memory_bytes + 600 * 2**20) <= CARD.memory_bytes + 2**24


def test_a_clusters_gpus_count_when_this_machine_has_none() -> None:
    cluster = RaySession("head:6379", ours=True, cpus=64, gpus=4, nodes=2, seconds=0.1)
    plan = make_plan(config(address="head:6379", device="cuda", clients_per_gpu=2), 40, machine(2), cluster)
    assert (plan.device, plan.workers, plan.gpus) == ("cuda", 8, 4)
    assert 0 < plan.memory_share < plan.gpu_share


@pytest.mark.parametrize(
    ("engine", "here", "wrong"),
    [
        ({"device": "cuda"}, machine(), "no GPU is to be seen"),
        ({"name": "inline", "device": "cuda"}, machine(), "no GPU is to be seen"),
        ({"name": "inline", "address": "auto"}, machine(), "has no engine.address; take ray"),
        ({"name": "flower", "client_timeout": 5.0}, machine(), "has no engine.client_timeout; take ray"),
        ({"workers": 5, "clients_per_gpu": 2}, machine(8, 2), "engine.workers is 5 but 2 GPUs"),
        ({"device": "cpu", "clients_per_gpu": 2}, machine(8, 2), "leave one of them out"),
        (
            {"clients_per_gpu": 8},
            machine(8, 1, Gpu("Small", 4 * GIB)),
            "engine.clients_per_gpu is 8: that leaves 0 MiB",
        ),
        ({"clients_per_round": 41}, machine(), "clients_per_round is 41 but there are 40"),
    ],
)
def test_what_cannot_be_is_said_with_the_values_and_what_to_do(
    engine: dict[str, Any], here: Machine, wrong: str
) -> None:
    with pytest.raises(FedhaError) as error:
        make_plan(config(**engine), 40, here)
    assert wrong in str(error.value)


@pytest.mark.parametrize(
    ("engine", "warnings"),
    [
        ({}, []),
        ({"threads": 4}, ["engine.threads is 4 but there are 2 cores"]),
        ({"workers": 3}, ["3 workers of 1 thread share 2 cores"]),
        ({"clients_per_gpu": 2}, ["engine.clients_per_gpu is 2, but no GPU will be used"]),
    ],
)
def test_what_works_badly_is_warned_of(engine: dict[str, Any], warnings: list[str]) -> None:
    plan = make_plan(config(name="ray", **engine), 40, machine())
    assert [one[: len(other)] for one, other in zip(plan.warnings, warnings, strict=True)] == warnings


def test_a_plan_says_itself_in_a_line() -> None:
    assert make_plan(config(), 40, machine()).summary() == (
        "ray: 40 clients on 2 workers of 1 thread, on the CPU (40 clients, 2 cores)"
    )
    assert make_plan(config(clients_per_gpu=4), 40, machine(8, 1)).summary() == (
        "ray: 40 clients on 4 workers of 1 thread, on 1 GPU, 0.25 a worker (1 GPU: Card)"
    )
    assert "2 clients in this process, on cpu" in make_plan(config(), 2, machine()).summary()


@pytest.mark.parametrize(
    ("memory", "shared", "expected"),
    [
        (10 * GIB, 20 * GIB, (3 * GIB, True)),
        (10 * GIB, GIB, (int(0.9 * GIB), True)),
        (10 * GIB, 2**26, (3 * GIB, False)),
        (10 * GIB, 0, (3 * GIB, False)),
        (2**20, 0, (80_000_000, False)),
    ],
)
def test_the_store_shrinks_to_shared_memory_and_leaves_it_where_it_is_tiny(
    memory: int, shared: int, expected: tuple[int, bool]
) -> None:
    assert store_bytes(memory, shared) == expected
