"""Other codes' hyperparameters, translated as docs/conventions.md says, train to the same parameters.

The loop below is DomainBed's: a minibatch of each domain, one concatenated forward pass, one step of Adam. It uses
nothing of fedha but the rows that were drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional
from torch.testing import assert_close

from fedha.config import RecipeConfig, TrainingConfig
from fedha.exchange import Request
from fedha.minibatches import measured_rows
from fedha.models import SplitModel
from tests.problems import Problem, make_problem

ROUNDS, BATCH, RATE, DOMAINS = 8, 7, 0.01, 3
TRAINING = TrainingConfig(rounds=ROUNDS, optimizer="adam", learning_rate=RATE, batch_size=BATCH)


@dataclass
class Step:
    """One step in DomainBed's way: features, logits and labels of each domain, and what a method remembers."""

    model: SplitModel
    features: Sequence[Tensor]
    logits: Sequence[Tensor]
    labels: Sequence[Tensor]
    number: int
    memory: dict[str, Any] = field(default_factory=dict)

    def losses(self) -> Tensor:
        both = zip(self.logits, self.labels, strict=True)
        return torch.stack([functional.cross_entropy(logits, labels) for logits, labels in both])

    def head_gradients(self, losses: Sequence[Tensor]) -> list[Tensor]:
        head = list(self.model.head.parameters())
        return [torch.cat([one.flatten() for one in grad(loss, head, create_graph=True)]) for loss in losses]


