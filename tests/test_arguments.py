"""Whatever a program hands over in the place of something else is refused where it is given, in a sentence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord
from torch import nn

import fedha
from fedha.config import TrainingConfig
from fedha.data import Domain, Examples
from fedha.errors import FedhaError
from fedha.flower import HessianAlignment, client_app
from fedha.models import SplitModel

MODEL = SplitModel(nn.Identity(), nn.Linear(3, 2))
PART = Examples(torch.eye(3), torch.tensor([0, 1, 0]))
DOMAIN = Domain("a", PART, PART)


def strategy(**given: Any) -> object:
    return HessianAlignment(**{"recipe": "erm", **given})


def start(grid: Any = None, arrays: Any = None, rounds: Any = 1) -> object:
    return HessianAlignment("erm").start(grid, arrays, num_rounds=rounds)


def app(**given: Any) -> object:
    return client_app(lambda _: MODEL, lambda _: DOMAIN, **given)


def simulate(domains: Any = (DOMAIN,), **given: Any) -> object:
    return fedha.simulate(domains, MODEL, "erm", **given)


WRONG: list[tuple[Callable[[], object], str]] = [
    *((lambda one=one: strategy(recipe=one), "recipe=") for one in (None, 3, ["erm"], {"name": "erm"})),
    *((lambda one=one: strategy(training=one), "training=") for one in (5, {"rounds": 3}, TrainingConfig)),
    *((lambda one=one: strategy(seed=one), "seed=") for one in ("a", None, -1, 1.5, True)),
    *((lambda one=one: strategy(clients=one), "clients=") for one in ("3", None, 0)),
    (lambda: strategy(federation=3), "federation=3; give a FederationConfig"),
    (lambda: strategy(privacy=True), "privacy=True; give a PrivacyConfig"),
    (lambda: strategy(on_client_error="ignore"), "'ignore'; give 'stop' or 'skip'"),
    (lambda: start(arrays=MODEL.state_dict()), "initial_arrays="),
    (lambda: start(arrays=ArrayRecord(MODEL.state_dict())), "grid=None"),
    *((lambda one=one: app(threads=one), "threads=") for one in ("2", 0, None)),
    *((lambda one=one: app(device=one), "device=") for one in ("gpu", 3, None, "cuda:99")),
    (lambda: app(party=3), "party=3"),
    (lambda: app(site=3), "site=3; give a function"),
    *((lambda one=one: simulate(one), "domains=") for one in (None, DOMAIN, {"a": DOMAIN}, "heart", 3)),
    (lambda: simulate([]), "was given no domain"),
    *((lambda one=one: simulate(engine=one), "engine=") for one in (None, 3, ["ray"])),
    *((lambda one=one: simulate(classes=one), "classes=") for one in ("2", 1, 2.0)),
    (lambda: simulate(target=3), "target=3"),
    (lambda: simulate(out=3), "out=3"),
    (lambda: simulate(listener=print), "listener="),
    (lambda: simulate(training=TrainingConfig), "training is <class"),
    *((lambda one=one: simulate(**{one: {"name": "x"}}), f"a section {one}") for one in ("data",)),
    *((lambda one=one: fedha.load(one), "run=") for one in (None, 3, b"x")),
    *((lambda one=one: SplitModel(one, nn.Linear(3, 2)), "featurizer=") for one in (None, torch.relu, nn.Linear)),
    (lambda: SplitModel(nn.Identity(), None), "head=None"),  # type: ignore[arg-type]
    *((lambda one=one: SplitModel.of(one, "fc"), "network=") for one in (None, nn.Linear, "resnet18")),
    *((lambda one=one: SplitModel.of(nn.Sequential(nn.Linear(2, 2)), one), "head=") for one in (None, 0, "", MODEL)),
]


@pytest.mark.parametrize(("call", "sentence"), WRONG)
def test_something_else_is_refused_with_what_it_is_and_what_belongs_there(
    call: Callable[[], object], sentence: str
) -> None:
    with pytest.raises(FedhaError) as caught:
        call()
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
