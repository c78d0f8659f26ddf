"""Clients answered together answer as one by one."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedha import batching, training
from fedha.batching import answers, chunk
from fedha.client_state import to_tensors
from fedha.config import ModelConfig, TrainingConfig
from fedha.errors import FedhaError
from fedha.exchange import Request, Task
from fedha.models import SplitModel
from fedha.models.state import state_of
from fedha.recipes import RECIPES
from fedha.reference import weighted_mean
from tests.batching.twins import SEED, assert_same, local, make_clients, make_cohort, mean_tensors, twin_rounds
from tests.problems import PROBES, ROWS, SGD, make_problem

MODES = {
    "synchronous": SGD,
    "decayed": SGD.model_copy(update={"weight_decay": 0.02}),
    "epochs": local(epochs=2, batch_size=5, momentum=0.9, learning_rate=0.05, weight_decay=0.01),
    "steps": local(steps=2),
}
SOFT = {
    "synchronous": SGD.model_copy(update={"label_smoothing": 0.1, "class_weights": "balanced"}),
    "steps": local(steps=2, label_smoothing=0.1, class_weights="balanced"),
}
MLP = ModelConfig(hidden=[6], precision="float64")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("head", ["three classes", "one logit", "network"])
@pytest.mark.parametrize("name", ROWS)
def test_every_recipe_answers_as_one_by_one(name: str, head: str, mode: str) -> None:
    recipe = replace(ROWS[name], weight=1.7, probes=PROBES, rescale=head == "one logit")
    assert_same(twin_rounds(make_problem(head).clients(), recipe, MODES[mode], 2))


@pytest.mark.parametrize("mode", SOFT)
@pytest.mark.parametrize("head", ["three classes", "one logit", "network"])
@pytest.mark.parametrize("name", ["hgp", "hutchinson", "fishr", "irm", "groupdro"])
def test_soft_targets_answer_as_one_by_one(name: str, head: str, mode: str) -> None:
    recipe = replace(ROWS[name], weight=1.7, probes=PROBES)
    assert_same(twin_rounds(make_problem(head).clients(), recipe, SOFT[mode], 2))


OPTIMISERS = {
    "sgd": local(epochs=2, batch_size=4),
    "momentum": local(epochs=2, batch_size=4, momentum=0.9),
    "decayed": local(epochs=2, batch_size=4, weight_decay=0.05),
    "decayed momentum": local(steps=7, batch_size=4, momentum=0.5, weight_decay=0.05),
    "adam": local(epochs=2, batch_size=4, optimizer="adam", learning_rate=0.01),
    "decayed adam": local(steps=5, batch_size=4, optimizer="adam", learning_rate=0.01, weight_decay=0.05),
    "adamw at two rates": local(
        epochs=2,
        batch_size=4,
        optimizer={"name": "adamw", "weight_decay": 0.1},
        learning_rate=0.01,
        rates={"featurizer": 0.3},
    ),
    "sgd at two rates": local(epochs=2, batch_size=4, momentum=0.5, rates={"featurizer": 0.3, "head.bias": 2.0}),
    "rmsprop of soft targets": local(
        epochs=2, optimizer="rmsprop", label_smoothing=0.2, class_weights=[0.5, 1.0, 2.0], batch_size=5
    ),
    "whole domains": local(epochs=3, momentum=0.9),
    "larger than a domain": local(epochs=2, batch_size=100),
}
NETWORKS = {
    "mlp": (MLP, (4,)),
    "deep mlp": (ModelConfig(hidden=[7, 6, 5], precision="float64"), (2, 3)),
    "wide inputs": (ModelConfig(hidden=[3], precision="float64"), (40,)),
    "linear": (ModelConfig(name="linear", precision="float64"), (2, 3)),
    "cnn": (ModelConfig(name="cnn", hidden=[3, 4], precision="float64"), (2, 5, 6)),
}


@pytest.mark.parametrize("recipe", ["erm", "fishr"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_network_and_optimiser_answers_as_one_by_one(optimiser: str, network: str, recipe: str) -> None:
    config, shape = NETWORKS[network]
    clients = make_cohort(config, shape)
    assert_same(twin_rounds(clients, RECIPES[recipe], OPTIMISERS[optimiser], 2))


@pytest.mark.parametrize("recipe", ["erm", "hgp"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_gives_the_gradient_that_it_gives_alone(network: str, recipe: str) -> None:
    config, shape = NETWORKS[network]
    assert_same(twin_rounds(make_cohort(config, shape), RECIPES[recipe], SGD, 2))


@pytest.mark.parametrize("recipe", ["erm", "hgp", "fishr", "hutchinson", "coral"])
@pytest.mark.parametrize("settings", [SGD, local(epochs=2, batch_size=7)], ids=["synchronous", "local"])
def test_clients_of_very_different_sizes_answer_as_one_by_one(settings: TrainingConfig, recipe: str) -> None:
    sizes = (23, 2, 9, 40, 10, 9, 2, 17, 31, 23)
    assert_same(twin_rounds(make_cohort(MLP, (4,), sizes), RECIPES[recipe], settings, 2))


def test_float32_answers_agree_to_float32_rounding() -> None:
    clients = make_cohort(ModelConfig(hidden=[20]), (30,), sizes=(20, 24, 21))
    settings = local(epochs=2, batch_size=5, momentum=0.5, weight_decay=0.01, learning_rate=0.003)
    assert_same(twin_rounds(clients, RECIPES["hgp"], settings, 2), tolerance=1e-5)


def test_a_featurizer_in_bfloat16_is_put_together_too() -> None:
    clients = make_cohort(ModelConfig(hidden=[20], precision="mixed"), (30,), sizes=(20, 24, 21))
    *measured, trained = twin_rounds(clients, RECIPES["hgp"], SGD, 1)
    assert_same(measured, tolerance=0.02)
    for one, other in zip(trained.alone, trained.together, strict=True):
        for name in one.tensors:  # a ReLU's input that rounds to the other side of zero changes a column
            apart = torch.linalg.vector_norm(one.tensors[name] - other.tensors[name])
            assert apart < 0.2 * torch.linalg.vector_norm(one.tensors[name])


class Strange(nn.Module):
    """A network that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.gelu(self.second(self.first(inputs).tanh_()))


