"""The baselines' server rules are their papers' algorithms, written again in plain loops over flat vectors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from fedha.config import LocalConfig, PrivacyConfig, TrainingConfig, parse
from fedha.data.domain import Examples
from fedha.errors import FedhaError
from fedha.exchange import Request, Task
from fedha.federation import run_round
from fedha.minibatches import minibatches
from fedha.recipes import RECIPES
from fedha.rules.groupdro import agnostic
from fedha.rules.rule import Cohort
from tests.problems import SEED, Problem, make_problem

ROUNDS, RATE = 6, 0.3
LOCAL = LocalConfig(epochs=2, batch_size=5, learning_rate=RATE)


def training(optimizer: Any, **changes: Any) -> TrainingConfig:
    content = {"mode": "local", "rounds": ROUNDS, "averaging": "clients", "local": LOCAL.model_dump()}
    return TrainingConfig.model_validate({**content, "optimizer": optimizer, **changes})


def ours(problem: Problem, given: TrainingConfig) -> Tensor:
    return flat(problem.train(RECIPES["erm"], given, ROUNDS))


def flat(parameters: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.detach().flatten() for value in parameters.values()])


@dataclass
class Plain:
    """A federation of flat vectors, and nothing of fedha but the rows that were drawn."""

    problem: Problem
    given: TrainingConfig

    @property
    def start(self) -> Tensor:
        return flat(dict(self.problem.model.named_parameters()))

    def loss(self, at: Tensor, part: Examples, rows: Tensor | None = None) -> Tensor:
        names, values = zip(*self.problem.model.named_parameters(), strict=True)
        pieces = at.split([value.numel() for value in values])
        named = {name: one.view(like.shape) for name, one, like in zip(names, pieces, values, strict=True)}
        rows = torch.arange(len(part)) if rows is None else rows
        return cross_entropy(functional_call(self.problem.model, named, (part.inputs[rows],)), part.labels[rows])

    def trained(self, at: Tensor, client: int, number: int, proximal: float = 0.0) -> Tensor:
        """A client's model after its local steps."""
        part, own = self.problem.domains[client].train, at.clone()
        request = Request(Task(RECIPES["erm"], self.given, SEED), number, {})
        for rows in minibatches(request, len(part), client):
            own.requires_grad_()
            loss = self.loss(own, part, rows) + proximal / 2 * (own - at).square().sum()
            (gradient,) = torch.autograd.grad(loss, own)
            own = (own - RATE * gradient).detach()
        return own

    def run(self, step: Callable[[Tensor, list[Tensor], int], Tensor], proximal: float = 0.0) -> Tensor:
        """The global model after all rounds; `step` is the server's, from its model, the clients' and the round."""
        now = self.start
        for number in range(1, ROUNDS + 1):
            ends = [self.trained(now, client, number, proximal) for client in range(len(self.problem.domains))]
            now = step(now, ends, number)
        return now


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean(0)


def test_fedprox_minimises_the_proximal_loss() -> None:
    problem, given = make_problem(), training({"name": "fedprox", "mu": 0.7})
    expected = Plain(problem, given).run(lambda now, ends, number: mean(ends), proximal=0.7)
    assert_close(ours(problem, given), expected, rtol=0, atol=1e-12)
    plain = ours(problem, training("fedavg"))
    assert_close(ours(problem, training({"name": "fedprox", "mu": 0})), plain, rtol=0, atol=0)
    assert float((plain - expected).abs().max()) > 1e-3


def test_fedyogi_is_algorithm_2() -> None:
    options = {"beta_1": 0.8, "beta_2": 0.9, "tau": 0.01}
    problem, given = make_problem(), training({"name": "fedyogi", **options}, learning_rate=0.05)
    momentum, second = torch.zeros(()), torch.tensor(0.01**2, dtype=torch.float64)

    def step(now: Tensor, ends: list[Tensor], number: int) -> Tensor:
        nonlocal momentum, second
        delta = mean([end - now for end in ends])
        momentum = 0.8 * momentum + 0.2 * delta
        second = second - 0.1 * delta**2 * torch.sign(second - delta**2)
        return now + 0.05 * momentum / (second.sqrt() + 0.01)

    assert_close(ours(problem, given), Plain(problem, given).run(step), rtol=0, atol=1e-12)


