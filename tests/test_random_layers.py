"""Networks that draw at random are repeated: over pieces and passes, on every grid, after a resume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

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
from fedha.models.random_layers import BLOCK, Draw, DrawSource, drawing, random_parts
from fedha.models.state import state_of
from fedha.pieces import Batch
from fedha.recipes import RECIPES
from fedha.training import answer_measure, answer_train
from tests import models_of_others as others
from tests.killed_runs import assert_resumes
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


def leaves(model: SplitModel) -> dict[str, Tensor]:
    return {name: value.clone().requires_grad_() for name, value in state_of(model).trained.items()}


def drawn(kind: str, round: int = 1, client_id: int = 0, seed: int = 0, step: int = 1) -> list[Tensor]:
    """Features of the two pieces of a batch, which are of the same examples; taken twice."""
    model, rows = shaped(kind)(), torch.arange(30).repeat(2)
    batch = Batch(
        model, leaves(model), domain(0).train, rows, 30, True, draw_key=(seed, "chance", round, client_id, step)
    )
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


class Checkpointed(nn.Module):
    """Computes its layers again on the way back, with the draws that they had."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, inputs: Tensor) -> Tensor:
        return checkpoint(self.body, inputs, use_reentrant=False)


class Noisy(nn.Module):
    """Draws in all the ways that a layer may: by each number, by each example, and once for all."""

    def forward(self, inputs: Tensor) -> Tensor:
        wide = inputs.flatten(1)
        noise = (
            torch.randn_like(wide) + torch.rand(len(wide), 1, dtype=wide.dtype) + torch.randn(wide.shape[1]).to(wide)
        )
        kept = torch.bernoulli(torch.full_like(wide, 0.7)) * torch.empty_like(wide).uniform_(0.5, 1.5)
        return functional.dropout(kept, 0.2) * (1 + 0.1 * noise) if torch.rand(()) < 2 else wide


def _body(kind: str, rows: int, wide: int) -> tuple[nn.Module, int]:
    if kind in others.BODIES:
        return others.BODIES[kind](rows, wide)
    if kind == "noisy":
        return nn.Sequential(Noisy(), nn.Linear(rows * wide, 6)), 6
    if kind == "wide":  # a row has more numbers than are drawn at once
        many = BLOCK + 3
        return nn.Sequential(nn.Flatten(), nn.Linear(rows * wide, many), nn.Dropout(0.5), nn.Linear(many, 6)), 6
    body, width = others.BODIES["dropout"](rows, wide)
    return Checkpointed(body), width


def drawing_network(shape: tuple[int, ...], classes: int, kind: str) -> SplitModel:
    body, width = _body(kind, *shape)
    return SplitModel(body, nn.Linear(width, classes))


def trained_in(chunk: int | None, network: Callable[..., SplitModel], recipe: str, mode: str) -> Any:
    """A client's answer, in pieces of so many rows."""
    model, given = network().double(), domain(0)
    part = given.train.__class__(given.train.inputs.double(), given.train.labels)
    client = Client(0, given.__class__("d", part, part), model)
    training = MODES[mode].model_copy(update={"chunk": chunk})
    references = {}
    for names in RECIPES[recipe].measurements():
        asked = request(model, recipe, training, averaging_weight=0.5, references=references, measure=names)
        references |= answer_measure(client, asked).tensors
    moved = {name: 0.9 * value for name, value in references.items()}
    return answer_train(client, request(model, recipe, training, averaging_weight=0.5, references=moved))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [*DRAWING, "noisy", "wide"])
def test_what_is_drawn_does_not_depend_on_the_chunk(kind: str, mode: str) -> None:
    network = seeded(drawing_network, kind=kind)
    whole = trained_in(None, network, "coral", mode)
    for chunk in (7, 1):
        pieces = trained_in(chunk, network, "coral", mode)
        assert_close(pieces.tensors, whole.tensors, rtol=1e-7, atol=1e-9)
        assert pieces.metrics == pytest.approx(whole.metrics, rel=1e-9)


@pytest.mark.parametrize("recipe", ["erm", "hgp", "irm", "vrex", "fish", "fediir"])
def test_nor_does_what_a_head_draws(recipe: str) -> None:
    whole, pieces = (trained_in(chunk, seeded(dropping_head), recipe, "synchronous") for chunk in (None, 7))
    assert_close(pieces.tensors, whole.tensors, rtol=1e-9, atol=1e-11)


def test_rows_have_draws_of_their_own_and_a_share_of_them_is_dropped() -> None:
    body = nn.Dropout(0.25)
    with drawing(DrawSource((0, "a"), (Draw(0),)), torch.device("cpu")):
        seen = body(torch.ones(400, 100))
    assert float((seen == 0).double().mean()) == pytest.approx(0.25, abs=0.01)
    assert len({tuple(row.tolist()) for row in seen}) == 400
    with drawing(DrawSource((0, "a"), (Draw(0),), first=150), torch.device("cpu")):
        assert torch.equal(body(torch.ones(33, 100)), seen[150:183])


def test_a_layer_that_is_computed_again_on_the_way_back_keeps_torchs_draws() -> None:
    form, inputs = domain(0).train.form, domain(0).train.inputs
    model, chance = seeded(drawing_network, kind="checkpointed")(), DrawSource((0, "a"), (None,))
    assert random_parts(model, form).featurizer == (None,)
    assert random_parts(SplitModel(model.featurizer.body, model.head), form).featurizer == (Draw(0),)
    slopes = []
    for body in (model.featurizer, model.featurizer.body):
        with drawing(chance, torch.device("cpu")):
            features = body(inputs)
        slopes.append(torch.autograd.grad(features.square().sum(), list(body.parameters())))
    assert_close(slopes[0], slopes[1], rtol=0, atol=0)


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
    assert_resumes(config, tmp_path, 3)