@pytest.mark.parametrize(
    "featurizer",
    [
        Strange(),
        nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh()),
        nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Identity(), nn.Linear(4, 5), nn.PReLU()),
    ],
    ids=["own module", "layer norm", "no bias", "learned slope"],
)
@pytest.mark.parametrize("settings", [SGD, local(epochs=2, batch_size=4, momentum=0.5)], ids=["synchronous", "local"])
def test_networks_of_a_strangers_own_answer_as_one_by_one(featurizer: nn.Module, settings: TrainingConfig) -> None:
    model = SplitModel(featurizer, nn.Linear(5, 3)).double()
    clients = make_clients(model, (4,), (9, 11, 9), 3, torch.float64)
    assert_same(twin_rounds(clients, RECIPES["exact_diagonal"], settings, 2))


FROZEN = {
    "all": lambda model: model.featurizer,
    "the first layer": lambda model: model.featurizer[0],
    "the second layer": lambda model: model.featurizer[2],
    "a stranger's": lambda model: model.featurizer[3],
    "the head's bias": lambda model: SplitModel(nn.Identity(), model.head).featurizer,
}


@pytest.mark.parametrize("recipe", ["erm", "hgp", "fishr"])
@pytest.mark.parametrize("part", FROZEN)
@pytest.mark.parametrize("settings", [SGD, OPTIMISERS["decayed momentum"]], ids=["synchronous", "local"])
def test_networks_with_frozen_parts_answer_as_one_by_one(settings: TrainingConfig, part: str, recipe: str) -> None:
    body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.LayerNorm(5))
    model = SplitModel(body, nn.Linear(5, 3)).double()
    FROZEN[part](model).requires_grad_(False)
    if part == "the head's bias":
        model.head.bias.requires_grad_(False)
    clients = make_clients(model, (4,), (9, 11, 9), 3, torch.float64)
    exchanges = twin_rounds(clients, RECIPES[recipe], settings, 2)
    assert exchanges[-1].together[0].tensors.keys() == state_of(model).trained.keys()
    assert_same(exchanges)