def squared(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().sum()


def coral(step: Step, gamma: float) -> Tensor:
    penalty = torch.zeros((), dtype=torch.float64)
    for one, other in combinations(step.features, 2):
        penalty = (
            penalty + (one.mean(0) - other.mean(0)).square().mean() + (one.T.cov() - other.T.cov()).square().mean()
        )
    return step.losses().mean() + gamma * penalty / (DOMAINS * (DOMAINS - 1) / 2)


def vrex(step: Step, weight: float, anneal: int) -> Tensor:
    losses = step.losses()
    return losses.mean() + (weight if step.number >= anneal else 1.0) * (losses - losses.mean()).square().mean()


def iga(step: Step, penalty: float) -> Tensor:
    losses = step.losses()
    gradients = step.head_gradients(losses)
    (mean,) = step.head_gradients([losses.mean()])
    return losses.mean() + penalty * torch.stack([squared(one, mean) for one in gradients]).sum()


def fishr(step: Step, weight: float, ema: float) -> Tensor:
    averages = []
    for place, (features, logits, labels) in enumerate(zip(step.features, step.logits, step.labels, strict=True)):
        residuals = logits.softmax(1) - functional.one_hot(labels, logits.shape[1])
        weights, biases = residuals[:, :, None] * features[:, None, :], residuals
        each = torch.cat([weights.flatten(1), biases], 1)
        own = (each - each.mean(0)).square().mean(0)
        moved = ema * step.memory.get(place, torch.zeros_like(own)) + (1 - ema) * own
        step.memory[place] = moved.detach()
        averages.append(moved / (1 - ema))
    mean = torch.stack(averages).mean(0)
    return step.losses().mean() + weight * torch.stack([(one - mean).square().mean() for one in averages]).mean()


def groupdro(step: Step, eta: float) -> Tensor:
    losses, mixture = step.losses(), step.memory.setdefault("mixture", torch.ones(DOMAINS, dtype=torch.float64))
    mixture = mixture * (eta * losses.detach()).exp()
    step.memory["mixture"] = mixture / mixture.sum()
    return losses @ step.memory["mixture"]


def hgp(step: Step, alpha: float, beta: float) -> Tensor:
    losses, head = step.losses(), list(step.model.head.parameters())
    risks = [*losses, losses.mean()]
    gradients = step.head_gradients(risks)

    def product(gradient: Tensor) -> Tensor:
        slopes = grad(gradient.norm(), head, create_graph=True)
        return gradient.norm() * torch.cat([one.flatten() for one in slopes])

    *own, pooled = [(product(one), one) for one in gradients]
    curved, straight = pooled[0].detach(), pooled[1].detach()
    parts = [alpha * squared(curve, curved) + beta * squared(slope, straight) for curve, slope in own]
    return losses.mean() + torch.stack(parts).sum() / DOMAINS


@dataclass(frozen=True)
class Convention:
    """A method as the other code takes it, and the recipe that it is here."""

    there: Callable[[Step], Tensor]
    here: dict[str, Any]
    decay: float = 0.0
    anneal: int | None = None


CONVENTIONS = {
    "erm": Convention(lambda step: step.losses().mean(), {"name": "erm"}),
    "weight decay": Convention(lambda step: step.losses().mean(), {"name": "erm"}, decay=0.02),
    "coral": Convention(lambda step: coral(step, 0.7), {"name": "coral", "weight": 0.7 * 2 * DOMAINS / (DOMAINS - 1)}),
    "vrex": Convention(lambda step: vrex(step, 9.0, 0), {"name": "vrex", "weight": 9.0}),
    "vrex, annealed": Convention(
        lambda step: vrex(step, 9.0, 4),
        {"name": "vrex", "weight": 9.0, "warmup_rounds": 4, "warmup_weight": 1.0, "reset_optimizer": True},
        anneal=4,
    ),
    "iga": Convention(lambda step: iga(step, 0.8), {"name": "iga", "weight": DOMAINS * 0.8}),
    "fishr": Convention(lambda step: fishr(step, 5.0, 0.9), {"name": "fishr", "weight": 5.0, "moving_average": 0.9}),
    "groupdro": Convention(lambda step: groupdro(step, 0.3), {"name": "groupdro", "step_size": 0.3}),
    "hgp": Convention(lambda step: hgp(step, 0.4, 0.9), {"name": "hgp", "hessian_weight": 0.4, "gradient_weight": 0.9}),
}


def train_there(convention: Convention, problem: Problem, rows: Callable[[int], Sequence[Tensor]]) -> SplitModel:
    model, memory = problem.model, dict[str, Any]()

    def adam() -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=convention.decay)

    optimizer = adam()
    for number in range(ROUNDS):
        chosen = [domain.train.select(own) for domain, own in zip(problem.domains, rows(number + 1), strict=True)]
        features = model.featurizer(torch.cat([one.inputs for one in chosen]))
        step = Step(
            model,
            features.split(BATCH),
            model.head(features).split(BATCH),
            [one.labels for one in chosen],
            number,
            memory,
        )
        loss = convention.there(step)
        if number == convention.anneal:
            optimizer = adam()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_translated_weight_trains_to_the_same_parameters(name: str) -> None:
    convention, problem = CONVENTIONS[name], make_problem()
    recipe = RecipeConfig.model_validate(convention.here).resolve()
    training = TRAINING.model_copy(update={"weight_decay": convention.decay / 2})
    here = problem.train(recipe, training, ROUNDS)
    task = problem.server(recipe, training).task

    def rows(number: int) -> list[Tensor]:
        request = Request(task, number, {})
        sizes = [len(domain.train) for domain in problem.domains]
        return [measured_rows(request, size, place) for place, size in enumerate(sizes)]

    there = train_there(convention, make_problem(), rows)
    for parameter, value in there.named_parameters():
        assert_close(here[parameter], value.detach(), rtol=1e-12, atol=1e-12)


def test_irm_of_the_whole_is_the_product_of_the_halves_and_a_quarter_of_their_difference_squared() -> None:
    draws = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(8, 3, generator=draws, dtype=torch.float64), torch.arange(8) % 3

    def slope(some: slice) -> Tensor:
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        return grad(functional.cross_entropy(logits[some] * scale, labels[some]), scale)[0]

    even, odd = slope(slice(0, None, 2)), slope(slice(1, None, 2))
    assert_close(slope(slice(None)).square(), even * odd + (even - odd).square() / 4)
