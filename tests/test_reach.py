"""A parameter that no loss reaches stays where it is, in every mode, and is told of once; its structure decides."""

from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context
from torch import Tensor, nn

from fedha.answers import answer_train
from fedha.batching import memory
from fedha.client import Client
from fedha.config import LocalConfig, PrivacyConfig, TrainingConfig
from fedha.data.domain import Domain, Examples
from fedha.engine.inline import InlineGrid
from fedha.exchange import Request, Task
from fedha.federation import Server, run_round
from fedha.flower.client import Clients, app_for, seeded_site
from fedha.flower.strategy import HessianAlignment
from fedha.models import SplitModel
from fedha.models.reach import stackable, unreached
from fedha.privacy.dpsgd import private_gradient
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.noise import seeded
from fedha.privacy.surrogate import risk_loss
from fedha.recipes import RECIPES
from tests.batching.twins import assert_same, local, make_clients, twin_rounds


class Pooled(nn.Module):
    """A network of a stranger's: nothing reads what its pooler gives."""

    def __init__(self, *, pooler: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 5)
        self.pooler = nn.Linear(5, 3) if pooler else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.layer(inputs).relu()
        self.pooler(features)
        return features


IDLE = ("featurizer.pooler.weight", "featurizer.pooler.bias")
EXAMPLES = {"protect": "examples", "noise_multiplier": 1.0, "evaluation_noise": 1.0}
LOCAL = TrainingConfig(mode="local", local=LocalConfig(batch_size=4, momentum=0.9))
WAYS: dict[str, dict[str, Any]] = {
    "synchronous": {},
    "local": {"training": LOCAL},
    "local, adam": {"training": TrainingConfig(mode="local", local=LocalConfig(optimizer="adam"))},
    "examples": {"privacy": PrivacyConfig.model_validate(EXAMPLES)},
    "examples, local": {
        "privacy": PrivacyConfig.model_validate({**EXAMPLES, "sampling": "poisson"}),
        "training": LOCAL,
    },
    "clients": {
        "privacy": PrivacyConfig(protect="clients", noise_multiplier=1.0),
        "training": TrainingConfig(averaging="clients"),
    },
}


def pooled(*, pooler: bool = True) -> SplitModel:
    torch.manual_seed(0)
    return SplitModel(Pooled(pooler=pooler), nn.Linear(5, 2)).double()


def domain(place: int, examples: int = 9) -> Domain:
    draws = torch.Generator().manual_seed(place)
    inputs = torch.randn(examples, 4, generator=draws, dtype=torch.float64)
    part = Examples(inputs, (inputs[:, 0] > 0).long())
    return Domain(f"d{place}", part, part)


def trained(way: dict[str, Any], *, together: bool = False) -> tuple[dict[str, Tensor], list[str]]:
    """The model after two rounds of Flower's own loop, and what was told."""
    made = Clients(lambda _: pooled(), lambda context: domain(client_id_of(context)), site=seeded_site)
    strategy = HessianAlignment("exact_diagonal", clients=3, **way)
    told: list[str] = []
    strategy.talk.tell = told.append
    grid = InlineGrid(app_for(made), 3, together=made if together else None)
    strategy.start(grid, ArrayRecord(dict(pooled().named_parameters())), num_rounds=2)
    return strategy.begun().parameters, told


def client_id_of(context: Context) -> int:
    return int(context.node_config["partition-id"])


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
@pytest.mark.parametrize("way", WAYS)
def test_what_no_loss_reaches_stays_and_is_told_of_once(way: str, together: bool) -> None:
    parameters, told = trained(WAYS[way], together=together)
    for name, value in pooled().named_parameters():
        assert torch.equal(parameters[name], value) == (name in IDLE), name
    (note,) = told
    assert all(name in note for name in IDLE)