def test_a_head_without_a_bias_answers_as_one_by_one() -> None:
    model = SplitModel(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 3, bias=False)).double()
    clients = make_clients(model, (4,), (9, 11, 9), 3, torch.float64)
    assert_same(twin_rounds(clients, RECIPES["hgp"], SGD, 2))


@pytest.mark.parametrize("settings", [SGD, local(epochs=1, batch_size=5)], ids=["synchronous", "local"])
def test_moving_averages_move_on_also_for_clients_that_join_later(settings: TrainingConfig) -> None:
    clients = make_cohort(MLP, (4,))
    assert_same(twin_rounds(clients[:2], RECIPES["fishr"], settings, 2))
    assert clients[0].state
    assert not clients[3].state
    assert_same(twin_rounds(clients, RECIPES["fishr"], settings, 3))


@pytest.mark.parametrize("budget", [1, 4000, 40_000, 2**30])
@pytest.mark.parametrize("name", ["erm", "hutchinson", "fishr"])
def test_the_size_of_chunks_changes_rounding_only(name: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "budget", lambda device: budget)
    clients = make_cohort(MLP, (4,), sizes=(9, 11, 9, 12, 10, 9))
    assert_same(twin_rounds(clients, RECIPES[name], local(epochs=2, batch_size=4), 2))


@pytest.mark.parametrize("mode", ["synchronous", "epochs"])
def test_answers_repeat_to_the_bit(mode: str) -> None:
    def replies() -> list[dict[str, torch.Tensor]]:
        exchanges = twin_rounds(make_cohort(MLP, (4,)), RECIPES["hgp"], MODES[mode], 3)
        return [reply.tensors for exchange in exchanges for reply in exchange.together]

    for one, other in zip(replies(), replies(), strict=True):
        assert all(torch.equal(other[name], value) for name, value in one.items())


def make_requests(clients: list, settings: TrainingConfig, recipe: str = "erm", **options: object) -> list[Request]:
    parameters = {name: value.detach() for name, value in clients[0].model.named_parameters()}
    request = Request(Task(RECIPES[recipe], settings, SEED), 1, parameters, averaging_weight=1 / len(clients))
    return [replace(request, **options) for _ in clients]


def test_the_order_of_clients_does_not_matter() -> None:
    clients = make_cohort(MLP, (4,), sizes=(9, 30, 9, 12, 2))
    requests = make_requests(clients, local(epochs=1, batch_size=4))
    forwards = batching.answer_train(clients, requests)
    backwards = batching.answer_train(clients[::-1], requests)[::-1]
    assert [reply.client_id for reply in forwards] == [0, 1, 2, 3, 4]
    for one, other in zip(forwards, backwards, strict=True):
        torch.testing.assert_close(dict(other.tensors), dict(one.tensors), rtol=0, atol=1e-13)


def test_the_updates_of_a_parameter_lie_in_one_tensor() -> None:
    clients = make_cohort(MLP, (4,), sizes=(9, 30, 9, 12, 2))
    replies = batching.answer_train(clients, make_requests(clients, local(epochs=1, batch_size=4)))
    for name, update in replies[0].tensors.items():
        assert len({reply.tensors[name].untyped_storage().data_ptr() for reply in replies}) == 1
        assert update.untyped_storage().nbytes() == len(clients) * update.nbytes
        assert all(reply.tensors[name].is_contiguous() for reply in replies)


SIZES = (9, 30, 9, 12, 2)
SHARES = (0.1, 0.2, 0.05, 0.3, 0.15)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("recipe", ["erm", "fishr", "fish"])
def test_an_additive_answer_is_the_weighted_sum_of_the_answers(recipe: str, network: str, mode: str) -> None:
    config, shape = NETWORKS[network]
    references: dict[str, torch.Tensor] = {}
    for kind, measure in (("measure", RECIPES[recipe].measurements()), ("train", ((),))):
        answer = getattr(batching, f"answer_{kind}")
        for names in measure:
            own, summed = make_cohort(config, shape, SIZES), make_cohort(config, shape, SIZES)
            requests = make_requests(own, MODES[mode], recipe, references=references, measure=names)
            requests = [replace(one, averaging_weight=share) for one, share in zip(requests, SHARES, strict=True)]
            replies = answer(own, requests)
            first, *others = answer(summed, [replace(one, additive=True) for one in requests])
            total = weighted_mean(zip((one.tensors for one in replies), SHARES, strict=True))
            torch.testing.assert_close(dict(first.tensors), total, rtol=1e-11, atol=1e-14)
            told = [replace(first, tensors={}), *others]
            for one, other in zip(replies, told, strict=True):
                assert one.metrics == pytest.approx(other.metrics, rel=1e-12)
                assert replace(one, tensors={}, metrics={}, weighed=True) == replace(other, metrics={})
            for one, other in zip(own, summed, strict=True):
                torch.testing.assert_close(to_tensors(other.state), to_tensors(one.state), rtol=1e-12, atol=1e-14)
            references = references | mean_tensors(replies)


