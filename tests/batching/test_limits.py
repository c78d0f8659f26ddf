"""Clients that had better answer one by one, and why."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedha import answers
from fedha.client import Client
from fedha.config import LocalConfig, ModelConfig, TrainingConfig
from fedha.config.schedule import ScheduleConfig
from fedha.exchange import Request, Task
from fedha.models import SplitModel
from fedha.privacy.limits import Limits
from fedha.privacy.site import Site
from fedha.recipes import RECIPES
from tests.batching.twins import local, make_clients, make_cohort

SMALL = local(epochs=1, batch_size=5)


def ask(clients: list[Client], settings: TrainingConfig = SMALL, averaging_weight: float = 0.1) -> str | None:
    parameters = {name: value.detach() for name, value in clients[0].model.named_parameters()}
    return answers.refusal(
        clients, Request(Task(RECIPES["hgp"], settings, 0), 1, parameters, averaging_weight=averaging_weight)
    )


def of(featurizer: nn.Module) -> list[Client]:
    return make_clients(SplitModel(featurizer, nn.Linear(5, 3)), (4,), (9, 9), 3, torch.float32)


class Undecided(nn.Module):
    """What it does depends on the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(4, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.only(inputs)
        return outputs if outputs.sum() > 0 else -outputs


def other_model(clients: list[Client]) -> list[Client]:
    return [clients[0], replace(clients[1], model=make_cohort(ModelConfig(hidden=[9]), (4,))[0].model)]


def other_precision(clients: list[Client]) -> list[Client]:
    train = replace(clients[1].domain.train, inputs=clients[1].domain.train.inputs.double())
    return [clients[0], replace(clients[1], domain=replace(clients[1].domain, train=train))]


def other_device(clients: list[Client]) -> list[Client]:
    train = replace(clients[1].domain.train, inputs=clients[1].domain.train.inputs.to("meta"))
    return [clients[0], replace(clients[1], domain=replace(clients[1].domain, train=train))]


def limited(clients: list[Client]) -> list[Client]:
    return [clients[0], replace(clients[1], site=Site(limits=Limits()))]


def no_examples(clients: list[Client]) -> list[Client]:
    train = clients[1].domain.train.select(slice(0))
    return [clients[0], replace(clients[1], domain=replace(clients[1].domain, train=train))]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda clients: clients[:1], "1 client is nothing to put together"),
        (other_model, "clients 'd0' and 'd1' have different models"),
        (other_precision, "differ in shape or precision"),
        (other_device, "on several devices: cpu, meta"),
        (no_examples, "a client has no training examples"),
        (limited, "each client looks at what it is asked"),
        (lambda clients: of(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))), "BatchNorm1d keeps statistics"),
        (lambda clients: of(nn.Sequential(nn.Linear(4, 5), nn.Dropout())), "the network draws at random"),
        (lambda clients: of(Undecided()), "torch.func.vmap cannot take the model: "),
    ],
    ids=["alone", "models", "precision", "device", "empty", "limits", "batch norm", "dropout", "branching"],
)
def test_a_refusal_says_why(change: Callable[[list[Client]], list[Client]], reason: str) -> None:
    clients = make_cohort(ModelConfig(hidden=[8]), (4,))
    assert ask(clients) is None
    assert reason in str(ask(change(clients)))


def test_a_federation_of_one_is_refused() -> None:
    assert "whole federation" in str(ask(make_cohort(ModelConfig(hidden=[8]), (4,)), averaging_weight=1.0))


def test_equal_models_need_not_be_one_object() -> None:
    clients = make_cohort(ModelConfig(hidden=[8]), (4,))
    twin = make_cohort(ModelConfig(hidden=[8]), (4,))[1]
    assert ask([clients[0], twin]) is None


def test_models_that_differ_in_what_is_frozen_are_not_put_together() -> None:
    clients, twin = of(nn.Linear(4, 5).requires_grad_(False)), of(nn.Linear(4, 5))[0].model
    clients = [clients[0], replace(clients[1], model=twin)]
    first = clients[0].model
    twin.load_state_dict(first.state_dict())
    assert "have different models" in str(ask(clients))  # the one trains what the other has frozen
    twin.featurizer.requires_grad_(False)
    assert ask(clients) is None
    twin.featurizer.weight.data[0, 0] += 1
    assert "have different models" in str(ask(clients))


def test_large_work_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedha.batching.limits.budget", lambda device: 2**24)
    clients = make_cohort(ModelConfig(hidden=[1000]), (784,), sizes=(60, 60), classes=10)
    # 784 * 1000 + 1000 * 10 multiplications an example
    assert ask(clients, local(epochs=1, batch_size=21)) is None
    assert "one step of one client is 17 million multiplications; together pays up to 17" in str(
        ask(clients, local(epochs=1, batch_size=22))
    )
    wide = make_cohort(ModelConfig(hidden=[300, 4000]), (784,), sizes=(60, 60), classes=10)
    assert "MiB of the 16 MiB for all" in str(ask(wide, local(epochs=1, batch_size=4)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"clip_norm": 1.0}, "each client's gradient is clipped by its own norm"),
        ({"schedule": ScheduleConfig(warmup=2, by="step")}, "the rate changes within a round"),
        ({"weight_decay": 0.1, "decay": "weights"}, "L2 is on weights alone"),
        ({"local": LocalConfig(optimizer="adafactor")}, "optimizer 'adafactor' looks at a parameter as a whole"),
        ({"local": LocalConfig(optimizer="adamw")}, None),
    ],
)
def test_steps_that_look_at_a_client_as_a_whole_are_taken_one_by_one(
    changes: dict[str, object], reason: str | None
) -> None:
    training = local(epochs=1, batch_size=4).model_copy(update=changes)
    said = ask(make_cohort(ModelConfig(hidden=[8]), (4,)), training)
    assert said is None if reason is None else reason in str(said)


def test_a_missing_parameter_is_refused() -> None:
    clients = make_cohort(ModelConfig(hidden=[8]), (4,))
    parameters = {name: value for name, value in clients[0].model.named_parameters() if name != "head.bias"}
    request = Request(Task(RECIPES["erm"], SMALL, 0), 1, parameters, averaging_weight=0.1)
    assert answers.refusal(clients, request) == "the request has no parameter 'head.bias'"
