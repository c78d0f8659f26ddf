"""A small problem, the same for all who train on it: a few domains, a network, and the recipes that take it."""

from dataclasses import dataclass

import torch
import yaml
from torch import Tensor

from fedha.client import Client
from fedha.config import LocalConfig, ModelConfig, TrainingConfig, parse
from fedha.data.domain import Domain, Examples
from fedha.exchange import Task
from fedha.federation import Server, run_round
from fedha.models import SplitModel, build
from fedha.recipes import RECIPES, Recipe

SEED = 7
PROBES = 5
SGD = TrainingConfig(rounds=10, optimizer="sgd", learning_rate=0.1)
LOCAL = TrainingConfig(mode="local", rounds=10, local=LocalConfig(steps=2, learning_rate=0.1))
CUSTOM = parse(yaml.safe_load("recipe: {name: mine, align: {gradient: 0.5, feature_mean: 2.0, risk: 3.0}}"))
_APART = ("mixup_alpha", "sam_radius", "representation")
ROWS = {name: row for name, row in RECIPES.items() if not any(getattr(row, key) for key in _APART)}
ROWS["mine"] = CUSTOM.recipe[0].resolve()


@dataclass(frozen=True)
class Problem:
    """A small network and a few domains that differ."""

    model: SplitModel
    domains: tuple[Domain, ...]

    def clients(self) -> list[Client]:
        return [Client(place, domain, self.model) for place, domain in enumerate(self.domains)]

    def server(self, recipe: Recipe, training: TrainingConfig) -> Server:
        return Server(Task(recipe, training, SEED), dict(self.model.named_parameters()))

    def train(self, recipe: Recipe, training: TrainingConfig, rounds: int) -> dict[str, Tensor]:
        server, clients = self.server(recipe, training), self.clients()
        for number in range(1, rounds + 1):
            run_round(server, clients, number)
        return server.parameters


def make_domain(name: str, seed: int, examples: int, classes: int, precision: torch.dtype = torch.float64) -> Domain:
    draws = torch.Generator().manual_seed(seed)
    inputs = (1 + 0.3 * seed) * torch.randn(examples, 4, generator=draws, dtype=torch.float64) + 0.4 * seed
    labels = torch.randint(0, classes, (examples,), generator=draws)
    return Domain(name, Examples(inputs.to(precision), labels), Examples(inputs[:3].to(precision), labels[:3]))


def make_problem(head: str = "three classes", precision: str = "float64") -> Problem:
    classes = 2 if head == "one logit" else 3
    layers = [4] if head == "network" else []
    config = ModelConfig(hidden=[5], head_hidden=layers, one_logit=head == "one logit", precision=precision)
    sizes = (12, 17, 14)
    domains = (make_domain(f"d{k}", k, n, classes, getattr(torch, precision)) for k, n in enumerate(sizes))
    return Problem(build(config, (4,), classes, SEED), tuple(domains))
