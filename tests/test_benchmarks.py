"""The benchmarks run, tell what they measured, and clean up; their figures are not judged here."""

import copy
import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def side_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(f"{BENCHMARKS}/"):
            del sys.modules[name]


def found(script: str, *arguments: str) -> Any:
    """What a benchmark says in its last line."""
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), "--quick", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])[script]


@pytest.mark.slow
def test_an_exchange_is_timed_on_all_engines() -> None:
    (sides,) = found("exchange").values()
    assert list(sides) == ["inline", "ray", "flower"]
    assert 0 < sides["inline"]["seconds"] < sides["ray"]["seconds"] < sides["flower"]["seconds"]


@pytest.mark.slow
def test_cohorts_are_timed_and_their_bytes_counted() -> None:
    (sides,) = found("cohort", "--workers", "1", "--sides", "inline", "autograd", "by hand").values()
    assert all(side["seconds"] > 0 for side in sides.values())
    model = 4 * (784 * 200 + 200 + 200 * 10 + 10)
    assert 2 * 10 * model < sides["inline"]["bytes"] < 2.1 * 10 * model  # down and up, ten clients


@pytest.mark.slow
def test_an_epoch_over_a_folder_of_images_is_timed_beside_torchvisions() -> None:
    pytest.importorskip("torchvision")
    told = found("images")
    assert set(told["seconds"]) == {"none", "domainbed"}
    assert all(side["processor"] > 0 for sides in told["seconds"].values() for side in sides.values())
    assert min(told["peak"]["100"]) > 100


@pytest.mark.slow
def test_memory_and_its_growth_are_told() -> None:
    memory = found("memory", "--engine", "inline")
    assert memory["peak"]["10"]["driver"] > 1e8
    assert memory["peak"]["10"]["workers"] == 0
    assert set(memory["growth"]) == {"driver", "workers", "ray's own", "shared store"}


@pytest.mark.slow
def test_a_sweep_on_cached_features_tells_what_is_no_training() -> None:
    told = found("feature_sweep", "--workers", "1")
    assert told["recipes"].keys() == {"erm", "vrex"}
    assert 0 < told["training"] < told["cpu"]
    assert told["rest"] == 1 - told["training"] / told["cpu"]


@pytest.mark.slow
def test_startup_is_told_beside_bare_imports() -> None:
    sides = found("startup")
    bare = sides.pop("import torch, flwr")
    assert len(sides) == 2
    assert all(one["cpu_seconds"] > bare["cpu_seconds"] for one in sides.values())


@pytest.mark.slow
def test_scaling_tells_the_pieces_and_the_rounds() -> None:
    scaling = found("scaling", "--workers", "2")
    assert set(scaling["seconds"]) == {"1", "2"}
    assert scaling["rate"] > 0
    taken = scaling["pieces"]["take"]
    assert taken["megabyte"] >= 0  # a difference of two measured times, cut at 0: a machine under load may see none
    assert max(taken.values()) > 0


def test_private_gradients_are_timed_both_ways_once_they_agree() -> None:
    (sides,) = found("private_gradient").values()
    assert set(sides) == {f"{side}_seconds" for side in ("plain", "activations", "site", "torch.func")}
    assert all(seconds > 0 for seconds in sides.values())


