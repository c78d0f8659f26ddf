"""What of a network never moves stays and is not sent; what moves beside its parameters moves as it should."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context
from torch import Tensor, nn
from torch.testing import assert_close

import fedha
from fedha.client import Client
from fedha.config import LocalConfig, PrivacyConfig, TrainingConfig, parse
from fedha.data.domain import Domain, Examples
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.exchange import Task
from fedha.federation import Server, run_round
from fedha.flower import HessianAlignment, client_app
from fedha.flower.client import Clients, app_for, seeded_site
from fedha.flower.wire import count_array_bytes
from fedha.models import SplitModel
from fedha.models.state import state_of
from fedha.recipes import RECIPES
from fedha.run import execute
from fedha.runs.listener import Silent
from tests import models_of_others as others
from tests.killed_runs import Killed

SHAPE = (4, 2)
SYNCHRONOUS = TrainingConfig(weight_decay=0.1)
LOCAL = TrainingConfig(mode="local", weight_decay=0.1, local=LocalConfig(steps=3, batch_size=16))
EXAMPLES = PrivacyConfig(protect="examples", noise_multiplier=1.0, evaluation_noise=1.0)
WAYS: dict[str, dict[str, Any]] = {
    "synchronous": {"training": SYNCHRONOUS},
    "local": {"training": LOCAL},
    "examples": {"training": SYNCHRONOUS, "privacy": EXAMPLES},
    "clients": {
        "training": TrainingConfig(averaging="clients"),
        "privacy": PrivacyConfig(protect="clients", noise_multiplier=1.0),
    },
}


def domain(place: int) -> Domain:
    draws = torch.Generator().manual_seed(place)
    inputs = (1 + place) * torch.randn(40, *SHAPE, generator=draws) + place
    labels = (inputs[:, 0, 0] > place).long()
    return Domain(f"d{place}", Examples(inputs[:30], labels[:30]), Examples(inputs[30:], labels[30:]))


def own(context: Context) -> Domain:
    return domain(int(context.node_config["partition-id"]))


def seeded(make: Callable[..., SplitModel], **options: Any) -> Callable[..., SplitModel]:
    def network(_: Any = None) -> SplitModel:
        torch.manual_seed(0)
        return make(SHAPE, 2, **options)

    return network


frozen = seeded(others.normed, freeze=True)


class Listening(InlineGrid):
    """Counts the bytes of arrays that the clients are sent."""

    bytes = 0

    def push_messages(self, messages: Any) -> Any:
        listed = list(messages)
        self.bytes += sum(count_array_bytes(one.content) for one in listed)
        return super().push_messages(listed)


def start(
    network: Callable[..., SplitModel],
    make: Callable[..., SplitModel] | None = None,
    recipe: str = "exact_diagonal",
    rounds: int = 2,
    arrays: Mapping[str, Tensor] | None = None,
    **way: Any,
) -> tuple[dict[str, Tensor], HessianAlignment, list[str], Listening]:
    """The state after some rounds of Flower's own loop, and what was told on the way."""
    strategy, told = HessianAlignment(recipe, clients=3, **way), []
    strategy.talk.tell = told.append
    grid = Listening(client_app(make or network, own, site=seeded_site), 3)
    initial = ArrayRecord(dict(arrays or network().state_dict()))
    found = strategy.start(grid, initial, num_rounds=rounds).arrays.to_torch_state_dict()
    return found, strategy, told, grid


# --- what is frozen ---


@pytest.mark.parametrize("way", WAYS)
def test_what_is_frozen_and_buffers_stay_and_the_state_loads_strictly(way: str) -> None:
    found, *_ = start(frozen, **WAYS[way])
    fresh = frozen()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    fresh.load_state_dict(found)
    moved = {name for name, value in before.items() if not torch.equal(found[name], value)}
    assert moved == {"head.weight", "head.bias"}
    assert all(found[name].dtype == value.dtype for name, value in before.items())