@pytest.mark.parametrize("settings", [TrainingConfig(optimizer="sgd"), local(epochs=2, batch_size=4)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_together_it_is_left_as_one_by_one(settings: TrainingConfig, decay: float) -> None:
    clients = make_clients(pooled(), (4,), (9, 11, 9), 2, torch.float64)
    settings = settings.model_copy(update={"weight_decay": decay})
    assert_same(twin_rounds(clients, RECIPES["erm"], settings, 2))


def test_it_takes_no_share_of_the_clip_and_no_noise() -> None:
    """The private gradient of the other parameters is that of a network without it, to the bit."""
    inputs, labels = domain(0).train.inputs, domain(0).train.labels
    found = {}
    for pooler in (True, False):
        model = pooled(pooler=pooler)
        start = {name: value.detach() for name, value in pooled().named_parameters() if pooler or name not in IDLE}
        model.load_state_dict(start)
        gradient = private_gradient(risk_loss(model), start, inputs, labels, Mechanism(0.1, 1.0, 9), seeded(0))
        found[pooler] = gradient
        assert list(gradient) == list(start)
    assert all(not bool(found[True].pop(name).any()) for name in IDLE)
    assert all(torch.equal(found[True][name], found[False][name]) for name in found[False])


def test_the_plain_loop_leaves_it_without_noise_too() -> None:
    model = pooled()
    way = WAYS["clients"]
    task = Task(RECIPES["erm"], way["training"], 0, way["privacy"])
    server = Server(task, dict(model.named_parameters()))
    run_round(server, [Client(place, domain(place), model) for place in range(3)], 1)
    assert all(torch.equal(server.parameters[name], model.get_parameter(name)) for name in IDLE)


def test_it_is_found_from_the_structure_and_not_from_where_a_gradient_is_zero() -> None:
    model = pooled()
    with torch.no_grad():
        model.head.weight.zero_()  # then the layer before it has a gradient of zeros
    assert unreached(model, (4,)) == IDLE
    assert unreached(pooled(pooler=False), (4,)) == ()


def test_it_costs_a_step_no_multiplications() -> None:
    counts = []
    for pooler in (True, False):
        model = pooled(pooler=pooler)
        request = Request(Task(RECIPES["erm"], TrainingConfig(), 0), 1, dict(model.named_parameters()))
        counts.append(memory.multiplications(Client(0, domain(0), model), request))
    assert counts[0] == counts[1]


def test_weight_decay_moves_it_alike_in_every_mode() -> None:
    moved = {}
    for name in ("synchronous", "examples"):
        training = TrainingConfig(weight_decay=0.1)
        task = Task(RECIPES["erm"], training, 0, WAYS[name].get("privacy", PrivacyConfig()))
        client = Client(0, domain(0), pooled())
        reply = answer_train(client, Request(task, 1, {n: v.detach() for n, v in pooled().named_parameters()}))
        moved[name] = reply.tensors[IDLE[0]]
    assert torch.equal(moved["synchronous"], 0.2 * pooled().get_parameter(IDLE[0]))
    assert torch.equal(moved["synchronous"], moved["examples"])


class Words(nn.Module):
    """Token ids to features, by an embedding whose gradient is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 5, sparse=True)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.words(inputs.long()).mean(1)


@pytest.mark.parametrize("way", ["synchronous", "local", "local, adam", "examples"])
def test_a_sparse_embedding_is_trained_in_every_mode(way: str) -> None:
    torch.manual_seed(0)
    model = SplitModel(Words(), nn.Linear(5, 2)).double()
    ids = torch.randint(0, 9, (8, 4)).double()
    part = Examples(ids, (ids[:, 0] > 4).long())
    task = Task(
        RECIPES["erm"], WAYS[way].get("training", TrainingConfig()), 0, WAYS[way].get("privacy", PrivacyConfig())
    )
    client = Client(0, Domain("d", part, part), model)
    reply = answer_train(client, Request(task, 1, {name: value.detach() for name, value in model.named_parameters()}))
    assert all(bool(value.isfinite().all()) and bool(value.any()) for value in reply.tensors.values())


def test_networks_without_a_rule_for_vmap_are_known() -> None:
    assert stackable(pooled(), (4,))
    assert not stackable(SplitModel(Words(), nn.Linear(5, 2)), (4,))
