"""`fedha doctor` says what is there, what would be done, what is missing, and ends with a code that tells."""

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from rich.console import Console

from fedha.cli.doctor import examine, machine_remarks
from fedha.config import Config, parse
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.engine import ray_session
from fedha.engine.estimate import Batches, batches, batching_note, data_bytes, memory_bytes, model_bytes
from fedha.engine.machine import Gpu, Machine, look
from fedha.engine.plan import make_plan

GIB = 2**30


def report(config: Config | None) -> tuple[int, str]:
    """The exit code and what is shown."""
    out = io.StringIO()
    return examine(config, Console(file=out, width=300)), out.getvalue()


def config(**engine: Any) -> Config:
    return parse({"name": "trial", "engine": engine, "model": {"hidden": [8]}})


def made_domains(clients: int) -> DomainSet:
    """Random domains of 30 examples with 20 features, 5 of them held out."""
    parts = Examples(torch.randn(30, 20), torch.arange(30) % 2)
    domains = [Domain(f"d{k}", parts.select(slice(0, 25)), parts.select(slice(25, 30))) for k in range(clients)]
    return DomainSet(tuple(domains), (), 2, "made")


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = "import sys, fedha.cli.doctor; print({'torch', 'ray', 'flwr'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.slow
def test_a_run_on_ray_is_tried_and_every_worker_answers() -> None:
    try:
        code, shown = report(config(name="ray", workers=2))
    finally:
        ray_session.stop()
    lines = {line[:9].strip(): line[9:].strip() for line in shown.splitlines()}
    assert code == 0
    assert lines["cores"].startswith(f"{look().cpus} of ")
    assert lines["engine"] == "ray: the config says so"
    assert lines["workers"] == "2 workers of 1 thread"
    assert lines["batching"] == "one by one: 1 client is nothing to put together"
    assert lines["started"].endswith("2 CPUs, 0 GPUs, 1 node")
    assert all(", 1 thread, " in lines[f"worker {place}"] for place in (0, 1))
    assert lines["worker 0"] != lines["worker 1"]
    assert "trial can run here." in shown


def test_a_run_in_this_process_starts_no_ray() -> None:
    code, shown = report(config(name="inline", threads=10_000))
    assert code == 0
    assert "Ray\n" not in shown
    assert "note: engine.threads is 10000 but there " in shown
    assert "trial can run here." in shown


@pytest.mark.parametrize(
    ("content", "obstacle"),
    [
        ({"data": {"name": "heart", "root": "/nowhere"}}, "cannot run: cannot read /nowhere/"),
        ({"engine": {"address": "127.0.0.1:1"}}, "cannot run: no Ray cluster answers at engine.address '127.0.0.1:1'"),
        ({"engine": {"name": "inline", "client_timeout": 3}}, "cannot run: engine.name is 'inline', which has no"),
    ],
)
def test_what_stops_a_run_is_said_and_the_code_is_1(content: dict[str, Any], obstacle: str) -> None:
    code, shown = report(parse(content))
    assert code == 1
    assert obstacle in shown
    assert "can run here" not in shown


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_gpu_that_torch_cannot_use_is_noticed(tmp_path: Path) -> None:
    here = Machine(2, 8 * GIB, 4 * GIB)
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    assert machine_remarks(here, tmp_path) == []
    (tmp_path / "proc/driver/nvidia/version").touch()
    (remark,) = machine_remarks(here, tmp_path)
    assert remark.startswith("there is an NVIDIA driver, but torch is built without CUDA")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/shm")
def test_small_shared_memory_is_noticed(tmp_path: Path) -> None:
    (remark,) = machine_remarks(Machine(2, 8 * GIB, 2**26, (Gpu("Card", GIB),)), tmp_path)
    assert remark.startswith("/dev/shm has 67.1 MB: Ray's store will be small or in files; in Docker")