@pytest.mark.parametrize("way", ["synchronous", "local"])
def test_a_frozen_backbone_is_the_head_alone_on_its_features(way: str) -> None:
    """Bits, clip, norms and bytes: as if there were no backbone, and the data its features."""
    found, _, told, grid = start(frozen, **WAYS[way])
    body = frozen().featurizer

    def head_alone(_: Any = None) -> SplitModel:
        return SplitModel(nn.Identity(), frozen().head)

    def features(context: Context) -> Domain:
        given = own(context)
        parts = (Examples(body(part.inputs).detach(), part.labels) for part in (given.train, given.held_out))
        return Domain(given.name, *parts)

    other = HessianAlignment("exact_diagonal", clients=3, **WAYS[way])
    alone = Listening(client_app(head_alone, features, site=seeded_site), 3)
    expected = other.start(alone, ArrayRecord(head_alone().state_dict()), num_rounds=2).arrays.to_torch_state_dict()
    assert_close({name: found[name] for name in expected}, expected, rtol=1e-5, atol=1e-6)
    assert grid.bytes == alone.bytes
    assert told == []


def test_private_gradients_of_a_frozen_backbone_are_those_of_the_head_alone() -> None:
    from fedha.privacy.dpsgd import private_gradient
    from fedha.privacy.mechanism import Mechanism
    from fedha.privacy.noise import seeded as noise
    from fedha.privacy.surrogate import risk_loss

    for make in (frozen, seeded(linear_body)):
        model, part = make(), domain(0).train
        alone = SplitModel(nn.Identity(), model.head)
        with torch.no_grad():
            features = model.featurizer(part.inputs)
        mechanism = Mechanism(0.1, 1.0, 30)
        found = private_gradient(
            risk_loss(model), state_of(model).trained, part.inputs, part.labels, mechanism, noise(0)
        )
        expected = private_gradient(
            risk_loss(alone), state_of(alone).trained, features, part.labels, mechanism, noise(0)
        )
        assert_close(found, expected, rtol=1e-5, atol=1e-6)


