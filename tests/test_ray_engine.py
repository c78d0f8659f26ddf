"""A run on Ray is the run in one process: the same files, to the bit, also when it was stopped in between."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedha.config import Config, parse
from fedha.engine import leftovers
from fedha.errors import StoppedError
from fedha.flower.serve import Job
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.jobs import run_job
from tests.killed_runs import Rounds, assert_same_bits, kill_and_resume, without_time

pytestmark = pytest.mark.usefixtures("shared_ray")

ROUNDS = 5
BASE = {
    "data": {"clients_per_domain": 4},
    "model": {"hidden": [6], "one_logit": True},
    "evaluation": {"every": 2},
    "checkpoint": {"every": 2},
}
LOCAL = {"mode": "local", "local": {"epochs": 1, "batch_size": 30, "momentum": 0.5}}
RUNS: dict[str, dict[str, Any]] = {
    "hgp, all clients": {"recipe": "hgp", "evaluation": {"every": 2, "diagnose_every": 2}},
    "hutchinson, some clients": {
        "recipe": {"name": "hutchinson", "probes": 3},
        "training": {"clients_per_round": 5, "client_sampling": "examples", "averaging": "clients"},
    },
    "fishr, local steps": {"recipe": {"name": "fishr", "weight": 3.0}, "training": LOCAL},
    "coral, local steps of some clients": {"recipe": "coral", "training": {**LOCAL, "clients_per_round": 0.5}},
    "attention with dropout": {"model": {"name": "tests.models_of_others:shaped", "kind": "attention"}},
    "a frozen body with batch norm": {
        "model": {"name": "tests.models_of_others:normed", "freeze": True},
        "training": {**LOCAL, "clients_per_round": 0.5},
    },
    "a network of timm's, a part frozen": {
        "model": {"name": "timm", "architecture": "test_resnet", "weights": "none", "frozen": "layer1", "drop": 0.1},
        "training": {"batch_size": 8},
    },
    "each client its own batch norm": {
        "model": {"name": "tests.models_of_others:normed", "batch_norm": "local"},
        "training": LOCAL,
    },
    "adamw with two rates, clipping, a warm-up and soft targets": {
        "recipe": "hgp",
        "training": {
            "optimizer": {"name": "adamw", "weight_decay": 0.1, "betas": [0.8, 0.9]},
            "rates": {"featurizer": 0.1},
            "clip_norm": 0.5,
            "label_smoothing": 0.1,
            "class_weights": "balanced",
            "schedule": {"name": "cosine", "warmup": 2},
        },
    },
    "clients' nadam by the step": {
        "recipe": "vrex",
        "training": {
            "mode": "local",
            "rates": {"head": 2.0},
            "class_weights": [1, 2],
            "schedule": {"name": "exponential", "factor": 0.9, "by": "step"},
            "local": {"epochs": 1, "batch_size": 30, "optimizer": {"name": "nadam", "weight_decay": 0.01}},
        },
    },
    "domains mixed, random features, uphill, weights by the gap": {
        "data": {"partition": {"name": "lambda", "clients": 7, "mixing": 0.3}},
        "recipe": {"name": "mmd", "probes": 3, "sam_radius": 0.1, "weight": 0.1},
        "training": {**LOCAL, "optimizer": "feddg_ga", "clients_per_round": 5},
    },
    "labels skewed, mixup, the head first, fairly": {
        "data": {"clients_per_domain": 3, "partition": {"name": "dirichlet", "alpha": 0.5}},
        "recipe": "mixup",
        "training": {
            **LOCAL,
            "local": {"epochs": 1, "batch_size": 30},
            "optimizer": {"name": "qfedavg", "q": 2},
            "head_rounds": 2,
        },
    },
    "risks' distributions, an average of weights": {
        "recipe": {"name": "rdm", "probes": 3, "weight": 0.1},
        "training": {"weight_averaging": {"name": "ema", "decay": 0.5}},
    },
    "scaffold, local steps of some clients": {
        "recipe": "erm",
        "training": {
            "mode": "local",
            "optimizer": "scaffold",
            "clients_per_round": 0.5,
            "local": {"epochs": 1, "batch_size": 30},
        },
    },
}


def config(name: str, engine: str, **options: Any) -> Config:
    run = RUNS[name]
    engine_section = {"name": engine, **({"workers": 2, "batching": False} if engine == "ray" else {}), **options}
    training = {"rounds": ROUNDS, **run.get("training", {})}
    return parse({**BASE, **run, "training": training, "engine": engine_section})


def model(folder: Path) -> bytes:
    return (folder / runfolder.MODEL).read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "hgp, all clients",
        pytest.param("hutchinson, some clients", marks=pytest.mark.slow),
        pytest.param("fishr, local steps", marks=pytest.mark.slow),
        "coral, local steps of some clients",
        "attention with dropout",
        "a frozen body with batch norm",
        pytest.param("a network of timm's, a part frozen", marks=pytest.mark.slow),
        "each client its own batch norm",
        "scaffold, local steps of some clients",
        "adamw with two rates, clipping, a warm-up and soft targets",
        "clients' nadam by the step",
        "domains mixed, random features, uphill, weights by the gap",
        pytest.param("labels skewed, mixup, the head first, fairly", marks=pytest.mark.slow),
        pytest.param("risks' distributions, an average of weights", marks=pytest.mark.slow),
    ],
)
def test_ray_writes_what_one_process_writes(name: str, tmp_path: Path) -> None:
    for engine in ("inline", "ray"):
        run_job(Job(config(name, engine), tmp_path / engine), Silent())
    assert model(tmp_path / "ray") == model(tmp_path / "inline")
    assert without_time(tmp_path / "ray" / "metrics.jsonl") == without_time(tmp_path / "inline" / "metrics.jsonl")


def test_a_run_that_begins_with_another_ones_frozen_body_is_the_same_on_ray(tmp_path: Path) -> None:
    own = {"name": "tests.models_of_others:normed"}
    run_job(Job(parse({**BASE, "model": own, "training": {"rounds": 2}}), tmp_path / "first"), Silent())
    for engine in ("inline", "ray"):
        tuned = {**own, "freeze": True, "start": str(tmp_path / "first")}
        section = {"name": engine, **({"workers": 2, "batching": False} if engine == "ray" else {})}
        content = {**BASE, "seed": 4, "model": tuned, "training": {"rounds": 2}, "engine": section}
        run_job(Job(parse(content), tmp_path / engine), Silent())
    assert model(tmp_path / "ray") == model(tmp_path / "inline")
    first, second = (load_file(tmp_path / place / runfolder.MODEL) for place in ("first", "ray"))
    assert torch.equal(first["featurizer.1.weight"], second["featurizer.1.weight"])


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("hgp, all clients", "ray"),
        ("hgp, all clients", "inline"),
        pytest.param("fishr, local steps", "ray", marks=pytest.mark.slow),
        ("fishr, local steps", "inline"),
    ],
)
def test_clients_put_together_repeat_to_the_bit_and_agree_with_one_by_one(
    name: str, engine: str, tmp_path: Path
) -> None:
    for place in ("one", "two"):
        run_job(Job(config(name, engine, batching=True), tmp_path / place), Silent())
    run_job(Job(config(name, "inline"), tmp_path / "inline"), Silent())
    assert model(tmp_path / "one") == model(tmp_path / "two")
    one, other = (load_file(tmp_path / place / runfolder.MODEL) for place in ("one", "inline"))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert model(tmp_path / "one") != model(tmp_path / "inline")  # the order of sums tells that they were together
    sent = [
        [(record["bytes_down"], record["bytes_up"]) for record in runfolder.read_metrics(tmp_path / place)]
        for place in ("one", "inline")
    ]
    assert sent[0] == sent[1]  # a worker sends one sum, but what is told is what clients send over a network


def test_a_run_may_be_stopped_on_one_engine_and_resumed_on_another(tmp_path: Path) -> None:
    name = "fishr, local steps"  # its clients remember something
    run_job(Job(config(name, "inline"), tmp_path / "whole"), Silent())
    for first, second in (("ray", "inline"), ("inline", "ray")):
        place = tmp_path / f"{first}-{second}"
        kill_and_resume(config(name, first), place, 3, config(name, second))
        assert_same_bits(place, tmp_path / "whole")


def test_a_run_on_ray_that_is_asked_to_stop_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    name = "fishr, local steps"
    run_job(Job(config(name, "inline"), tmp_path / "whole"), Silent())
    with pytest.raises(StoppedError, match="stopped after round 2 of"):
        run_job(Job(config(name, "ray"), tmp_path / "run"), (rounds := Rounds()), stop=lambda: len(rounds.seen) == 2)
    run_job(Job(config(name, "inline"), tmp_path / "run"), Silent(), resume=True)
    assert model(tmp_path / "run") == model(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_a_run_that_resumes_to_the_same_bits(tmp_path: Path) -> None:
    settings = ["quickstart", "recipe=hgp", "seed=0", "training.rounds=40", "evaluation.leave_one_domain_out=false"]
    settings += ["data.clients_per_domain=5", "engine.batching=false", "checkpoint.every=10"]
    fedha = [sys.executable, "-m", "fedha"]

    def start(*arguments: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "TMPDIR": str(shelter)}
        return subprocess.Popen(
            [*fedha, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    shelter = tmp_path / "t"
    shelter.mkdir()
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert start("run", *settings, "--engine", "inline", "--out", str(whole)).wait(600) == 0
    process = start("run", *settings, "--engine", "ray", "--out", str(stopped), "engine.workers=2")
    deadline = time.monotonic() + 600
    while not (log := stopped / "metrics.jsonl").exists() or len(log.read_text().splitlines()) < 15:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    mark = next(one.split("=", 1)[1] for one in marks(process.pid))
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "continue with: fedha resume" in complaints
    assert leftovers.living(Path(mark)) == set()
    assert not Path(mark).exists()
    assert not (stopped / runfolder.RESULTS).exists()
    assert start("resume", str(stopped), "--quiet").wait(600) == 0
    assert model(stopped) == model(whole)


def marks(pid: int) -> list[str]:
    """The marks of the Ray processes that a process has started."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                entries = (place / "environ").read_bytes().decode().split("\0")
                found += [one for one in entries if one.startswith(f"{leftovers.MARK}=")]
        except OSError:
            continue  # it has just ended
    return found