def test_the_loop_written_by_hand_is_the_autograd_loop(side_modules: Any) -> None:
    loops, federation = side_modules("sides.loops"), side_modules("sides.federation")
    start = federation.network().double()
    draws = torch.Generator().manual_seed(3)
    inputs = torch.rand(60, 784, generator=draws, dtype=torch.float64)
    labels, order = torch.randint(0, 10, (60,), generator=draws), torch.randperm(60, generator=draws)
    ends = []
    for train in (loops.train_autograd, loops.train_by_hand):
        model = copy.deepcopy(start)
        train(model, inputs, labels, order)
        ends.append(model)
    for one, other, before in zip(*(model.parameters() for model in ends), start.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        assert not torch.equal(one, before)


def test_the_average_of_a_round_is_over_its_clients_alone(side_modules: Any) -> None:
    loops, federation = side_modules("sides.loops"), side_modules("sides.federation")
    inputs, labels = torch.rand(180, 784), torch.arange(180) % 10
    model = federation.network()

    def seen(local: torch.nn.Module, own: torch.Tensor, *_: torch.Tensor) -> None:
        with torch.no_grad():
            for one in local.parameters():
                one.fill_(float(own[0, 0]))

    loops.average_round(model, inputs, labels, torch.tensor([0, 2]), seen)
    expected = (inputs[0, 0] + inputs[120, 0]) / 2
    assert all(torch.allclose(one, expected) for one in model.parameters())


def test_a_side_runs_what_it_is_asked_and_nothing_is_left_of_it(side_modules: Any) -> None:
    driving, processes = side_modules("sides.driving"), side_modules("sides.processes")
    before = children_seconds()
    side = driving.Side("loops", "product")
    assert len(side.run(3).seconds) == 3
    block = side.run(20)
    assert len(block.seconds) == 20
    counted = processes.cpu_seconds({side.pid})
    assert 0 < block.cpu_seconds < counted  # its start is not part of the block
    assert processes.birth(side.pid) > 0
    side.stop()
    assert processes.birth(side.pid) == 0
    used = children_seconds() - before  # as the system says it of a child that has ended
    assert used / 2 < counted < used + 0.02  # in hundredths, and its end takes some


def children_seconds() -> float:
    """CPU time of this process' children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_side_that_fails_says_why(side_modules: Any) -> None:
    driving = side_modules("sides.driving")
    with (
        driving.running({"broken": driving.Side("loops", "autograd", "--data", "/nowhere")}) as sides,
        pytest.raises(driving.SideFailedError, match=r"(?s)loops autograd .* ended.*nowhere"),
    ):
        sides["broken"].run(1)


def test_a_tree_holds_the_children_and_their_children(side_modules: Any) -> None:
    processes = side_modules("sides.processes")
    inner = "import time; time.sleep(60)"
    outer = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {inner!r}]).pid, flush=True); {inner}"
    )
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        held = processes.tree(process.pid)
        memory, _ = processes.memory_bytes(grandchild)
        for pid in held:
            subprocess.run(["kill", str(pid)], check=True)
    assert held == {process.pid, grandchild}
    assert memory > 1e6


def test_a_line_without_noise_has_its_slope_and_no_error(side_modules: Any) -> None:
    memory = side_modules("memory")
    slope, error = memory.slope([1.0, 2.0, 3.0, 4.0], [5.0, 7.0, 9.0, 11.0])
    assert slope == pytest.approx(2)
    assert error == pytest.approx(0, abs=1e-9)
    _, noisy = memory.slope([1.0, 2.0, 3.0, 4.0], [5.0, 8.0, 8.0, 11.0])
    assert noisy > 0.1


def test_the_model_of_a_round_has_every_piece_once(side_modules: Any) -> None:
    scaling, pieces = side_modules("scaling"), side_modules("sides.pieces")
    line = pieces.Line
    costs = pieces.Pieces(put=line(1.0, 0.0), call=10.0, reply=line(0.0, 0.0), take=line(100.0, 0.0), client=7.0)
    here = scaling.Cluster(workers=3, machines=0, rate=0.5, network=scaling.MODEL)
    assert scaling.round_seconds(costs, here, clients=6) == pytest.approx(1 + 3 * 10 + 6 / (3 * 0.5) + 3 * 100 + 6 * 7)
    away = scaling.Cluster(workers=3, machines=2, rate=0.5, network=scaling.MODEL)  # a model a second
    assert scaling.round_seconds(costs, away, clients=6) == pytest.approx(1 + 3 * 10 + 2 + 4 + 3 * 101 + 6 * 7)


@pytest.mark.slow
def test_a_synchronous_round_is_held_against_a_step_by_hand() -> None:
    (seen,) = found("synchronous", "--recipes", "erm").values()
    assert 0 < seen["seconds batching"] < seen["seconds without"]


@pytest.mark.slow
def test_memory_is_told_by_the_number_of_examples() -> None:
    sizes = found("pieces")
    assert all(one["peak"] > 0 for one in sizes.values())


@pytest.fixture
def stage(side_modules: Any, tmp_path: Path) -> Any:
    """A section of the GPU benchmark on the processor."""
    made = side_modules("card.stage")
    report = made.Report(tmp_path / "gpu.json")
    return made.Stage("tried", torch.device("cpu"), True, time.monotonic() + 60, report)


def test_a_round_is_the_hand_written_loop_s_step(side_modules: Any) -> None:
    apart = side_modules("card.agreement").against_hand(torch.device("cpu"), torch.float64)
    assert {name.partition(":")[0] for name in apart} == set(side_modules("sides.by_hand").BY_HAND)
    assert max(float(value.abs().max()) for value in apart.values()) < 1e-12


def test_a_card_that_differs_is_told(side_modules: Any, stage: Any) -> None:
    agreement, answers = side_modules("card.agreement"), iter([1.0, 1.0 + 2**-20, 1.0, 1.0])
    one = lambda *_: {"sum": torch.tensor([next(answers)]).double()}  # noqa: E731
    assert agreement.told(stage, "rounding", one, torch.float64) == ["rounding: sum differs by 9.54e-07"]
    assert agreement.told(stage, "rounding", one, torch.float64) == []
    assert agreement.distance(torch.tensor([float("nan")]), torch.ones(1)) == float("inf")


def test_many_small_clients_are_timed_together_and_one_by_one(side_modules: Any, stage: Any) -> None:
    side_modules("card.cohorts").compare(stage)
    told = json.loads(stage.report.file.read_text())["found"]["tried"]
    assert set(told) == {f"{count} clients, {how}" for count in (4, 8) for how in ("together", "one by one")}
    assert all(one["clients/s"] > 0 for one in told.values())


def test_a_section_whose_time_is_over_says_what_it_left_out(side_modules: Any, stage: Any) -> None:
    stage.until = time.monotonic()
    side_modules("card.cohorts").compare(stage)
    told = json.loads(stage.report.file.read_text())
    assert len(told["left_out"]) == 4
    assert told["left_out"][0] == "tried: 4 clients, together: the section's time was over"


def test_images_of_files_are_decoded_ahead_of_a_step(side_modules: Any, tmp_path: Path) -> None:
    decoding = side_modules("card.decoding")
    files = decoding.written(tmp_path, 8, 32)
    with decoding.pool("threads", 2) as executor:
        found = decoding.decoded(executor, decoding.Square(16, 3), files[:5])()
    assert found.shape == (5, 3, 16, 16)
    assert found.float().std() > 1


def test_a_round_over_messages_is_the_plain_one_s(side_modules: Any, stage: Any) -> None:
    rounds, agreement = side_modules("sides.rounds"), side_modules("card.agreement")
    cpu = torch.device("cpu")
    _, model = next(agreement.networks_of(cpu, torch.float32))
    made = lambda: next(agreement.networks_of(cpu, torch.float32))[1]  # noqa: E731
    training = rounds.synchronous(16, 1e-3)
    plain = rounds.plain(model, agreement.domains(cpu, torch.float32), "hgp", training, together=True)
    over = rounds.through_engine(made, agreement.domains(cpu, torch.float32), "hgp", training, together=True)
    times = stage.pairs({"plain": plain, "messages": over}, 1, 3)
    assert {name: len(one) for name, one in times.items()} == {"plain": 3, "messages": 3}


def test_a_diagnosis_beside_bare_products() -> None:
    told = found("diagnosis")
    assert {one["what"] for one in told["rates"]} == {"products", "heads"}
    assert told["together"]["seconds"] > 0


@pytest.mark.slow
def test_kinds_of_shift_are_held_against_what_is_known() -> None:
    (one,) = found("shift")
    assert abs(one["diversity"] - one["known"][0]) <= 0.02