@pytest.mark.parametrize("q", [0.0, 0.5, 2.0])
def test_qfedavg_is_algorithm_2(q: float) -> None:
    problem, given = make_problem(), training({"name": "qfedavg", "q": q})
    plain, steepness = Plain(problem, given), 1 / RATE

    def step(now: Tensor, ends: list[Tensor], number: int) -> Tensor:
        top, bottom = torch.zeros_like(now), torch.zeros(())
        for domain, end in zip(problem.domains, ends, strict=True):
            risk, move = plain.loss(now, domain.train), steepness * (now - end)
            top = top + risk**q * move
            bottom = bottom + q * risk ** (q - 1) * move.square().sum() + steepness * risk**q
        return now - top / bottom

    assert_close(ours(problem, given), plain.run(step), rtol=0, atol=1e-11)
    if q == 0:
        assert_close(ours(problem, given), ours(problem, training("fedavg")), rtol=0, atol=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_fedgma_masks_what_the_clients_do_not_agree_on(threshold: float) -> None:
    problem, given = make_problem(), training({"name": "fedgma", "threshold": threshold}, learning_rate=0.9)

    def step(now: Tensor, ends: list[Tensor], number: int) -> Tensor:
        moves = [end - now for end in ends]
        agreement = mean([move.sign() for move in moves]).abs()
        mask = torch.where(agreement >= threshold - 1e-9, torch.ones_like(agreement), agreement)
        return now + 0.9 * mask * mean(moves)

    assert_close(ours(problem, given), Plain(problem, given).run(step), rtol=0, atol=1e-12)
    if threshold == 0:
        assert_close(ours(problem, given), ours(problem, training("fedavg", learning_rate=0.9)), rtol=0, atol=1e-12)


def test_feddg_ga_moves_the_weights_by_the_gaps() -> None:
    problem, given = make_problem(), training({"name": "feddg_ga", "step": 0.5})
    plain, count = Plain(problem, given), len(problem.domains)
    weights, last = [1 / count] * count, []

    def step(now: Tensor, ends: list[Tensor], number: int) -> Tensor:
        nonlocal weights, last
        parts = [domain.train for domain in problem.domains]
        if last:  # the gap of the global model that was made of these
            gaps = [float(plain.loss(now, part) - plain.loss(end, part)) for part, end in zip(parts, last, strict=True)]
            largest, size = max(map(abs, gaps)), 0.5 * (1 - (number - 1) / ROUNDS)
            pairs = zip(weights, gaps, strict=True)
            weights = [min(1, max(0, weight + gap / largest * size / count)) for weight, gap in pairs]
            weights = [weight / sum(weights) for weight in weights]
        last = ends
        return torch.stack([weight * end for weight, end in zip(weights, ends, strict=True)]).sum(0)

    assert_close(ours(problem, given), plain.run(step), rtol=0, atol=1e-11)
    assert max(weights) > 0.42  # they have moved


def test_afl_projects_the_domains_weights_onto_the_simplex() -> None:
    rule, state = agnostic(0.4), {}
    assert rule.weigh is not None
    expected = torch.full((3,), 1 / 3, dtype=torch.float64)
    for risks in ([0.9, 0.1, 0.2], [2.0, 0.5, 0.1], [0.1, 3.0, 0.2]):
        moved = expected + 0.4 * torch.tensor(risks, dtype=torch.float64)
        expected = nearest_on_simplex(moved)
        cohort = Cohort(
            {0: 0.5, 1: 0.25, 2: 0.25}, {0: "a", 1: "b", 2: "c"}, dict(enumerate(risks)), {0: 4, 1: 4, 2: 4}
        )
        weights, state = rule.weigh(state, cohort)
        assert_close(torch.tensor([weights[one] for one in range(3)], dtype=torch.float64), expected, rtol=0, atol=1e-9)
    assert float(expected.min()) == 0


def nearest_on_simplex(point: Tensor) -> Tensor:
    """By bisection on how far all are lowered."""
    low, high = float(point.min()) - 1, float(point.max())
    for _ in range(100):
        level = (low + high) / 2
        low, high = (level, high) if (point - level).clamp(min=0).sum() > 1 else (low, level)
    return (point - high).clamp(min=0)


def test_afl_is_a_recipe_of_both_modes() -> None:
    for given in (TrainingConfig(rounds=3, optimizer="sgd", learning_rate=0.1), training("fedavg")):
        problem = make_problem()
        server = problem.server(RECIPES["afl"], given)
        for number in range(1, 4):
            run_round(server, problem.clients(), number)
        found = {name: float(value) for name, value in server.states["afl"].items()}
        assert sum(found.values()) == pytest.approx(1)
        assert max(found.values()) > 1 / 3


# --- what they do not go with ---

BASE: dict[str, Any] = {"recipe": "erm", "training": {"mode": "local", "rounds": 2}}


def config(optimizer: Any, **sections: Any) -> None:
    parse({**BASE, "training": {**BASE["training"], "optimizer": optimizer}, **sections})


@pytest.mark.parametrize("name", ["fedprox", "qfedavg", "fedgma", "feddg_ga"])
def test_protection_is_refused_by_name_before_the_first_round(name: str) -> None:
    for protect in ("examples", "clients"):
        with pytest.raises(FedhaError, match=f"'{name}', whose clients answer more than their update"):
            config(name, privacy={"protect": protect, "noise_multiplier": 1.0})
        with pytest.raises(FedhaError, match=name):
            Task(RECIPES["erm"], training(name), SEED, PrivacyConfig(protect=protect, noise_multiplier=1.0))


def test_a_rule_that_weighs_each_client_is_refused_with_secure_sums() -> None:
    with pytest.raises(FedhaError, match="'feddg_ga' weighs clients by their own numbers"):
        config("feddg_ga", privacy={"secure_aggregation": True})
    for name in ("fedprox", "fedyogi", "qfedavg", "fedgma"):
        config(name, privacy={"secure_aggregation": True})


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        ({"name": "fedprox", "my": 0.1}, r"'fedprox' takes no my; only mu; did you mean 'mu'\?|'fedprox' takes no my"),
        ({"name": "fedprox", "mu": -1}, "mu is -1"),
        ({"name": "fedgma", "threshold": 2}, "threshold is 2"),
        ({"name": "fedyogi", "tau": 0}, "tau is 0"),
        ({"name": "fedavg", "mu": 1}, "'fedavg' takes no mu; leave it out"),
        ({"name": "qfedavg", "q": "much"}, "q is 'much'"),
    ],
)
def test_what_an_option_is_not_is_said_by_name(optimizer: dict[str, Any], said: str) -> None:
    with pytest.raises(FedhaError, match=said):
        config(optimizer)


def test_rules_that_do_not_go_by_the_rate_take_several() -> None:
    for name in ("fedgma", "feddg_ga", "fedprox"):
        Task(RECIPES["erm"], training(name, rates={"head": 0.5}), SEED)
    with pytest.raises(FedhaError, match="'qfedavg', whose clients answer what their steps at one rate"):
        Task(RECIPES["erm"], training("qfedavg", rates={"head": 0.5}), SEED)
