"""On a GPU: the inline engine's runs give a processor's numbers, and what is only there where a card is."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fedha.batching.chunk import budget
from fedha.cohort import Member
from fedha.config import TrainingConfig, parse
from fedha.devices import check_device, to_device, to_host
from fedha.engine.machine import gpus
from fedha.errors import FedhaError
from fedha.exchange import Reply, Task
from fedha.federation import Server
from fedha.models import SplitModel
from fedha.models.random_layers import Draw, DrawSource, drawing
from fedha.models.split import MixedPrecision
from fedha.pieces import budget_bytes
from fedha.recipes import RECIPES
from fedha.run import execute
from fedha.runs.listener import Silent

CUDA = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]
LOCAL = {"mode": "local", "rounds": 2, "local": {"epochs": 1, "batch_size": 8, "learning_rate": 0.05}}
STEPS = {"rounds": 3, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.05}
WHOLE = {"rounds": 3, "optimizer": "sgd", "learning_rate": 0.05}
MLP, CNN = {"name": "mlp", "hidden": [9]}, {"name": "cnn", "hidden": [4, 6]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draws = tmp_path_factory.mktemp("data"), numpy.random.default_rng(0)
    for place, name in enumerate(("a", "b", "c", "t")):
        inputs = draws.normal(place / 2, 1, (24, 1, 8, 8)).astype(numpy.float32)
        numpy.savez(folder / f"{name}.npz", inputs=inputs, labels=draws.integers(0, 3, 24))
    return folder


def trained(folder: Path, data: Path, device: str, **sections: Any) -> dict[str, Tensor]:
    """The model after a run; in float64, unless the sections say otherwise."""
    engine = {"name": "inline", "device": device, **sections.pop("engine", {})}
    model = {"precision": "float64", **sections.pop("model", MLP)}
    source = {"name": "arrays", "root": str(data), "target": "t"}
    given = {"name": "card", "data": source, "model": model, "engine": engine, "evaluation": {"every": 1}}
    execute(parse({"recipe": "erm", "training": STEPS, **given, **sections}), folder, Silent())
    return load_file(folder / "model.safetensors")


CASES: dict[str, dict[str, Any]] = {
    **{recipe: {"recipe": recipe} for recipe in ("erm", "hgp", "exact_diagonal", "hutchinson", "coral", "fishr")},
    "together": {"recipe": "hgp", "engine": {"batching": True}},
    "in pieces": {"recipe": "exact_diagonal", "training": {**STEPS, "chunk": 3}},
    "local steps": {"recipe": "hgp", "training": LOCAL},
    "local steps together": {"recipe": "exact_diagonal", "training": LOCAL, "engine": {"batching": True}},
    "a network of convolutions": {"model": CNN, "recipe": "hgp"},
    "the same together": {"model": CNN, "recipe": "hgp", "engine": {"batching": True}},
    "an own head": {"model": {**MLP, "head_hidden": [5]}, "recipe": "hgp"},
    "adam": {"training": {**STEPS, "optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.01}},
    "one exchange a round": {"recipe": "hgp", "federation": {"schedule": "piggyback"}},
    "single examples protected": {
        "training": WHOLE,
        "privacy": {"protect": "examples", "clip": 1.0, "noise_multiplier": 0.5},
    },
    "clients protected": {
        "training": {**WHOLE, "averaging": "clients"},
        "privacy": {"protect": "clients", "clip": 1.0, "noise_multiplier": 0.5},
    },
    "secure sums": {"privacy": {"secure_aggregation": True}},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_has_a_processor_s_numbers(case: str, data: Path, tmp_path: Path) -> None:
    if "protect" in CASES[case].get("privacy", {}):
        pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')
    card, processor = (
        trained(tmp_path / str(place), data, one, **CASES[case]) for place, one in enumerate((CUDA, "cpu"))
    )
    assert card.keys() == processor.keys()
    for name, value in processor.items():
        torch.testing.assert_close(card[name], value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("together", [True, False])
def test_a_run_is_repeated_to_the_bit(together: bool, data: Path, tmp_path: Path) -> None:
    runs = [trained(tmp_path / str(one), data, CUDA, recipe="hgp", engine={"batching": together}) for one in range(2)]
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


def test_mixed_precision_is_near_float32_and_not_the_same(data: Path, tmp_path: Path) -> None:
    kinds = {one: {**MLP, "precision": one} for one in ("mixed", "float32")}
    mixed, full = (trained(tmp_path / one, data, CUDA, model=model) for one, model in kinds.items())
    for (_, rounded), value in zip(mixed.items(), full.values(), strict=True):
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, value, rtol=0, atol=0.05)
    assert any(not torch.equal(*one) for one in zip(mixed.values(), full.values(), strict=True))


def test_an_update_that_is_not_finite_moves_nothing() -> None:
    one, numbers = torch.ones(2, 2, device=CUDA), {"loss": 1.0, "risk": 1.0, "accuracy": 1.0}
    server = Server(Task(RECIPES["erm"], TrainingConfig(), 0), {"head.weight": one})
    server.gather(1, [Member(0, "a", 4), Member(1, "b", 4)])
    told = [{"head.weight": one * torch.nan}, {}]
    replies = [Reply("c", "d", place, 4, tensors, numbers, weighed=True) for place, tensors in enumerate(told)]
    with pytest.raises(FedhaError, match=r"update in round 1 does not count: its head\.weight has numbers"):
        server.step(1, replies)
    assert torch.equal(server.parameters["head.weight"], one)


def test_auto_takes_the_card(data: Path, tmp_path: Path) -> None:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    trained(tmp_path / "run", data, "auto")
    assert torch.cuda.max_memory_allocated() > before


def test_tensors_come_back_as_they_went() -> None:
    there = to_device(
        {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor([], dtype=torch.int64)}, torch.device(CUDA)
    )
    assert all(value.is_cuda for value in there.values())
    back = to_host(there)
    assert torch.equal(back["a"], torch.arange(6.0).view(2, 3).T)
    assert back["a"].is_contiguous()
    assert back["b"].dtype == torch.int64


def test_a_chunk_leaves_room_on_the_card() -> None:
    device = torch.device(CUDA)
    free, _ = torch.cuda.mem_get_info(device)
    allowed = budget(device)
    assert 0 < allowed <= free
    held = torch.empty(2**30, dtype=torch.uint8, device=device)
    assert budget(device) < allowed
    del held


def test_a_piece_takes_its_part_of_the_card_not_a_processor_s() -> None:
    device = torch.device(CUDA)
    total = torch.cuda.get_device_properties(device).total_memory
    assert total / 8 < budget_bytes(device) <= total / 4
    torch.cuda.set_per_process_memory_fraction(0.5)
    try:
        assert budget_bytes(device) <= total / 8
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_what_a_network_draws_there_is_repeated_and_disturbs_nobody() -> None:
    device, drop = torch.device(CUDA), nn.Dropout(0.5)
    before, ones = torch.cuda.get_rng_state(device), torch.ones(64, 1, device=CUDA)
    seen, draws = [], (Draw(0),)
    for key in ((0, "chance", 1), (0, "chance", 1), (0, "chance", 2)):
        with drawing(DrawSource(key, draws), device):
            seen.append(drop(ones))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert torch.equal(torch.cuda.get_rng_state(device), before)


def test_features_in_bfloat16_reach_the_head_in_float32() -> None:
    full = nn.Sequential(nn.Linear(32, 16), nn.ReLU()).to(CUDA)
    inputs = torch.randn(8, 32, device=CUDA)
    model = SplitModel(MixedPrecision(full), nn.Linear(16, 3).to(CUDA))
    features = model.featurizer(inputs)
    assert features.dtype == torch.float32
    assert not torch.equal(features, full(inputs))
    torch.testing.assert_close(features, full(inputs), rtol=0.02, atol=0.02)


def test_a_full_card_is_a_sentence(data: Path, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**21) / total)
    try:
        with pytest.raises(FedhaError, match="out of memory"):
            trained(tmp_path / "run", data, CUDA, model={"name": "mlp", "hidden": [2048, 2048]})
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_card_is_seen_and_one_that_is_not_there_is_refused() -> None:
    assert len(gpus()) == torch.cuda.device_count()
    check_device("client_app", "cuda:0")
    with pytest.raises(FedhaError, match="GPUs here"):
        check_device("client_app", f"cuda:{torch.cuda.device_count()}")