def test_small_clients_are_trained_together_unless_that_is_off_or_there_is_one() -> None:
    domains = made_domains(6)
    assert batching_note(config(), domains.sources, domains) == "together"
    assert batching_note(config(), domains.sources[:1], domains).startswith("one by one: 1 client is nothing")
    assert batching_note(config(batching=False), domains.sources, domains) == "one by one: engine.batching is off"


def test_bytes_are_counted_from_the_tensors_and_grow_with_clients_a_worker() -> None:
    domains = made_domains(12)
    assert data_bytes(domains.sources[0]) == 30 * (20 * 4 + 8)
    model = model_bytes(config(), domains)
    assert model == 4 * (20 * 8 + 8 + 8 * 2 + 2)
    settings = config(name="ray")
    one, four = (make_plan(config(name="ray", workers=workers), 12, Machine(8, GIB, GIB)) for workers in (12, 3))
    kept = batches(settings, domains, 25, 25).kept
    assert kept > 25 * 8 * 4  # hgp measures before it trains: what goes through the network stays until then
    more = memory_bytes(four, settings, domains.sources, domains) - memory_bytes(
        one, settings, domains.sources, domains
    )
    assert more == 3 * (data_bytes(domains.sources[0]) + kept)


def test_activations_are_counted_and_a_chunk_bounds_them() -> None:
    images = Examples(torch.zeros(100, 3, 64, 64), torch.arange(100) % 2)
    domains = DomainSet((Domain("a", images, images), Domain("b", images, images)), (), 2, "made")

    def taken(recipe: str, **training: Any) -> Batches:
        content = {"model": {"name": "cnn", "hidden": [8, 16]}, "recipe": recipe, "training": training}
        return batches(parse(content), domains, 100, 100)

    whole, pieces = taken("exact_diagonal"), taken("exact_diagonal", chunk=10)
    activations = 100 * 4 * 64 * 64 * (3 + 8)  # at least the inputs and the first layer's
    assert whole.working > 2 * activations
    assert whole.kept > activations
    assert pieces.working == pytest.approx(whole.working / 10)
    assert pieces.kept < whole.kept / 20
    assert taken("erm").kept == 0
    assert taken("exact_diagonal", batch_size=10).working == pieces.working
    local = {"steps": 1, "batch_size": 10}
    assert taken("exact_diagonal", mode="local", optimizer="fedavg", local=local).working == pieces.working


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        ("model.name=linear", "recipe=erm"),
        ("model={name: cnn, hidden: [8, 16]}", "recipe=exact_diagonal"),
        ("model={name: cnn, hidden: [8, 16]}", "recipe=exact_diagonal", "training.chunk=16"),
        ("model={name: mlp, hidden: [64]}", "recipe=hgp", "data.clients_per_domain=2"),
    ],
)
def test_the_estimate_is_within_a_third_of_the_peak(changes: tuple[str, ...], tmp_path: Path) -> None:
    chance = numpy.random.default_rng(0)
    for name in ("a", "b", "c"):
        inputs = chance.normal(size=(150, 3, 64, 64)).astype("float32")
        numpy.savez(tmp_path / f"{name}.npz", inputs=inputs, labels=(inputs[:, 0, 0, 0] > 0).astype(int))
    data = ("data.name=arrays", f"data.root={tmp_path}", "data.target=c", "training.rounds=1", "seed=0")
    arguments = ["quickstart", *data, "engine.name=inline", "evaluation.leave_one_domain_out=false", *changes]
    doctor = subprocess.run(
        [sys.executable, "-m", "fedha", "doctor", *arguments], capture_output=True, text=True, check=True
    )
    found = re.search(r"memory +about ([\d.]+) MB a worker", doctor.stdout)
    assert found is not None, doctor.stdout
    command = [sys.executable, "-m", "fedha", "run", *arguments, "-q", "--out", str(tmp_path / "run")]
    assert 2 / 3 < float(found[1]) / peak_megabytes(command) < 4 / 3


def peak_megabytes(command: list[str]) -> float:
    """A command's peak; started by a small process, for Linux counts what its parent held when it was forked."""
    program = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024) / 1e6