def linear_body(shape: tuple[int, ...], classes: int) -> SplitModel:
    """Linear layers alone, the first frozen: example gradients come from activations."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.Tanh()).requires_grad_(False)
    return SplitModel(body, nn.Linear(5, classes))


@pytest.mark.parametrize("protect", ["nothing", "examples"])
def test_secure_sums_of_a_frozen_backbone_are_those_in_the_clear(protect: str, tmp_path: Path) -> None:
    config = {
        "privacy": {"protect": protect, **({"noise_multiplier": 1.0} if protect == "examples" else {})},
        "training": {"rounds": 2, "learning_rate": 0.1, "optimizer": "sgd"},
    }
    found = []
    for secure in (False, True):
        privacy = {**config["privacy"], "secure_aggregation": secure}
        result = fedha.simulate(
            [domain(place) for place in range(3)],
            frozen(),
            "iga",
            training=config["training"],
            privacy=privacy,
            out=tmp_path / str(secure),
        )
        found.append(result.model.state_dict())
    assert_close(*found, rtol=0, atol=1e-3)
    start_of = frozen().state_dict()
    assert all(torch.equal(found[1][name], start_of[name]) for name in start_of if not name.startswith("head"))


@pytest.mark.parametrize("batch_norm", ["averaged", "local"])
def test_secure_sums_of_running_statistics_are_those_in_the_clear(batch_norm: str) -> None:
    training = {"rounds": 2, "mode": "local", "local": {"steps": 3, "batch_size": 8, "learning_rate": 0.02}}
    domains, network = [domain(place) for place in range(3)], seeded(others.normed, batch_norm=batch_norm)
    found = [
        fedha.simulate(domains, network, "erm", training=training, privacy={"secure_aggregation": secure})
        for secure in (False, True)
    ]
    assert_close(*(one.model.state_dict() for one in found), rtol=0, atol=1e-5)


def test_a_client_with_other_constants_takes_the_servers_and_is_told_of() -> None:
    made = []

    def drifting(_: Any = None) -> SplitModel:
        model = frozen()
        made.append(model)
        with torch.no_grad():
            model.featurizer[2].running_mean.add_(1.0)
            model.featurizer[1].weight.mul_(2.0)
        return model

    usual, *_ = start(frozen)
    found, _, told, grid = start(frozen, drifting)
    assert_close(found, usual, rtol=0, atol=0)
    assert len(told) == 3
    assert all("'featurizer.1.weight', 'featurizer.2.running_mean', which are never trained" in text for text in told)
    constants = state_of(frozen()).constants
    assert_close(state_of(made[0]).constants, constants, rtol=0, atol=0)
    _, _, _, alike = start(frozen)
    size = sum(value.nbytes for value in constants.values())
    assert grid.bytes > alike.bytes + size  # once for this process, or for each that asked before it came
    assert grid.bytes < alike.bytes + 4 * size + 10_000


def test_clients_that_freeze_other_parts_are_refused_by_name() -> None:
    first, second = client_app(frozen, own), client_app(seeded(others.normed), own)

    def either(message: Any, context: Context) -> Any:
        return (second if int(context.node_config["partition-id"]) else first)(message, context)

    with pytest.raises(FedhaError, match=r"client 1 \(domain 'd1'\) has 'featurizer.1.weight' as trained .* frozen"):
        HessianAlignment("erm", clients=2).start(InlineGrid(either, 2), ArrayRecord(frozen().state_dict()), 1)


def test_parameters_alone_may_be_started_from_and_buffers_are_the_clients() -> None:
    arrays = {name: value.detach() for name, value in frozen().named_parameters()}
    usual, *_ = start(frozen)
    found, *_ = start(frozen, arrays=arrays)
    assert found.keys() == arrays.keys()
    assert_close(found, {name: usual[name] for name in arrays}, rtol=0, atol=0)


def test_tied_weights_are_one_and_come_back_as_two_names() -> None:
    def tied(_: Any = None) -> SplitModel:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        body[3].weight = body[1].weight
        return SplitModel(body, nn.Linear(8, 2))

    found, strategy, *_ = start(tied)
    assert "featurizer.3.weight" not in strategy.begun().parameters
    assert torch.equal(found["featurizer.3.weight"], found["featurizer.1.weight"])
    assert not torch.equal(found["featurizer.1.weight"], tied().featurizer[1].weight)
    tied().load_state_dict(found)


def test_a_head_and_a_featurizer_that_share_a_layer_are_refused_by_name() -> None:
    layer = nn.Linear(8, 8)
    with pytest.raises(FedhaError, match=r"share a layer: 'featurizer.0.weight' and 'head.weight' are one tensor"):
        SplitModel(nn.Sequential(layer), layer)
    body, head = nn.Sequential(nn.Embedding(5, 3)), nn.Linear(3, 5)
    head.weight = body[0].weight
    with pytest.raises(FedhaError, match=r"'featurizer.0.weight' and 'head.weight' are one tensor"):
        SplitModel(body, head)


@pytest.mark.parametrize("freeze", [True, False])
def test_synchronous_clients_of_one_process_share_a_pass_with_constants(freeze: bool) -> None:
    """One pass for all three, and to 1e-5 the model of those who are asked one by one."""
    network = seeded(others.normed, freeze=freeze)
    found = {}
    for together in (False, True):
        passes: list[int] = []
        made = Clients(lambda _, passes=passes: counting(network(), passes), own, site=seeded_site)
        grid = InlineGrid(app_for(made), 3, together=made if together else None)
        strategy = HessianAlignment("exact_diagonal", TrainingConfig(optimizer="sgd", learning_rate=0.1), clients=3)
        strategy.start(grid, ArrayRecord(network().state_dict()), 2, evaluate_config=None)
        found[together] = strategy.begun().state
        assert (90 in passes) == together
    assert_close(found[True], found[False], rtol=1e-4, atol=1e-5)


def counting(model: SplitModel, passes: list[int]) -> SplitModel:
    """Writes down how many rows each pass has."""
    model.featurizer.register_forward_pre_hook(lambda module, given: passes.append(len(given[0])))
    return model


# --- batch norm ---


def plainly(network: Callable[..., SplitModel], training: TrainingConfig, rounds: int = 2) -> Server:
    models = [network() for _ in range(3)]
    task = Task(RECIPES["erm"], training, 0)
    server = Server.holding(task, state_of(models[0]))
    clients = [Client(place, domain(place), model) for place, model in enumerate(models)]
    for number in range(1, rounds + 1):
        run_round(server, clients, number)
    return server


def test_frozen_statistics_are_those_it_came_with_and_their_affine_is_trained() -> None:
    network = seeded(others.normed)
    assert not network().train().featurizer[2].training
    found, *_ = start(network, training=LOCAL)
    before = network().state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(found[f"featurizer.2.{name}"], before[f"featurizer.2.{name}"])
    assert not torch.equal(found["featurizer.2.weight"], before["featurizer.2.weight"])


def test_frozen_statistics_of_a_new_layer_are_told_of() -> None:
    def new(shape: tuple[int, ...], classes: int, **more: Any) -> SplitModel:
        return SplitModel(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8)), nn.Linear(8, classes), **more)

    (told,) = start(seeded(new))[2]
    assert "'featurizer.1' are a new layer's, mean 0 and variance 1" in told
    assert start(seeded(new, batch_norm="averaged"))[2] == []
    assert start(seeded(others.normed))[2] == []


def by_hand(network: SplitModel, place: int, steps: int) -> dict[str, Tensor]:
    """Full-batch SGD of one client, as anybody writes it."""
    part, optimizer = domain(place).train, torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(part.inputs), part.labels).backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


FULL = TrainingConfig(mode="local", local=LocalConfig(steps=3, learning_rate=0.1))


def test_averaged_statistics_are_the_mean_of_what_local_steps_made_of_them() -> None:
    network = seeded(others.normed, batch_norm="averaged")
    moved = [by_hand(network(), place, 3) for place in range(3)]
    for found in (plainly(network, FULL, 1).state, start(network, recipe="erm", rounds=1, training=FULL)[0]):
        network().load_state_dict(found)
        for name, value in found.items():
            mean = torch.stack([one[name].double() for one in moved]).mean(0)
            assert_close(value.double(), mean, rtol=1e-5, atol=1e-5)
        assert int(found["featurizer.2.num_batches_tracked"]) == 3


def test_local_statistics_and_affine_stay_with_each_client_and_the_result_has_their_mean() -> None:
    network = seeded(others.normed, batch_norm="local")
    shared, states = network().state_dict(), [network().state_dict() for _ in range(3)]
    for _ in range(2):
        moved = []
        for place in range(3):
            model = network()
            own = {name: value for name, value in states[place].items() if name.startswith("featurizer.2")}
            model.load_state_dict({**shared, **own})
            moved.append(by_hand(model, place, 3))
        states = moved
        means = {name: torch.stack([one[name].double() for one in moved]).mean(0) for name in shared}
        shared = {name: value.to(shared[name].dtype) for name, value in means.items()}
    for found in (plainly(network, FULL).state, start(network, recipe="erm", training=FULL)[0]):
        assert_close(found, shared, rtol=1e-4, atol=1e-5)


def test_one_clients_statistics_do_not_reach_another_that_shares_the_network() -> None:
    network = seeded(others.normed, batch_norm="local")
    made = network()
    found, *_ = start(network, lambda _: made, recipe="erm", training=FULL)
    assert_close(found, start(network, recipe="erm", training=FULL)[0], rtol=0, atol=0)
    assert_close(made.state_dict(), network().state_dict(), rtol=0, atol=0)


def test_synchronous_steps_move_averaged_statistics_once_a_round() -> None:
    network = seeded(others.normed, batch_norm="averaged")
    found, *_ = start(network, recipe="hgp", rounds=3, training=TrainingConfig())
    assert int(found["featurizer.2.num_batches_tracked"]) == 3
    momentum, mean = 0.1, network().featurizer[2].running_mean.clone()
    first, *_ = start(network, recipe="hgp", rounds=1, training=TrainingConfig())
    outputs = [network().featurizer[:2](domain(place).train.inputs).mean(0) for place in range(3)]
    expected = (1 - momentum) * mean + momentum * torch.stack(outputs).mean(0)
    assert_close(first["featurizer.2.running_mean"], expected.detach(), rtol=1e-5, atol=1e-6)


def test_evaluation_uses_running_statistics_and_leaves_modes_alone() -> None:
    network = seeded(others.normed, batch_norm="averaged")
    found, strategy, *_ = start(network, recipe="erm", training=FULL)
    model = network()
    model.load_state_dict(found)
    model.eval()
    part = domain(0).held_out
    right = float((model(part.inputs).argmax(1) == part.labels).double().mean())
    assert strategy.last_evaluation["held_out"]["d0"]["accuracy"] == pytest.approx(right)


REFUSED: dict[str, tuple[Callable[..., SplitModel], dict[str, Any], str]] = {
    "a batch in pieces": (
        seeded(others.normed, batch_norm="averaged"),
        {"training": TrainingConfig(chunk=7)},
        r"layer 'featurizer.2' \(BatchNorm1d\) makes statistics of a batch, .* and 30 examples do not: 7 do",
    ),
    "examples protected": (
        seeded(others.normed, batch_norm="averaged"),
        {"privacy": EXAMPLES},
        r"'averaged' and privacy.protect 'examples', but what layer 'featurizer.2' \(BatchNorm1d\)",
    ),
    "clients protected": (
        seeded(others.normed, batch_norm="local"),
        {"training": FULL, "privacy": WAYS["clients"]["privacy"]},
        r"'local' and privacy.protect 'clients', but what layer 'featurizer.2'",
    ),
    "no steps of their own": (
        seeded(others.normed, batch_norm="local"),
        {"training": TrainingConfig()},
        r"'local', but training.mode is 'synchronous', in which clients take no steps",
    ),
    "nothing to choose for": (
        seeded(lambda shape, classes: SplitModel(nn.Flatten(), nn.Linear(8, 2), batch_norm="averaged")),
        {},
        r"'averaged', but no layer of the network that is in training mode keeps running statistics",
    ),
    "in the head": (
        seeded(
            lambda shape, classes: SplitModel(
                nn.Flatten(), nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 2)), batch_norm="averaged"
            )
        ),
        {},
        r"layer 'head.0' is in the head",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_choice_that_cannot_be_kept_is_refused_by_name(name: str) -> None:
    network, way, sentence = REFUSED[name]
    with pytest.raises(FedhaError, match=sentence):
        start(network, recipe="erm", **way)


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(FedhaError, match=r"batch_norm is 'mean'; take frozen, averaged, local"):
        seeded(others.normed, batch_norm="mean")()


# --- files ---


def test_a_run_goes_on_with_the_constants_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the function makes by then: the checkpoint has them, and the clients are sent them."""
    config = parse(
        {
            "model": {"name": "tests.models_of_others:normed", "freeze": True},
            "training": {"rounds": 4},
            "engine": {"name": "inline"},
            "checkpoint": {"every": 2},
        }
    )
    execute(config, tmp_path / "straight", Silent())
    with pytest.raises(KeyboardInterrupt):
        execute(config, tmp_path / "killed", Killed(3))
    usual = others.normed

    def drifted(input_shape: tuple[int, ...], classes: int, **options: Any) -> SplitModel:
        model = usual(input_shape, classes, **options)
        model.featurizer[2].running_mean.add_(1.0)
        return model

    monkeypatch.setattr(others, "normed", drifted)
    execute(config, tmp_path / "killed", Silent(), resume=True)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "killed"))
    assert one == other


def test_a_finished_runs_model_is_its_whole_state_and_an_earlier_versions_is_read(tmp_path: Path) -> None:
    network = seeded(others.normed, batch_norm="averaged")
    result = fedha.simulate([domain(0), domain(1)], network, "erm", training={"rounds": 2}, out=tmp_path / "run")
    loaded = fedha.load(tmp_path / "run", model=network)
    assert not loaded.training
    assert int(loaded.featurizer[2].num_batches_tracked) == 2
    assert loaded.state_dict().keys() == network().state_dict().keys()
    from safetensors.torch import load_file, save_file

    path = tmp_path / "run" / "model.safetensors"
    whole = load_file(path)
    save_file({name: value for name, value in whole.items() if "running" not in name and "num" not in name}, path)
    with pytest.raises(FedhaError, match=r"lack .*running_mean"):
        fedha.load(tmp_path / "run", model=network)
    old = fedha.load(tmp_path / "run", model=seeded(others.normed))  # whose statistics were never trained
    assert_close(old.featurizer[2].running_mean, network().featurizer[2].running_mean, rtol=0, atol=0)
    assert result.history
