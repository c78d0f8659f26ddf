"""Networks that draw at random are repeated: over pieces and passes, on every grid, after a resume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn
from torch.testing import assert_close

import fedha
from fedha.batching.limits import refusal
from fedha.client import Client
from fedha.config import LocalConfig, PrivacyConfig, TrainingConfig
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.exchange import Request, Task
from fedha.federation import Server, run_round
from fedha.flower import HessianAlignment, client_app
from fedha.models import SplitModel
from fedha.models.random_layers import random_parts
from fedha.models.state import state_of
from fedha.pieces import Batch
from fedha.recipes import RECIPES
from fedha.run import execute
from fedha.runs.listener import Silent
from fedha.training import answer_measure, answer_train
from tests import models_of_others as others
from tests.test_resume import Killed
from tests.test_state import domain, own, seeded

KINDS = [*others.BODIES]
DRAWING = [kind for kind in KINDS if kind != "words"]
LOCAL = TrainingConfig(mode="local", local=LocalConfig(steps=3, batch_size=8))
MODES = {"synchronous": TrainingConfig(), "local": LOCAL}


def shaped(kind: str) -> Callable[..., SplitModel]:
    return seeded(others.shaped, kind=kind)


def request(model: SplitModel, recipe: str, training: TrainingConfig, **more: Any) -> Request:
    return Request(Task(RECIPES[recipe], training, 0), 1, state_of(model).trained, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_who_draws_is_found_by_trying(kind: str) -> None:
    model, form = shaped(kind)(), domain(0).train.form
    before = torch.get_rng_state()
    assert any(random_parts(model, form)) == (kind in DRAWING)
    assert not any(random_parts(model, form, evaluation=True))
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_grid_gives_the_bits_of_the_plain_loop_whatever_was_drawn_before(kind: str, mode: str) -> None:
    network = shaped(kind)
    server = Server.holding(Task(RECIPES["hgp"], MODES[mode], 0), state_of(network()))
    clients = [Client(place, domain(place), network()) for place in range(3)]
    torch.manual_seed(1)
    for number in (1, 2):
        run_round(server, clients, number)
    torch.manual_seed(2)
    strategy = HessianAlignment("hgp", MODES[mode], clients=3)
    found = strategy.start(InlineGrid(client_app(network, own), 3), ArrayRecord(network().state_dict()), 2).arrays
    assert_close(found.to_torch_state_dict(), server.state, rtol=0, atol=0)


def drawn(kind: str, round: int = 1, client_id: int = 0, seed: int = 0, step: int = 1) -> list[Tensor]:
    """Features of the two pieces of a batch, which are of the same examples; taken twice."""
    model, rows = shaped(kind)(), torch.arange(30).repeat(2)
    parameters = {name: value.clone().requires_grad_() for name, value in state_of(model).trained.items()}
    batch = Batch(model, parameters, domain(0).train, rows, 30, True, draw_key=(seed, "chance", round, client_id, step))
    first, second = ([seen.features.detach() for seen in batch.pieces()] for _ in range(2))
    assert_close(first, second, rtol=0, atol=0)
    return first


@pytest.mark.parametrize("kind", DRAWING)
def test_both_passes_of_a_batch_in_pieces_see_the_same_draws_and_every_piece_and_step_others(kind: str) -> None:
    usual, other = drawn(kind)
    assert not torch.equal(usual, other)
    for change in ({"round": 2}, {"client_id": 1}, {"seed": 1}, {"step": 2}):
        assert not torch.equal(drawn(kind, **change)[0], usual)


@pytest.mark.parametrize("recipe", ["hgp", "fishr", "coral", "irm"])
def test_a_gradient_in_pieces_is_that_of_the_network_with_those_draws(recipe: str) -> None:
    """The pull of the first pass and the gradient of the second belong to one network: a finite difference agrees."""
    network, training = shaped("dropout"), TrainingConfig(chunk=7)
    model = network().double()
    given = domain(0)
    part = given.train.__class__(given.train.inputs.double(), given.train.labels)
    given = given.__class__("d", part, part)

    def reply(parameters: dict[str, Tensor]) -> Any:
        client, asked = Client(0, given, model), request(model, recipe, training, averaging_weight=0.5)
        asked = Request(asked.task, 1, parameters, averaging_weight=0.5)
        references = {}
        for names in RECIPES[recipe].measurements():
            measured = answer_measure(client, Request(asked.task, 1, parameters, references, names, 0.5))
            references |= {name: torch.zeros_like(value) for name, value in measured.tensors.items()}
        return answer_train(client, Request(asked.task, 1, parameters, references, averaging_weight=0.5))

    start = state_of(model).trained
    gradient = reply(start).tensors
    assert_close(reply(start).tensors, gradient, rtol=0, atol=0)
    draws = torch.Generator().manual_seed(3)
    direction = {name: torch.randn(value.shape, generator=draws, dtype=value.dtype) for name, value in start.items()}
    losses = [
        reply({name: value + sign * 1e-6 * direction[name] for name, value in start.items()}).metrics["loss"]
        for sign in (1, -1)
    ]
    slope = float(sum((gradient[name] * direction[name]).sum() for name in start))
    assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)


def dropping_head(shape: tuple[int, ...], classes: int) -> SplitModel:
    return SplitModel(nn.Flatten(), nn.Sequential(nn.Dropout(0.4), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, classes)))


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_a_head_that_draws_is_one_head_in_all_that_is_measured_or_refused(recipe: str) -> None:
    network = seeded(dropping_head)
    strategy = HessianAlignment(recipe, clients=3)
    begun = ArrayRecord(network().state_dict())

    def found(strategy: HessianAlignment) -> dict[str, Tensor]:
        grid = InlineGrid(client_app(network, own), 3)
        return strategy.start(grid, begun, 2).arrays.to_torch_state_dict()

    strategy = HessianAlignment(recipe, clients=3)
    first = ("erm", "hgp", "coral", "irm", "vrex", "groupdro", "iga", "fish", "fediir")
    if recipe not in (*first, "mmd", "rdm", "afl", "mixup", "sam"):
        said = "gives points" if recipe == "fedsr" else r"calls the head once .* the head draws at random"
        with pytest.raises(FedhaError, match=said):
            found(strategy)
        assert not strategy.last_round
        return
    assert_close(found(strategy), found(HessianAlignment(recipe, clients=3)), rtol=0, atol=0)


def test_private_steps_refuse_chance_before_the_first_round() -> None:
    network = shaped("attention")
    privacy = PrivacyConfig(protect="examples", noise_multiplier=1.0)
    strategy = HessianAlignment("erm", clients=3, privacy=privacy)
    with pytest.raises(FedhaError, match="failed to introduce itself"):
        strategy.start(InlineGrid(client_app(network, own), 3), ArrayRecord(network().state_dict()), 1)


@pytest.mark.parametrize("kind", DRAWING)
def test_together_they_are_answered_one_by_one(kind: str) -> None:
    model = shaped(kind)()
    clients = [Client(place, domain(place), model) for place in range(3)]
    said = refusal(clients, request(model, "erm", TrainingConfig(), averaging_weight=0.3))
    assert said is not None
    assert "random" in said


def test_what_is_evaluated_draws_nothing() -> None:
    network = shaped("dropout")
    strategy = HessianAlignment("erm", LOCAL, clients=3)
    found = strategy.start(InlineGrid(client_app(network, own), 3), ArrayRecord(network().state_dict()), 1).arrays
    model = network()
    model.load_state_dict(found.to_torch_state_dict())
    model.eval()
    part = domain(1).held_out
    right = float((model(part.inputs).argmax(1) == part.labels).double().mean())
    assert strategy.last_evaluation["held_out"]["d1"]["accuracy"] == pytest.approx(right)


class Stubborn(nn.Module):
    """Draws in evaluation too, as who forgets ``self.training``."""

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.dropout(inputs.flatten(1), 0.4)


def test_a_network_that_draws_in_evaluation_too_is_repeated() -> None:
    network = seeded(lambda shape, classes: SplitModel(Stubborn(), nn.Linear(8, classes)))
    results = []
    for start in (1, 2):
        torch.manual_seed(start)
        strategy = HessianAlignment("hgp", clients=3)
        strategy.start(InlineGrid(client_app(network, own), 3), ArrayRecord(network().state_dict()), 2)
        results.append((strategy.begun().state, strategy.last_evaluation))
    assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["lstm", "drop path", "local batch norm"])
def test_a_run_that_was_killed_and_resumed_has_the_same_bits(kind: str, tmp_path: Path) -> None:
    models = {"local batch norm": {"name": "tests.models_of_others:normed", "batch_norm": "local"}}
    model = models.get(kind, {"name": "tests.models_of_others:shaped", "kind": kind})
    config = fedha.config.parse(
        {
            "model": model,
            "recipe": "coral",
            "training": {"rounds": 4, "mode": "local", "local": {"steps": 2, "batch_size": 50}},
            "engine": {"name": "inline"},
            "data": {"clients_per_domain": 1},
            "checkpoint": {"every": 2},
        }
    )
    execute(config, tmp_path / "straight", Silent())
    with pytest.raises(KeyboardInterrupt):
        execute(config, tmp_path / "killed", Killed(3))
    execute(config, tmp_path / "killed", Silent(), resume=True)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "killed"))
    assert one == other