@pytest.mark.parametrize("head", ["three classes", "one logit", "network"])
@pytest.mark.parametrize("rows", [1, 20, 10_000])
def test_evaluation_is_that_of_each_client_alone(head: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_ROWS", rows)
    clients = make_problem(head).clients()
    empty = replace(clients[1].domain, held_out=clients[1].domain.held_out.select(slice(0)))
    clients[1] = replace(clients[1], domain=empty)
    requests = make_requests(clients, SGD, evaluate=("held_out", "train"), kind="evaluate")
    for client, request, reply in zip(clients, requests, batching.answer_evaluate(clients, requests), strict=True):
        expected = training.answer_evaluate(client, request)
        assert replace(reply, metrics={}) == replace(expected, metrics={})
        assert reply.metrics == pytest.approx(expected.metrics, rel=1e-12)


def test_each_clients_own_share_counts() -> None:
    clients = make_cohort(MLP, (4,))
    requests = make_requests(clients, SGD, "fish")
    measured = [replace(request, measure=("gradient",)) for request in requests]
    references = mean_tensors(batching.answer_measure(clients, measured))
    shares = (0.1, 0.2, 0.3, 0.4)
    requests = [
        replace(one, references=references, averaging_weight=share) for one, share in zip(requests, shares, strict=True)
    ]
    replies = batching.answer_train(clients, requests)
    for client, request, reply in zip(clients, requests, replies, strict=True):
        expected = training.answer_train(client, request)
        torch.testing.assert_close(dict(reply.tensors), dict(expected.tensors), rtol=1e-11, atol=1e-14)


def test_a_failure_leaves_every_clients_moving_average_as_it_was() -> None:
    clients = make_cohort(MLP, (4,), sizes=(9, 9, 30))
    twin_rounds(clients, RECIPES["fishr"], SGD, 1)
    before = [client.state for client in clients]
    requests = make_requests(clients, SGD, "fishr", references=before[0].averages)
    broken = clients[2].domain.train.inputs
    broken[3] = torch.inf  # the last chunk's
    with pytest.raises(FedhaError, match="not finite in round 1"):
        batching.answer_train(clients, requests)
    assert all(client.state is old for client, old in zip(clients, before, strict=True))


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("settings", [SGD, local(epochs=3, batch_size=4, learning_rate=1e200)], ids=["data", "rate"])
def test_an_update_that_is_not_finite_is_an_error(settings: TrainingConfig, additive: bool) -> None:
    clients = make_cohort(MLP, (4,))
    if settings is SGD:
        clients[2].domain.train.inputs[1, 2] = torch.nan
    with pytest.raises(FedhaError, match=r"not finite in round 1; lower training\.learning_rate"):
        batching.answer_train(clients, [replace(one, additive=additive) for one in make_requests(clients, settings)])


def test_requests_of_different_exchanges_are_refused() -> None:
    clients = make_cohort(MLP, (4,))
    requests = make_requests(clients, SGD)
    moved = {name: value + 1 for name, value in requests[2].parameters.items()}
    for other in (
        replace(requests[2], round=2),
        replace(requests[2], measure=("risk",)),
        replace(requests[2], parameters=moved),
        replace(requests[2], references={"risk": torch.zeros(())}),
    ):
        with pytest.raises(ValueError, match="not of one exchange"):
            batching.answer_train(clients, [*requests[:2], other, requests[3]])


def test_a_chunk_of_a_gpu_is_a_quarter_of_what_the_process_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (600, 1000))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.5)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 150)
    assert chunk.budget(torch.device("cuda")) == 100
